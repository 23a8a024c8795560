// Learned corrections of estimates; no GPU needed.
#include "ops/spmm/cuda/family_scales.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "io/temporary_directory.h"
#include "rarefy/error.h"

namespace rarefy::gpu {
namespace {

Problem problem_of(std::int64_t n, DType weight = DType::kF16) {
  return {.m = 4096, .k = 4096, .n = n, .weight = weight};
}

TEST(FamilyScales, AreOneWhereNothingIsKnown) {
  FamilyScales scales;
  EXPECT_EQ(scales.of("composed.csr16.g8", problem_of(1)), 1);
  scales.learn("composed.csr16.g8", problem_of(1), 1.5);
  EXPECT_EQ(scales.of("sliced.n8", problem_of(1)), 1);
  EXPECT_EQ(scales.of("composed.csr16.g8", problem_of(1, DType::kF32)), 1);
}

TEST(FamilyScales, AreTheMedianOfTheNewestAtTheNearestTokens) {
  FamilyScales scales;
  for (const double ratio : {2.0, 1.2, 1.4}) scales.learn("gather.n8", problem_of(8), ratio);
  scales.learn("gather.n8", problem_of(4096), 0.5);
  EXPECT_EQ(scales.of("gather.n16", problem_of(16)), 1.4);
  EXPECT_EQ(scales.of("gather.n16", problem_of(1024)), 0.5);
  EXPECT_EQ(scales.of("gather.n16", problem_of(128)), 1) << "too far from either";
  for (int i = 0; i < 9; ++i) scales.learn("gather.n8", problem_of(7), 3);  // 5 to 8 are alike.
  EXPECT_EQ(scales.of("gather.n8", problem_of(8)), 3);
}

TEST(FamilyScales, KnowWhatIsModelledApart) {
  EXPECT_EQ(family_of("composed.csr16.g8.v4"), "composed");
  EXPECT_EQ(family_of("decode.lane.s7.n8"), "decode.lane");
  EXPECT_EQ(family_of("decode.wide.s2.n64"), "decode.wide");
  EXPECT_EQ(family_of("hybrid.from64.forward.features.64x64.bf16.gather.n8.w16"), "hybrid.gather");
  EXPECT_EQ(family_of("dense"), "dense");
}

TEST(FamilyScales, ForgetWhatCannotBe) {
  FamilyScales scales;
  for (const double ratio : {0.0, -1.0, 1e9}) scales.learn("sliced.n8", problem_of(1), ratio);
  EXPECT_EQ(scales.of("sliced.n8", problem_of(1)), 1);
}

TEST(FamilyScales, ComeBackFromJson) {
  FamilyScales scales;
  scales.learn("decode.lane.s7", problem_of(1), 0.9);
  scales.learn("sliced.n8", problem_of(64, DType::kF32), 1.1);
  const FamilyScales back = FamilyScales::from_json(scales.to_json());
  EXPECT_EQ(back.of("decode.lane.s4", problem_of(1)), 0.9);
  EXPECT_EQ(back.of("sliced.n16", problem_of(64, DType::kF32)), 1.1);
  EXPECT_THROW(FamilyScales::from_json(Json::object()), Error);
  Json wrong = scales.to_json();
  wrong[0]["ratios"] = {-1.0};
  EXPECT_THROW(FamilyScales::from_json(wrong), Error);
}

TEST(FamilyScales, LieInTheCacheFolderOfTheirDevice) {
  const testing::TemporaryDirectory folder;
  setenv("RAREFY_CACHE", folder.path().c_str(), 1);
  cuda::DeviceFacts other = cuda::h100_facts();
  other.name = "another GPU";
  FamilyScales scales;
  scales.learn("sliced.n8", problem_of(64), 1.25);
  write_scales(cuda::h100_facts(), scales);
  EXPECT_EQ(read_scales(cuda::h100_facts()).of("sliced.n8", problem_of(64)), 1.25);
  EXPECT_EQ(read_scales(other).of("sliced.n8", problem_of(64)), 1);
  for (const auto& file : std::filesystem::directory_iterator(folder.path()))
    std::ofstream(file.path()) << "{";
  EXPECT_EQ(read_scales(cuda::h100_facts()).of("sliced.n8", problem_of(64)), 1);
  unsetenv("RAREFY_CACHE");
}

}  // namespace
}  // namespace rarefy::gpu
