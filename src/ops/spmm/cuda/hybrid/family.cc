// The hybrid family: the blocks of a weight that are worth it on tensor cores, its other nonzeros
// one by one, and both added (after CROSS, HPCA 2025).
//
// One kernel follows the other: C = blocks·B + residual, then C = rest·B + bias + C. The sum in
// between is rounded to C's dtype, once more than by other families.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <optional>
#include <tuple>

#include "ops/spmm/cuda/blocks/block_shapes.h"
#include "ops/spmm/cuda/blocks/blocks_operator.h"
#include "ops/spmm/cuda/device_calibration.h"
#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/hybrid/split_costs.h"
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

/// The best estimate of a family for the rest, if it takes it.
std::optional<Candidate> rest_candidate(const Family& family, const Problem& problem,
                                        const PatternStats& pattern,
                                        const cuda::DeviceFacts& device) {
  if (!family.supports(problem, device)) return std::nullopt;
  std::vector<Candidate> all = family.candidates(problem, pattern, device);
  const auto best = std::ranges::min_element(all, {}, &Candidate::estimate_us);
  if (best == all.end()) return std::nullopt;
  return std::move(*best);
}

/// Blocks with at least `fewest` nonzeros by `config`, all others by `rest`.
Candidate candidate(const BlockProblem& blocks, const BlockConfig& config, int fewest,
                    const Candidate& rest, double estimate_us) {
  return {
      .name = fmt::format("hybrid.from{}.{}.{}", fewest, config.name(blocks), rest.name),
      .estimate_us = estimate_us,
      .source = config.source(blocks),  // The other kernel is compiled by `build`.
      .build = [blocks, config, fewest, rest](
                   const Weight& weight, const cuda::Stream& stream) -> std::unique_ptr<Operator> {
        const CutBlocks cut =
            cut_blocks(*weight.source, blocks.block_rows, blocks.block_cols, fewest);
        const RestOfBlocks source(*weight.source, cut);
        const PatternStats pattern = pattern_stats(source);
        const Weight left{&source, &pattern, pack(source, format::kCsr32)};
        return std::make_unique<HybridOperator>(
            std::make_unique<BlocksOperator>(blocks, config, cut, stream),
            rest.build(left, stream));
      }};
}

/// Candidates by the family that runs the rest.
using ByRest = std::array<std::vector<Candidate>, 3>;

/// Adds the best kernels for both sides of a split. The calibration says what the best of a side
/// takes, kernels' own estimates how the others compare with it.
void add_candidates(const Problem& problem, const Split& split, const BlockCalibration& calibration,
                    const BlockCurve& curve, const cuda::DeviceFacts& device, ByRest& found) {
  const Sides sides = sides_of(problem, split);
  if (!supports(sides.blocks, device)) return;
  std::vector<BlockConfig> configs = block_configs(sides.blocks, device);
  constexpr std::size_t kMost = 2;
  configs.resize(std::min(kMost, configs.size()));
  const Family* const families[] = {&sliced_family(), &gather_family(), &composed_family()};
  std::array<std::optional<Candidate>, std::tuple_size_v<ByRest>> rests;
  double best_rest_us = std::numeric_limits<double>::infinity();
  for (std::size_t f = 0; f < rests.size(); ++f) {
    rests[f] = rest_candidate(*families[f], sides.rest, split.rest, device);
    if (rests[f]) best_rest_us = std::min(best_rest_us, rests[f]->estimate_us);
  }
  const SplitCosts costs = costs_of(split, problem, calibration, curve);
  for (std::size_t f = 0; f < rests.size(); ++f) {
    for (const BlockConfig& config : configs) {
      if (!rests[f]) continue;
      const double blocks_us = costs.blocks_us * config.estimate_us(sides.blocks, device) /
                               configs.front().estimate_us(sides.blocks, device);
      const double rest_us = costs.rest_us * rests[f]->estimate_us / best_rest_us;
      found[f].push_back(
          candidate(sides.blocks, config, split.fewest, *rests[f], blocks_us + rest_us));
    }
  }
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
    const BlockCalibration calibration = calibration_or_ordinary(device, problem.weight);
    const BlockCurve* curve = calibration.curve(problem.weight, problem.n);
    if (curve == nullptr) return best;
    const auto crossing = [&](int side) { return crossing_of(calibration, *curve, side); };
    ByRest found;
    for (const Split& split : splits_of(pattern, crossing))
      add_candidates(problem, split, calibration, *curve, device, found);
    constexpr std::size_t kMost = 4;  // Neighbouring limits are alike.
    for (std::vector<Candidate>& with : found) {
      std::ranges::stable_sort(with, {}, &Candidate::estimate_us);
      with.resize(std::min(kMost, with.size()));
      std::ranges::move(with, std::back_inserter(best));
    }
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
