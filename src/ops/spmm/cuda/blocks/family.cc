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

const Family& blocks_family() {
  static const BlocksFamily family;
  return family;
}

}  // namespace rarefy::gpu
