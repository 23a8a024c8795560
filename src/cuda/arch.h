// What GPU a kernel is compiled for.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace rarefy::cuda {

struct Arch {
  int major = 0, minor = 0;
  bool specific = false;  ///< sm_90a: with instructions that only this generation has (wgmma).

  /// The architecture to compile for on a GPU of this compute capability: its specific one from 9.0
  /// on.
  static Arch of(int major, int minor) { return {major, minor, major >= 9}; }
  /// "sm_90a"
  static std::optional<Arch> parse(std::string_view name);
  [[nodiscard]] std::string name() const;
  /// 90: compares generations.
  [[nodiscard]] int number() const { return major * 10 + minor; }

  bool operator==(const Arch&) const = default;
};

/// What kernels are tested for on every machine: Ampere, Hopper, Blackwell.
inline constexpr Arch kTestedArchs[] = {{8, 0, false}, {9, 0, true}, {10, 0, true}};

}  // namespace rarefy::cuda
