// SDDMM against the reference in double: formats, patterns, dtypes, instruction sets, threads.
#include "rarefy/sddmm.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "formats/bsr.h"
#include "formats/csr.h"
#include "formats/test_weights.h"
#include "ops/sddmm/tiles.h"
#include "rarefy/cpu.h"

namespace rarefy {
namespace {

using testing::make_weights;
using testing::Pattern;

/// A T×cols matrix of normal values with a gap of NaN behind each row.
class Operand {
 public:
  Operand(std::int64_t rows, std::int64_t cols, DType dtype, std::uint32_t seed)
      : rows_(rows), cols_(cols), dtype_(dtype) {
    constexpr std::int64_t kGap = 3;
    std::vector<float> values(static_cast<std::size_t>(rows * (cols + kGap)),
                              std::numeric_limits<float>::quiet_NaN());
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < cols; ++c)
        values[static_cast<std::size_t>(r * (cols + kGap) + c)] = normal(random);
    bytes_.resize(values.size() * size_of(dtype));
    convert_elements(values.data(), DType::kF32, bytes_.data(), dtype, values.size());
    stride_ = cols + kGap;
  }
  [[nodiscard]] ConstMatrixRef ref() const {
    return {bytes_.data(), dtype_, rows_, cols_, stride_};
  }
  void set(std::int64_t r, std::int64_t c, float x) {
    convert_elements(&x, DType::kF32,
                     bytes_.data() + static_cast<std::size_t>(r * stride_ + c) * size_of(dtype_),
                     dtype_, 1);
  }
  [[nodiscard]] double at(std::int64_t r, std::int64_t c) const {
    float x = 0;
    convert_elements(bytes_.data() + static_cast<std::size_t>(r * stride_ + c) * size_of(dtype_),
                     dtype_, &x, DType::kF32, 1);
    return x;
  }

 private:
  std::int64_t rows_, cols_, stride_ = 0;
  DType dtype_;
  std::vector<std::byte> bytes_;
};

MatrixPtr make_pattern(const testing::WeightCase& c, const FormatSpec& spec, DType dtype) {
  const auto values = make_weights(c, 3);
  return testing::try_pack(DenseSource({values.data(), DType::kF32, c.rows, c.cols, c.cols}), spec,
                           dtype, default_pool());
}

std::vector<float> to_floats(const Matrix& a) {
  std::vector<std::byte> raw(static_cast<std::size_t>(a.rows() * a.cols()) * size_of(a.dtype()));
  a.read_rows(0, a.rows(), raw.data());
  std::vector<float> values(static_cast<std::size_t>(a.rows() * a.cols()));
  convert_elements(raw.data(), a.dtype(), values.data(), DType::kF32, values.size());
  return values;
}

/// Every sum within γ = T·2^-24/(1 - T·2^-24) of Σ|p||q| (Higham 2002, §3.1) and one rounding to
/// the dtype of the result.
void expect_close(const Matrix& got, const Matrix& pattern, const Operand& p, const Operand& q,
                  const std::string& where) {
  std::vector<double> want(static_cast<std::size_t>(pattern.rows() * pattern.cols()));
  sddmm_reference(pattern, p.ref(), q.ref(), want.data());
  const std::vector<float> values = to_floats(got);
  const std::int64_t steps = p.ref().rows;
  const double gamma = static_cast<double>(steps) * 0x1p-24 * 1.01;
  const double rounding = got.dtype() == DType::kF32   ? 0x1p-24
                          : got.dtype() == DType::kF16 ? 0x1p-11
                                                       : 0x1p-8;
  for (std::int64_t i = 0; i < pattern.rows(); ++i) {
    for (std::int64_t j = 0; j < pattern.cols(); ++j) {
      const auto at = static_cast<std::size_t>(i * pattern.cols() + j);
      double magnitude = 0;
      for (std::int64_t t = 0; t < steps; ++t) magnitude += std::abs(p.at(t, i) * q.at(t, j));
      // f16 loses bits below its smallest normal number.
      const double bound = gamma * magnitude + rounding * std::abs(want[at]) + 0x1p-24;
      ASSERT_LE(std::abs(values[at] - want[at]), want[at] == 0 ? 0x1p-24 : bound)
          << where << " at " << i << ", " << j;
    }
  }
}

class SddmmTest : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    force_isa(std::nullopt);
    if (GetParam() > active_isa()) GTEST_SKIP() << "this CPU has no " << to_string(GetParam());
    force_isa(GetParam());
  }
  void TearDown() override { force_isa(std::nullopt); }
};

