#include "cuda/arch.h"

#include <charconv>

namespace rarefy::cuda {

std::optional<Arch> Arch::parse(std::string_view name) {
  if (!name.starts_with("sm_")) return std::nullopt;
  name.remove_prefix(3);
  Arch arch;
  arch.specific = name.ends_with('a');
  if (arch.specific) name.remove_suffix(1);
  int number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc() || end != name.data() + name.size() || number < 10) return std::nullopt;
  arch.major = number / 10;
  arch.minor = number % 10;
  return arch;
}

std::string Arch::name() const {
  return "sm_" + std::to_string(number()) + (specific ? "a" : "");
}

}  // namespace rarefy::cuda
