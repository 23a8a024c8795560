// What this CPU can do, and which kernels may be used.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace rarefy {

/// Instruction-set levels that kernels are written for; each contains the ones before it.
enum class Isa {
  kPortable,  ///< What the compiler's baseline gives.
  kAvx2,      ///< AVX2 + FMA + F16C.
  kAvx512,    ///< AVX-512 F/BW/VL/DQ + VBMI + VBMI2 + BF16.
  kAmx,       ///< kAvx512 + AMX-TILE + AMX-BF16, with the tile state granted by the kernel.
};

const char* to_string(Isa isa);  ///< "portable", "avx2", "avx512", "amx"
std::optional<Isa> parse_isa(std::string_view name);

struct CpuInfo {
  std::string brand;    ///< As the CPU calls itself.
  bool avx2 = false;    ///< AVX2 + FMA + F16C, and the OS saves YMM.
  bool avx512 = false;  ///< AVX-512 F/BW/VL/DQ/VBMI/VBMI2 + BF16, and the OS saves ZMM.
  bool amx = false;     ///< AMX-TILE + AMX-BF16, and the OS granted the tile state to this process.
  bool avx512_fp16 = false;
  int cores = 1;                                   ///< CPUs this process may run on.
  long l1d_bytes = 0, l2_bytes = 0, l3_bytes = 0;  ///< 0 where unknown.
};

/// Detected once; asks the OS for the AMX tile state as a side effect.
const CpuInfo& cpu_info();

/// The best level of this CPU, lowered by the environment variable
/// RAREFY_ISA=portable|avx2|avx512|amx. A value that is not one of these, or a level that the CPU
/// lacks, throws `Error` at the first call.
Isa active_isa();

/// For tests: overrides `active_isa()` until called with nullopt. Throws when the CPU lacks the
/// level.
void force_isa(std::optional<Isa> isa);

}  // namespace rarefy
