// Which kernel a block-sparse product gets: what is timed, what is remembered, what is passed over.
#include "ops/block_sparse/cuda/block_chooser.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/check.h"

namespace rarefy::gpu {
namespace {

const cuda::DeviceFacts kH100 = cuda::h100_facts();
const BlockProblem kProblem{.rows = 11008, .cols = 4096};

TEST(BlockChooser, CandidatesAreTheBestEstimatesAndEveryWay) {
  for (const BlockProduct product :
       {BlockProduct::kForward, BlockProduct::kTransposed, BlockProduct::kSamples})
    for (const int block : {16, 32, 64, 128}) {
      BlockProblem problem = kProblem;
      problem.product = product;
      problem.block_rows = problem.block_cols = block;
      const std::vector<BlockConfig> all = block_configs(problem, kH100);
      const std::vector<BlockConfig> found = block_candidates(problem, kH100);
      std::set<BlockWay> ways, found_ways;
      for (const BlockConfig& config : all) ways.insert(config.way);
      for (const BlockConfig& config : found) found_ways.insert(config.way);
      EXPECT_EQ(ways, found_ways);
      ASSERT_LE(found.size(), 8U);
      for (std::size_t i = 0; i < std::min<std::size_t>(6, all.size()); ++i)
        EXPECT_EQ(found[i].name(problem), all[i].name(problem));
    }
}

TEST(BlockChooser, TokensShareBuckets) {
  EXPECT_EQ(token_bucket(0), 16);
  EXPECT_EQ(token_bucket(16), 16);
  EXPECT_EQ(token_bucket(17), 32);
  EXPECT_EQ(token_bucket(4096), 4096);
  EXPECT_EQ(token_bucket((std::int64_t{1} << 31) - 1), std::int64_t{1} << 31);
}

TEST(BlockChooser, TheFastestIsMeasuredOnceForAKind) {
  BlockChooser chooser;
  const BlockChoice estimated = chooser.choose(kProblem, kH100, {});
  EXPECT_FALSE(estimated.measured);
  EXPECT_EQ(estimated.config.name(kProblem), block_configs(kProblem, kH100).front().name(kProblem));
  EXPECT_GT(estimated.time_us, 0);

  const std::vector<BlockConfig> candidates = block_candidates(kProblem, kH100);
  const std::string third = candidates[2].name(kProblem);
  int timed = 0;
  const BlockChooser::Timer timer = [&](const BlockConfig& config) {
    ++timed;
    return config.name(kProblem) == third ? 10.0 : 20.0 + timed;
  };
  const BlockChoice first = chooser.choose(kProblem, kH100, timer);
  EXPECT_EQ(first.config.name(kProblem), third);
  EXPECT_TRUE(first.measured);
  EXPECT_EQ(first.time_us, 10);
  EXPECT_EQ(timed, std::ssize(candidates));

  BlockProblem alike = kProblem;  // Another pattern, a few tokens fewer.
  alike.density = 0.2501;
  alike.tokens = 4000;
  EXPECT_EQ(chooser.choose(alike, kH100, timer).time_us, 10);
  EXPECT_TRUE(chooser.choose(alike, kH100, {}).measured);
  EXPECT_EQ(timed, std::ssize(candidates));
  for (const auto change :
       {+[](BlockProblem& p) { p.density = 0.5; }, +[](BlockProblem& p) { p.tokens = 2048; },
        +[](BlockProblem& p) { p.dtype = DType::kF16; }, +[](BlockProblem& p) { p.bias = true; },
        +[](BlockProblem& p) { p.rows *= 2; },
        +[](BlockProblem& p) { p.product = BlockProduct::kTransposed; }}) {
    BlockProblem other = kProblem;
    change(other);
    const int before = timed;
    chooser.choose(other, kH100, timer);
    EXPECT_GT(timed, before);
  }
}

TEST(BlockChooser, WhatDoesNotRunIsPassedOver) {
  BlockChooser chooser;
  const std::string last = block_candidates(kProblem, kH100).back().name(kProblem);
  const BlockChoice choice = chooser.choose(kProblem, kH100, [&](const BlockConfig& config) {
    if (config.name(kProblem) != last) fail(ErrorKind::kUnsupported, "does not compile");
    return 1.0;
  });
  EXPECT_EQ(choice.config.name(kProblem), last);
  BlockProblem other = kProblem;
  other.rows = 4096;
  EXPECT_THROW(chooser.choose(other, kH100,
                              [](const BlockConfig&) -> double {
                                fail(ErrorKind::kUnsupported, "does not compile");
                              }),
               Error);
  other.block_rows = other.block_cols = 8;
  EXPECT_THROW(chooser.choose(other, kH100, {}), Error);
}

}  // namespace
}  // namespace rarefy::gpu
