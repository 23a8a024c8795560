#include "planner/search_space.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

#include "fakes.h"

namespace rarefy::planning::testing {
namespace {

bool contains(const std::vector<FormatSpec>& formats, const FormatSpec& format) {
  return std::find(formats.begin(), formats.end(), format) != formats.end();
}

TEST(SearchFormats, DenseIsAlwaysThereAndNothingTwice) {
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const std::vector<FormatSpec> all = search_formats({}, dtype);
    std::set<std::string> names;
    for (const FormatSpec& format : all) EXPECT_TRUE(names.insert(format.name()).second);
    EXPECT_EQ(all.front(), format::kDense);
    EXPECT_TRUE(contains(all, format::dense_tiles(16, dtype == DType::kF32 ? 16 : 32)));
    EXPECT_TRUE(contains(all, format::kBitmap));
    PlanRequest request;
    request.formats = {format::bsr(5, 7)};
    const std::vector<FormatSpec> some = search_formats(request, dtype);
    EXPECT_TRUE(contains(some, format::kDense));
    EXPECT_TRUE(contains(some, format::bsr(5, 7)));
    EXPECT_FALSE(contains(some, format::kBitmap));
  }
}

template <class T>
bool fits(const std::vector<T>& values, std::int64_t cols, DType dtype, int n, int m) {
  const std::int64_t rows = std::ssize(values) / cols;
  return fits_nm(DenseSource({values.data(), dtype, rows, cols, cols}), n, m, default_pool());
}

TEST(FitsNm, LooksAtEveryGroup) {
  EXPECT_TRUE(fits<float>({1, 0, 2, 0, 0, 0, 3, 4}, 8, DType::kF32, 2, 4));
  EXPECT_FALSE(fits<float>({1, 0, 2, 0, 0, 5, 3, 4}, 8, DType::kF32, 2, 4));
  EXPECT_TRUE(fits<float>({1, 0, 2, 0, 0, 5, 3, 4}, 8, DType::kF32, 5, 8));
  EXPECT_FALSE(fits<float>({0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0}, 4, DType::kF32, 2, 4));
}

TEST(FitsNm, NegativeZerosAreZeros) {
  EXPECT_TRUE(fits<float>({1, -0.0F, 2, -0.0F}, 4, DType::kF32, 2, 4));
  const std::vector<std::uint16_t> bf16{0x3F80, 0x8000, 0x3F80, 0x8000};
  EXPECT_TRUE(fits(bf16, 4, DType::kBF16, 2, 4));
  EXPECT_FALSE(fits(bf16, 4, DType::kBF16, 1, 4));
}

TEST(FitsNm, ARaggedLastGroup) {
  EXPECT_TRUE(fits<float>({1, 1, 0, 0, 1, 1}, 6, DType::kF32, 2, 4));
  EXPECT_FALSE(fits<float>({1, 1, 0, 0, 1, 1, 1}, 7, DType::kF32, 2, 4));
}

TEST(FitsNm, ManyRowsOnAllThreads) {
  std::vector<float> values(1000 * 8, 0.0F);
  for (std::size_t i = 0; i < values.size(); i += 2) values[i] = 1;
  EXPECT_TRUE(fits(values, 8, DType::kF32, 2, 4));
  values[999 * 8 + 1] = 1;
  EXPECT_FALSE(fits(values, 8, DType::kF32, 2, 4));
}

TEST(FittingNm, FindsAllThatHold) {
  const HalfOnes weight;  // 1 0 1 0 …
  const auto fitting = fitting_nm(weight, pattern_stats(weight), default_pool());
  EXPECT_TRUE(contains(fitting, format::nm(2, 4)));
  EXPECT_TRUE(contains(fitting, format::nm(4, 8)));
  EXPECT_FALSE(contains(fitting, format::nm(1, 4)));
}

TEST(EnumerateCandidates, EveryRejectionHasItsReason) {
  const HalfOnes weight(64, 70'000);  // Too wide for 16-bit columns.
  PatternStats pattern = pattern_stats(weight);
  PlanRequest request;
  request.workloads = {{1, 1.0}, {16, 0.5}, {1, 0.5}};
  const auto entries =
      enumerate_candidates(weight, pattern, {}, request, spmm_kernels(), kCeilings, 1);
  bool csr16 = false;
  bool nm = false;
  std::set<std::tuple<std::string, std::string, std::int64_t>> seen;
  for (const Entry& entry : entries) {
    const Candidate& c = entry.candidate;
    EXPECT_EQ(c.reason.empty(), c.estimate_us > 0) << c.format.name() << " " << c.kernel;
    EXPECT_TRUE(seen.insert({c.format.name(), c.kernel, c.n}).second) << c.kernel;
    csr16 = csr16 || (c.format == format::kCsr16 && c.reason.find("65536") != std::string::npos);
    nm = nm || (c.format == format::nm(2, 4) && c.reason.find("pattern") != std::string::npos);
  }
  EXPECT_TRUE(csr16);
  EXPECT_TRUE(nm);
  EXPECT_TRUE(std::any_of(entries.begin(), entries.end(), [](const Entry& e) {
    return e.candidate.format == format::kDense && e.possible();
  }));
}

TEST(EnumerateCandidates, LeavesOutWhatStoresMoreThanDense) {
  const HalfOnes weight;  // 32-bit columns double its values: as much as dense, and offsets.
  const PatternStats pattern = pattern_stats(weight);
  const FakeKernel csr("csr.fake", format::kCsr32, microseconds(1));
  const FakeKernel bitmap("bitmap.fake", format::kBitmap, microseconds(1));
  const std::vector<const SpmmKernel*> kernels{&csr, &bitmap};
  PlanRequest request;
  const auto of = [&](const FormatSpec& format) {
    const auto entries = enumerate_candidates(weight, pattern, {}, request, kernels, kCeilings, 1);
    const auto found = std::find_if(entries.begin(), entries.end(),
                                    [&](const Entry& e) { return e.candidate.format == format; });
    return found == entries.end() ? Entry{} : *found;
  };
  EXPECT_NE(of(format::kCsr32).candidate.reason.find("stores more than dense"), std::string::npos);
  EXPECT_TRUE(of(format::kBitmap).possible());
  request.formats = {format::kCsr32};  // Asked for by name, it competes.
  EXPECT_TRUE(of(format::kCsr32).possible());
}

}  // namespace
}  // namespace rarefy::planning::testing
