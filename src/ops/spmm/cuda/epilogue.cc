#include "ops/spmm/cuda/epilogue.h"

#include <fmt/format.h>

namespace rarefy::gpu {

std::vector<std::string> epilogue_defines(const Problem& problem) {
  return {fmt::format("TOKEN_MAJOR={}", problem.layout == Layout::kTokenMajor),
          fmt::format("ACTIVATION={}", static_cast<int>(problem.activation)),
          fmt::format("HAS_BIAS={}", problem.bias),
          fmt::format("HAS_RESIDUAL={}", problem.residual)};
}

std::string epilogue_name(const Problem& problem) {
  constexpr const char* kActivations[] = {"", ".relu", ".gelu", ".silu"};
  std::string name = problem.layout == Layout::kFeatureMajor ? ".features" : "";
  name += kActivations[static_cast<int>(problem.activation)];
  if (problem.bias) name += ".bias";
  if (problem.residual) name += ".residual";
  return name;
}

}  // namespace rarefy::gpu
