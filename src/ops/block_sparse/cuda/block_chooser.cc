#include "ops/block_sparse/cuda/block_chooser.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <exception>

#include "base/check.h"

namespace rarefy::gpu {
namespace {

constexpr std::size_t kTimed = 6;  // Of the best estimates, which err by a factor of two.

std::string kind_of(const BlockProblem& p) {
  constexpr double kDensities = 32;
  return fmt::format("{} {}x{} {}x{} {} d{} n{} a{} b{} r{}", to_string(p.product), p.rows, p.cols,
                     p.block_rows, p.block_cols, to_string(p.dtype),
                     std::lround(p.density * kDensities), token_bucket(p.tokens),
                     static_cast<int>(p.activation), p.bias, p.residual);
}

}  // namespace

std::int64_t token_bucket(std::int64_t tokens) {
  constexpr std::uint64_t kLeast = 16;
  return static_cast<std::int64_t>(
      std::bit_ceil(std::max(kLeast, static_cast<std::uint64_t>(tokens))));
}

std::vector<BlockConfig> block_candidates(const BlockProblem& problem,
                                          const cuda::DeviceFacts& device) {
  const std::vector<BlockConfig> all = block_configs(problem, device);
  std::vector<BlockConfig> found;
  for (const BlockConfig& config : all) {
    const bool new_way = std::ranges::none_of(
        found, [&](const BlockConfig& other) { return other.way == config.way; });
    if (found.size() < kTimed || new_way) found.push_back(config);
  }
  return found;
}

BlockChoice BlockChooser::choose(const BlockProblem& problem, const cuda::DeviceFacts& device,
                                 const Timer& timer) {
  const std::string kind = kind_of(problem);
  const auto known = known_.find(kind);
  if (known != known_.end() && (known->second.measured || !timer)) return known->second;
  BlockChoice best;
  if (timer) {
    std::exception_ptr last;
    for (const BlockConfig& config : block_candidates(problem, device)) {
      try {
        const double us = timer(config);
        if (!best.measured || us < best.time_us) best = {config, us, true};
      } catch (const Error&) {
        last = std::current_exception();  // Does not compile, or does not fit: another one will.
      }
    }
    if (!best.measured) std::rethrow_exception(last);
  } else {
    best.config = block_configs(problem, device).front();
    best.time_us = best.config.estimate_us(problem, device);
  }
  return known_.insert_or_assign(kind, best).first->second;
}

}  // namespace rarefy::gpu