TEST_P(SddmmTest, MatchesTheReferenceInEveryFormat) {
  const testing::WeightCase cases[] = {
      {1, 1, Pattern::kFull, 1.0},        {33, 100, Pattern::kUniform, 0.3},
      {20, 75, Pattern::kEmptyRows, 0.5}, {17, 300, Pattern::kOneFullRow, 1.0},
      {32, 64, Pattern::kTwoOfFour, 0.5}, {18, 40, Pattern::kZero, 0.0}};
  constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kF16};
  std::size_t turn = 0;
  int packed = 0;
  for (const auto& c : cases) {
    for (const FormatSpec& spec : testing::all_specs()) {
      const DType dtype = kDTypes[turn % 3];
      const std::int64_t steps = std::array{1, 16, 37, 130, 260}[turn % 5];
      const DType operand = kDTypes[turn / 3 % 3];
      ++turn;
      const MatrixPtr pattern = make_pattern(c, spec, dtype);
      if (pattern == nullptr) continue;
      ++packed;
      const Operand p(steps, c.rows, operand, 1);
      const Operand q(steps, c.cols, operand, 2);
      const MatrixPtr got = sddmm(*pattern, p.ref(), q.ref());
      const std::string where =
          spec.name() + " " + to_string(dtype) + " T=" + std::to_string(steps);
      EXPECT_EQ(got->spec(), spec) << where;
      EXPECT_EQ(got->dtype(), dtype) << where;
      ASSERT_NO_THROW(got->validate()) << where;
      expect_close(*got, *pattern, p, q, where);
    }
  }
  EXPECT_GT(packed, 40);
}

class SddmmThreads : public ::testing::TestWithParam<DType> {};

