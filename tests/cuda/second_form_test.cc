// Which second form a weight gets, and from how many tokens on: figures, no GPU.
#include "ops/spmm/cuda/second_form.h"

#include <gtest/gtest.h>

#include <limits>

namespace rarefy::gpu {
namespace {

using Forms = std::vector<SecondForm>;

constexpr FormCost kDenseCost{.bytes = 100, .us = 10};

TEST(SecondForm, DenseWhereBothFit) {
  const auto of = [](std::size_t few_bytes, double weight_memory) {
    return second_forms(few_bytes, kDenseCost, {}, weight_memory);
  };
  EXPECT_EQ(of(40, 0.75), Forms{});
  EXPECT_EQ(of(40, 1.39), Forms{});
  EXPECT_EQ(of(40, 1.41), Forms{SecondForm::kDense});
  EXPECT_EQ(of(60, 1.5), Forms{});
  // As much as it is: no packed weight is so small that the default holds a dense one as well.
  EXPECT_EQ(of(0, 0.75), Forms{});
  EXPECT_EQ(of(0, 0), Forms{});
}

TEST(SecondForm, BlocksWhereTheyPay) {
  const auto of = [](FormCost blocks, double weight_memory) {
    const FormCost all[] = {{.bytes = 99, .us = 9.9}, blocks};
    return second_forms(40, kDenseCost, all, weight_memory);
  };
  EXPECT_EQ(of({.bytes = 25, .us = 4}, 0.75), Forms{SecondForm::kBlocks});
  EXPECT_EQ(of({.bytes = 25, .us = 4}, 0.6), Forms{});
  EXPECT_EQ(of({.bytes = 25, .us = 8.1}, 0.75), Forms{}) << "hardly faster than dense";
  EXPECT_EQ(of({.bytes = 25, .us = 8.1}, 1.5), Forms{SecondForm::kDense});
  // Where no kernel of blocks runs, dense is next.
  EXPECT_EQ(of({.bytes = 25, .us = 4}, 1.5), (Forms{SecondForm::kBlocks, SecondForm::kDense}));
}

TEST(SecondForm, RunsFromThePassThatMakesItFaster) {
  const Passes few(8, 1, 5);  // 5 us for every eight tokens.
  EXPECT_EQ(few.us(1), 5);
  EXPECT_EQ(few.us(8), 5);
  EXPECT_EQ(few.us(9), 10);
  EXPECT_EQ(few.starts(32), (std::vector<std::int64_t>{9, 17, 25}));
  const auto from = [&](double other_us) {
    return first_faster(few.starts(2048), few, [&](std::int64_t) { return other_us; });
  };
  EXPECT_EQ(from(1), 9) << "what the kernel was chosen for is its own";
  EXPECT_EQ(from(12), 17);
  EXPECT_EQ(from(15), 25) << "no faster than three passes";
  EXPECT_EQ(from(1280), std::nullopt);
  EXPECT_EQ(from(std::numeric_limits<double>::infinity()), std::nullopt);
}

TEST(SecondForm, DenseWaitsForItsWeightOrMultiplies) {
  const auto us = [](std::int64_t n) { return roofline_us(n, 40, 2048, 320); };
  EXPECT_EQ(us(9), 40);
  EXPECT_EQ(us(256), 40);
  EXPECT_EQ(us(1024), 160);
  EXPECT_EQ(us(2048), 320);
}

TEST(SecondForm, PassesOfWhatWasMeasuredWithSeveral) {
  const Passes few(8, 20, 15);  // Three passes.
  EXPECT_EQ(few.us(8), 5);
  EXPECT_EQ(few.starts(40), (std::vector<std::int64_t>{25, 33}));
  const Passes any(std::int64_t{1} << 30, 4, 15);
  EXPECT_TRUE(any.starts(2048).empty());
}

}  // namespace
}  // namespace rarefy::gpu
