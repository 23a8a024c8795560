// The hybrid family: the blocks of a weight that are worth it on tensor cores, its other nonzeros
// one by one, and both added (after CROSS, HPCA 2025).
//
// One kernel follows the other: C = blocks·B + residual, then C = rest·B + bias + C. The sum in
// between is rounded to C's dtype, once more than by other families.
#include <fmt/format.h>

#include <algorithm>

#include "ops/spmm/cuda/blocks/block_shapes.h"
#include "ops/spmm/cuda/blocks/blocks_operator.h"
#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/hybrid/splits.h"

namespace rarefy::gpu {
namespace {

/// With fewer tokens weights are bound by memory, and one kernel reads them faster than two.
constexpr std::int64_t kFewestTokens = 128;

class HybridOperator final : public Operator {
 public:
  HybridOperator(std::unique_ptr<BlocksOperator> blocks, std::unique_ptr<Operator> rest)
      : blocks_(std::move(blocks)), rest_(std::move(rest)) {}

  void enqueue(const cuda::Stream& stream, const Operands& o) const override {
    Operands first = o;
    first.bias = 0;
    blocks_->enqueue(stream, first);
    Operands second = o;
    second.residual = o.c;
    second.residual_stride = o.c_stride;
    rest_->enqueue(stream, second);
  }

  [[nodiscard]] std::size_t bytes() const override { return blocks_->bytes() + rest_->bytes(); }
  [[nodiscard]] std::int64_t tokens_a_pass() const override { return rest_->tokens_a_pass(); }
  [[nodiscard]] bool expands() const override { return rest_->expands(); }
  void expand(const cuda::Stream& stream, cuda::abi::CUdeviceptr dense) const override {
    rest_->expand(stream, dense);
    blocks_->expand_over(stream, dense);
  }
  [[nodiscard]] std::unique_ptr<Operator> copy(const cuda::Stream& stream) const override {
    return std::make_unique<HybridOperator>(std::make_unique<BlocksOperator>(*blocks_, stream),
                                            rest_->copy(stream));
  }

 private:
  std::unique_ptr<BlocksOperator> blocks_;
  std::unique_ptr<Operator> rest_;
};

/// The two sides of a split as problems of their own.
struct Sides {
  BlockProblem blocks;
  Problem rest;
};
Sides sides_of(const Problem& problem, const Split& split) {
  Sides sides{block_problem(problem, split.block_rows, split.block_cols, split.stored), problem};
  sides.blocks.bias = false;
  sides.rest.residual = true;
  return sides;
}

std::vector<Candidate> rest_candidates(const Problem& problem, const PatternStats& pattern,
                                       const cuda::DeviceFacts& device) {
  std::vector<Candidate> all;
  for (const Family* family : {&sliced_family(), &composed_family()}) {
    if (!family->supports(problem, device)) continue;
    for (Candidate& c : family->candidates(problem, pattern, device)) all.push_back(std::move(c));
  }
  constexpr std::size_t kMost = 3;
  const std::size_t most = std::min(kMost, all.size());
  std::ranges::partial_sort(all, all.begin() + static_cast<std::ptrdiff_t>(most), {},
                            &Candidate::estimate_us);
  all.resize(most);
  return all;
}

/// The best kernels for both sides of a split, each with each.
std::vector<Candidate> candidates_of(const Problem& problem, const Split& split,
                                     const cuda::DeviceFacts& device) {
  std::vector<Candidate> found;
  const Sides sides = sides_of(problem, split);
  if (!supports(sides.blocks, device)) return found;
  std::vector<BlockConfig> configs = block_configs(sides.blocks, device);
  constexpr std::size_t kMost = 2;
  configs.resize(std::min(kMost, configs.size()));
  for (const Candidate& rest : rest_candidates(sides.rest, split.rest, device)) {
    for (const BlockConfig& config : configs) {
      found.push_back(
          {.name = fmt::format("hybrid.from{}.{}.{}", split.fewest, config.name(sides.blocks),
                               rest.name),
           .estimate_us = config.estimate_us(sides.blocks, device) + rest.estimate_us,
           .source = config.source(sides.blocks),  // The other kernel is compiled by `build`.
           .build = [blocks = sides.blocks, config, fewest = split.fewest, rest](
                        const Weight& weight,
                        const cuda::Stream& stream) -> std::unique_ptr<Operator> {
             const CutBlocks cut =
                 cut_blocks(*weight.source, blocks.block_rows, blocks.block_cols, fewest);
             const RestOfBlocks source(*weight.source, cut);
             const PatternStats pattern = pattern_stats(source);
             const Weight left{&source, &pattern, pack(source, format::kCsr32)};
             return std::make_unique<HybridOperator>(
                 std::make_unique<BlocksOperator>(blocks, config, cut, stream),
                 rest.build(left, stream));
           }});
    }
  }
  return found;
}

class HybridFamily final : public Family {
 public:
  [[nodiscard]] std::string_view name() const override { return "hybrid"; }

  [[nodiscard]] Support supports(const Problem& problem,
                                 const cuda::DeviceFacts& device) const override {
    if (problem.n < kFewestTokens)
      return Support::no(
          fmt::format("expected at least {} tokens, got {}", kFewestTokens, problem.n));
    if (problem.activation != Activation::kNone)
      return Support::no("expected no activation: it would be of half a sum");
    return supports_blocks(problem, device);
  }

  [[nodiscard]] std::vector<Candidate> candidates(const Problem& problem,
                                                  const PatternStats& pattern,
                                                  const cuda::DeviceFacts& device) const override {
    std::vector<Candidate> best;
    for (const Split& split : splits_of(pattern)) {
      std::vector<Candidate> found = candidates_of(problem, split, device);
      best.insert(best.end(), std::make_move_iterator(found.begin()),
                  std::make_move_iterator(found.end()));
    }
    constexpr std::size_t kMost = 8;  // Neighbouring limits are alike.
    std::ranges::stable_sort(best, {}, &Candidate::estimate_us);
    best.resize(std::min(kMost, best.size()));
    return best;
  }

  /// Its kernels are those of its sides.
  [[nodiscard]] std::vector<cuda::Source> all_sources() const override { return {}; }
};

}  // namespace

const Family& hybrid_family() {
  static const HybridFamily family;
  return family;
}

}  // namespace rarefy::gpu
