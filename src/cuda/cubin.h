// A compiled kernel image, and what it says about its kernels: read from the file, no GPU needed.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rarefy::cuda {

struct KernelFacts {
  std::string name;
  int registers = 0;       ///< A thread.
  std::size_t shared = 0;  ///< Static shared memory of a block, bytes.
  std::size_t local = 0;   ///< Stack of a thread, bytes: spilled registers and arrays that are
                           ///< indexed at run time. 0 is what a fast kernel has.
  std::size_t code = 0;    ///< Machine code, bytes.
};

/// Kernels of a cubin (a 64-bit ELF for a GPU), in order of name. Throws `Error` (kCorrupt) for
/// anything that is not a well-formed cubin.
std::vector<KernelFacts> read_kernel_facts(std::span<const std::byte> image);

struct Cubin {
  std::vector<std::byte> image;
  std::vector<KernelFacts> kernels;

  Cubin() = default;
  explicit Cubin(std::vector<std::byte> bytes)
      : image(std::move(bytes)), kernels(read_kernel_facts(image)) {}

  /// Throws `Error` (kInternal) when there is none of this name.
  [[nodiscard]] const KernelFacts& kernel(std::string_view name) const;
};

}  // namespace rarefy::cuda
