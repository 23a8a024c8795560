// The blocks family: a weight whose nonzeros lie in blocks, multiplied on tensor cores without the
// blocks that are empty (ops/block_sparse/cuda).
#include <fmt/format.h>

#include <algorithm>

#include "ops/block_sparse/cuda/block_chooser.h"
#include "ops/spmm/cuda/blocks/block_shapes.h"
#include "ops/spmm/cuda/blocks/blocks_operator.h"
#include "ops/spmm/cuda/families.h"

namespace rarefy::gpu {
namespace {

/// Fewer tokens fill a fourth of the smallest tile.
constexpr std::int64_t kFewestTokens = 16;

class BlocksFamily final : public Family {
 public:
  [[nodiscard]] std::string_view name() const override { return "blocks"; }

  [[nodiscard]] Support supports(const Problem& problem,
                                 const cuda::DeviceFacts& device) const override {
    return supports_blocks(problem, device);
  }

  [[nodiscard]] std::vector<Candidate> candidates(const Problem& problem,
                                                  const PatternStats& pattern,
                                                  const cuda::DeviceFacts& device) const override {
    std::vector<Candidate> found;
    for (const BlockShape& shape : shapes_worth_storing(problem, pattern)) {
      const BlockProblem blocks = block_problem(problem, shape.rows, shape.cols, shape.stored);
      if (!gpu::supports(blocks, device)) continue;
      for (const BlockConfig& config : block_candidates(blocks, device))
        found.push_back(
            {.name = "blocks." + config.name(blocks),
             .estimate_us = config.estimate_us(blocks, device),
             .source = config.source(blocks),
             .build = [blocks, config](const Weight& weight, const cuda::Stream& stream) {
               return std::make_unique<BlocksOperator>(
                   blocks, config, cut_blocks(*weight.source, blocks.block_rows, blocks.block_cols),
                   stream);
             }});
    }
    return found;
  }

  /// Kernels of products are compiled by the tests of block-sparse products.
  [[nodiscard]] std::vector<cuda::Source> all_sources() const override {
    return {expand_blocks_source(64, 64), expand_blocks_source(16, 32)};
  }
};

}  // namespace

Support supports_blocks(const Problem& problem, const cuda::DeviceFacts& device) {
  if (problem.weight != problem.activations || problem.weight != problem.output ||
      size_of(problem.weight) != 2)
    return Support::no(fmt::format(
        "blocks: expected f16 or bf16 for weight, activations and "
        "results alike, got {}, {} and {}",
        to_string(problem.weight), to_string(problem.activations), to_string(problem.output)));
  if (problem.layout != Layout::kTokenMajor)
    return Support::no("blocks: expected activations token after token");
  if (problem.n < kFewestTokens)
    return Support::no(
        fmt::format("blocks: expected at least {} tokens, got {}", kFewestTokens, problem.n));
  if (device.major < 8) return Support::no("needs compute capability 8.0");
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

const Family& blocks_family() {
  static const BlocksFamily family;
  return family;
}

}  // namespace rarefy::gpu
