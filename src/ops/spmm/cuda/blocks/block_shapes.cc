#include "ops/spmm/cuda/blocks/block_shapes.h"

#include <fmt/format.h>

#include <algorithm>

namespace rarefy::gpu {
namespace {

/// Fewer tokens fill a fourth of the smallest tile.
constexpr std::int64_t kFewestTokens = 16;

}  // namespace

Support supports_blocks(const Problem& problem, const cuda::DeviceFacts& device) {
  if (problem.weight != problem.activations || problem.weight != problem.output ||
      size_of(problem.weight) != 2)
    return Support::no(fmt::format(
        "expected f16 or bf16 for weight, activations and "
        "results alike, got {}, {} and {}",
        to_string(problem.weight), to_string(problem.activations), to_string(problem.output)));
  if (problem.layout != Layout::kTokenMajor)
    return Support::no("expected activations token after token");
  if (problem.n < kFewestTokens)
    return Support::no(
        fmt::format("expected at least {} tokens, got {}", kFewestTokens, problem.n));
  if (device.major < 8)
    return Support::no(
        fmt::format("expected compute capability 8.0, found {}.{}", device.major, device.minor));
  return Support::yes();
}

BlockProblem block_problem(const Problem& problem, int block_rows, int block_cols, double stored) {
  return {.rows = problem.m,
          .cols = problem.k,
          .block_rows = block_rows,
          .block_cols = block_cols,
          .density = stored,
          .tokens = problem.n,
          .dtype = problem.weight,
          .activation = problem.activation,
          .bias = problem.bias,
          .residual = problem.residual};
}

std::vector<BlockShape> shapes_worth_storing(const Problem& problem, const PatternStats& pattern) {
  // Beyond, a dense product is faster; smaller blocks pay when they leave out a good part more.
  constexpr double kMostStored = 0.7, kWorthSmaller = 0.9;
  constexpr int kShapes[][2] = {{128, 128}, {128, 64}, {64, 128}, {64, 64}, {64, 32},
                                {32, 64},   {32, 32},  {16, 32},  {16, 16}};
  std::vector<BlockShape> found;
  for (const auto& [rows, cols] : kShapes) {
    if (problem.m % rows != 0 || problem.k % cols != 0) continue;
    const double stored = pattern.block_share(rows, cols);
    const bool pays = std::ranges::all_of(
        found, [&](const BlockShape& larger) { return stored <= kWorthSmaller * larger.stored; });
    if (stored <= kMostStored && pays) found.push_back({rows, cols, stored});
  }
  return found;
}

}  // namespace rarefy::gpu
