// Device code: text → cubin, by NVRTC, without a GPU; kept in a cache on disk.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "cuda/arch.h"
#include "cuda/cubin.h"
#include "cuda/libraries.h"
#include "rarefy/error.h"

namespace rarefy::cuda {

/// What is compiled: a text of ours, and the constants that make an instance of it.
///
/// Kernels are `extern "C" __global__`. Lines `#include "area/file.cuh"` name other device texts of
/// the tree (device_text.h); there are no CUDA headers. The dialect is C++17.
struct Source {
  std::string name;                  ///< For people: "spmm/composed n8 g32 …".
  std::string text;                  ///< `std::string(device_text("ops/spmm/cuda/….cu"))`, or
                                     ///< generated.
  std::vector<std::string> defines;  ///< "N=8"
  std::size_t local_bytes =
      0;                  ///< Of local memory a thread, at most; a test fails otherwise. 16 where
                          ///< registers are full by design: a pair put aside costs nothing there.
  int oldest_arch = 80;   ///< Compiled for no older GPU than this: 90 for kernels that use bulk
                          ///< copies.
  int newest_arch = 999;  ///< And for no newer one: 90 for kernels that use wgmma.
};

/// NVRTC, and what became of looking for it.
struct CompilerState {
  Library library;
  int version = 0;         ///< 13000 for 13.0.
  std::vector<int> archs;  ///< Compute capabilities that it compiles for: 80, 90, …
  std::string error;       ///< Why there is none; empty when there is one.
};

/// Looks for NVRTC, once. Prefers one that is not newer than the driver.
const CompilerState& compiler_state();

/// Whether `arch` can be compiled for here, and if not, why.
Support can_compile(const Arch& arch);

/// The cubin of `source` for `arch`: from the cache, else compiled and put there. Safe from many
/// threads and processes. Throws `Error` (kUnsupported): without NVRTC, for an arch that it does
/// not know, and, with the compiler's first complaint, for a text that does not compile.
Cubin compile(const Source& source, const Arch& arch);

/// Like `compile`, past the cache.
Cubin compile_fresh(const Source& source, const Arch& arch);

/// The text that the compiler sees: `defines` first, then the text with its includes in place, each
/// once, with #line so that complaints name the file. Throws `Error` (kInternal) for an include
/// that is not there.
std::string expand(const Source& source);

}  // namespace rarefy::cuda
