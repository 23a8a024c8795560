#include "ops/spmm/cuda/few_tokens.h"

#include <fmt/format.h>

namespace rarefy::gpu {
namespace {

constexpr std::int64_t kMostTokens = 128;
constexpr std::int64_t kMostRows = std::int64_t{1} << 30;

}  // namespace

Support supports_halves(const Problem& problem, std::int64_t most_columns) {
  if (problem.weight != DType::kF16 && problem.weight != DType::kBF16)
    return Support::no(fmt::format("expected f16 or bf16, got {}", to_string(problem.weight)));
  if (problem.activations != problem.weight)
    return Support::no(fmt::format("expected activations of {}, got {}", to_string(problem.weight),
                                   to_string(problem.activations)));
  if (!is_compute_dtype(problem.output))
    return Support::no(fmt::format("expected f32, f16 or bf16, got {}", to_string(problem.output)));
  if (problem.layout != Layout::kTokenMajor)
    return Support::no("takes activations token after token only");
  if (problem.m <= 0 || problem.k <= 0 || problem.m > kMostRows || problem.k > most_columns)
    return Support::no(fmt::format("expected 1 to {} rows and 1 to {} columns, got {}x{}",
                                   kMostRows, most_columns, problem.m, problem.k));
  return Support::yes();
}

Support supports_few_tokens(const Problem& problem, std::int64_t most_columns) {
  if (problem.n > kMostTokens)
    return Support::no(fmt::format("is for at most {} tokens, got {}", kMostTokens, problem.n));
  return supports_halves(problem, most_columns);
}

}  // namespace rarefy::gpu