TEST_P(SddmmThreads, GivesTheSameBitsForAnyNumberOfThreads) {
  const testing::WeightCase c{61, 200, Pattern::kRowSkew, 0.4};
  const Operand p(150, c.rows, GetParam(), 1);
  const Operand q(150, c.cols, GetParam(), 2);
  for (const FormatSpec& spec : {format::kCsr32, format::bsr(16, 32), format::kBitmap}) {
    const MatrixPtr pattern = make_pattern(c, spec, DType::kF32);
    ASSERT_NE(pattern, nullptr);
    ThreadPool one(1);
    const auto want = to_floats(*sddmm(*pattern, p.ref(), q.ref(), one));
    for (const int threads : {2, 3, 5}) {
      ThreadPool pool(threads);
      const auto got = to_floats(*sddmm(*pattern, p.ref(), q.ref(), pool));
      EXPECT_EQ(std::memcmp(got.data(), want.data(), want.size() * sizeof(float)), 0)
          << spec.name() << ", " << threads << " threads";
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Operands, SddmmThreads, ::testing::Values(DType::kF32, DType::kBF16),
                         [](const auto& dtype) { return std::string(to_string(dtype.param)); });

/// bf16 operands, which AMX takes in tiles: blocks of all alignments, ragged edges, ranges of t.
TEST_P(SddmmTest, MatchesTheReferenceOnBf16Operands) {
  const FormatSpec specs[] = {format::kCsr32,      format::kCsr16,      format::kBitmap,
                              format::bsr(16, 32), format::bsr(32, 32), format::bsr(16, 16),
                              format::bsr(48, 16), format::bsr(64, 96), format::bsr(4, 8),
                              format::bsr(16, 8),  format::kDense};
  const testing::WeightCase cases[] = {{1, 3, Pattern::kFull, 1.0},
                                       {70, 101, Pattern::kUniform, 0.3},
                                       {33, 64, Pattern::kEmptyRows, 0.5},
                                       {64, 97, Pattern::kUniform, 0.02}};
  constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kF16};
  std::size_t turn = 0;
  for (const auto& c : cases) {
    for (const FormatSpec& spec : specs) {
      const DType dtype = kDTypes[turn % 3];
      const std::int64_t steps = std::array{33, 1, 64, 5, 100}[turn % 5];
      ++turn;
      const MatrixPtr pattern = make_pattern(c, spec, dtype);
      if (pattern == nullptr) continue;
      const Operand p(steps, c.rows, DType::kBF16, 1);
      const Operand q(steps, c.cols, DType::kBF16, 2);
      const MatrixPtr got = sddmm(*pattern, p.ref(), q.ref());
      const std::string where =
          spec.name() + " " + to_string(dtype) + " T=" + std::to_string(steps);
      ASSERT_NO_THROW(got->validate()) << where;
      expect_close(*got, *pattern, p, q, where);
    }
  }
}

/// More t than are packed at once (2048).
TEST_P(SddmmTest, AddsUpRangesOfSteps) {
  const testing::WeightCase c{18, 37, Pattern::kUniform, 0.4};
  const Operand p(4100, c.rows, DType::kBF16, 1);
  const Operand q(4100, c.cols, DType::kBF16, 2);
  for (const FormatSpec& spec : {format::kCsr32, format::bsr(16, 32), format::bsr(32, 16)}) {
    const MatrixPtr pattern = make_pattern(c, spec, DType::kBF16);
    expect_close(*sddmm(*pattern, p.ref(), q.ref()), *pattern, p, q, spec.name());
  }
}

/// One row of NaN or infinities may show in its own sums only, not in neighbours of its tile nor
/// in what fills a block up.
TEST_P(SddmmTest, NotFiniteValuesStayInTheirRowsAndColumns) {
  const testing::WeightCase c{21, 45, Pattern::kUniform, 0.5};
  for (const DType operand : {DType::kBF16, DType::kF32}) {
    for (const FormatSpec& spec : {format::kCsr32, format::bsr(16, 32), format::bsr(32, 16)}) {
      const MatrixPtr pattern = make_pattern(c, spec, DType::kF32);
      Operand p(40, c.rows, operand, 1);
      Operand q(40, c.cols, operand, 2);
      p.set(3, 5, std::numeric_limits<float>::quiet_NaN());
      q.set(39, 44, std::numeric_limits<float>::infinity());
      const MatrixPtr got = sddmm(*pattern, p.ref(), q.ref());
      EXPECT_NO_THROW(got->validate()) << spec.name();
      std::vector<double> want(static_cast<std::size_t>(c.rows * c.cols));
      sddmm_reference(*pattern, p.ref(), q.ref(), want.data());
      const std::vector<float> values = to_floats(*got);
      int not_finite = 0;
      for (std::size_t i = 0; i < want.size(); ++i) {
        ASSERT_EQ(std::isnan(values[i]), std::isnan(want[i])) << spec.name() << " at " << i;
        ASSERT_EQ(std::isinf(values[i]), std::isinf(want[i])) << spec.name() << " at " << i;
        not_finite += std::isfinite(want[i]) ? 0 : 1;
      }
      EXPECT_GT(not_finite, 10);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, SddmmTest,
                         ::testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAmx),
                         [](const auto& level) { return std::string(to_string(level.param)); });

/// A full strip of regions among many with one place each: the first are worth tiles, the others
/// are not.
TEST(Sddmm, TakesTilesWhereRegionsAreDenseAndPlacesElsewhere) {
  if (active_isa() < Isa::kAmx) GTEST_SKIP() << "this CPU has no AMX";
  constexpr std::int64_t kRows = 500;
  constexpr std::int64_t kCols = 650;
  std::vector<float> values(kRows * kCols);
  for (std::int64_t r = 0; r < kRows; ++r)
    for (std::int64_t k = 0; k < kCols; ++k)
      if (r / 32 == 3 || (r % 32 == 5 && k % 32 == 9))
        values[static_cast<std::size_t>(r * kCols + k)] = 1;
  const MatrixPtr pattern = pack(DenseSource({values.data(), DType::kF32, kRows, kCols, kCols}),
                                 format::kCsr32, DType::kF32);
  const Operand p(8, kRows, DType::kBF16, 1);
  const Operand q(8, kCols, DType::kBF16, 2);
  const Places places = places_of(*pattern, default_pool());
  std::vector<float> sums(static_cast<std::size_t>(pattern->nnz()));
  const Places others = sddmm_regions(places, kCols, p.ref(), q.ref(), sums.data(), default_pool());
  EXPECT_EQ(others.offsets()[kRows], pattern->nnz() - 32 * kCols);
  expect_close(*sddmm(*pattern, p.ref(), q.ref()), *pattern, p, q, "mixed");
}

TEST(Sddmm, PlacesWhoseSumIsZeroStayStoredInCsrAndBsr) {
  const testing::WeightCase c{20, 70, Pattern::kUniform, 0.2};
  const std::vector<float> zeros(5 * 70);
  for (const FormatSpec& spec : {format::kCsr16, format::bsr(4, 4), format::bsr(16, 32)}) {
    const MatrixPtr pattern = make_pattern(c, spec, DType::kBF16);
    const MatrixPtr got =
        sddmm(*pattern, matrix_ref(zeros.data(), 5, c.rows), matrix_ref(zeros.data(), 5, c.cols));
    EXPECT_EQ(got->nnz(), 0);
    EXPECT_EQ(got->bytes(), pattern->bytes()) << spec.name();
    EXPECT_NO_THROW(got->validate());
  }
}

TEST(Sddmm, NoStepsGiveZeros) {
  const testing::WeightCase c{20, 70, Pattern::kUniform, 0.2};
  const MatrixPtr pattern = make_pattern(c, format::kCsr32, DType::kF32);
  const MatrixPtr got = sddmm(*pattern, {nullptr, DType::kF32, 0, c.rows, c.rows},
                              {nullptr, DType::kF32, 0, c.cols, c.cols});
  EXPECT_EQ(got->nnz(), 0);
  EXPECT_EQ(got->bytes(), pattern->bytes());
}

/// The use it is made for: with S = pattern's values w, loss L = Σ g ⊙ (X Wᵀ), dL/dw at the stored
/// places is sddmm(pattern, g, X). Checked against central differences.
TEST(Sddmm, IsTheGradientOfASparseWeight) {
  const testing::WeightCase c{6, 9, Pattern::kUniform, 0.5};
  const Operand g(4, c.rows, DType::kF32, 1);
  const Operand x(4, c.cols, DType::kF32, 2);
  const MatrixPtr w = make_pattern(c, format::kCsr32, DType::kF32);
  const auto gradient = to_floats(*sddmm(*w, g.ref(), x.ref()));
  auto weights = to_floats(*w);
  const auto loss = [&] {
    double total = 0;
    for (std::int64_t t = 0; t < 4; ++t)
      for (std::int64_t i = 0; i < c.rows; ++i)
        for (std::int64_t j = 0; j < c.cols; ++j)
          total += g.at(t, i) * weights[static_cast<std::size_t>(i * c.cols + j)] * x.at(t, j);
    return total;
  };
  for (std::size_t i = 0; i < weights.size(); ++i) {
    const float kept = weights[i];
    if (kept == 0) continue;
    weights[i] = kept + 0.5F;
    const double above = loss();
    weights[i] = kept - 0.5F;
    const double below = loss();
    weights[i] = kept;
    // The loss is linear in w, so that the difference is exact but for rounding.
    EXPECT_NEAR(gradient[i], above - below, 1e-4);
  }
}

TEST(Sddmm, RefusesOperandsThatDoNotFit) {
  const MatrixPtr pattern = make_pattern({8, 12, Pattern::kFull, 1.0}, format::kCsr32, DType::kF32);
  const Operand p(4, 8, DType::kF32, 1);
  const Operand q(4, 12, DType::kF32, 2);
  EXPECT_NO_THROW(sddmm(*pattern, p.ref(), q.ref()));
  EXPECT_THROW(sddmm(*pattern, q.ref(), q.ref()), Error);
  EXPECT_THROW(sddmm(*pattern, p.ref(), p.ref()), Error);
  EXPECT_THROW(sddmm(*pattern, p.ref(), Operand(5, 12, DType::kF32, 2).ref()), Error);
  EXPECT_THROW(sddmm(*pattern, p.ref(), Operand(4, 12, DType::kF16, 2).ref()), Error);
  ConstMatrixRef narrow = p.ref();
  narrow.row_stride = 7;
  EXPECT_THROW(sddmm(*pattern, narrow, q.ref()), Error);
}

}  // namespace
}  // namespace rarefy
