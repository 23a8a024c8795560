// Packing: every format from every other, in every dtype, at the shapes and values that break
// things; specs by name; statistics.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "formats/panels.h"
#include "formats/test_weights.h"
#include "rarefy/cpu.h"

namespace rarefy {
namespace {

using testing::all_specs;
using testing::make_weights;
using testing::Pattern;
using testing::try_pack;
using testing::WeightCase;

constexpr DType kDTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

const std::vector<WeightCase>& weight_cases() {
  static const std::vector<WeightCase> cases = {
      {0, 0, Pattern::kUniform, 0.5},         {0, 9, Pattern::kUniform, 0.5},
      {5, 0, Pattern::kUniform, 0.5},         {1, 1, Pattern::kFull, 1.0},
      {1, 65, Pattern::kUniform, 0.5},        {65, 1, Pattern::kUniform, 0.5},
      {16, 64, Pattern::kTwoOfFour, 0.5},     {33, 100, Pattern::kUniform, 0.3},
      {37, 131, Pattern::kEmptyRows, 0.4},    {20, 517, Pattern::kOneFullRow, 1.0},
      {50, 90, Pattern::kRowSkew, 0.4},       {9, 1100, Pattern::kColumnRuns, 0.1},
      {40, 96, Pattern::kZero, 0.0},          {18, 70, Pattern::kFull, 1.0},
      {33, 129, Pattern::kNegativeZeros, 0.5}};
  return cases;
}

/// What a pack of `values` must read back as: rounded, and every zero +0.
std::vector<std::byte> canonical(const std::vector<float>& values, DType dtype) {
  std::vector<float> clean = values;
  std::vector<std::byte> out(values.size() * size_of(dtype));
  convert_elements(clean.data(), DType::kF32, out.data(), dtype, clean.size());
  std::vector<float> rounded(values.size());
  convert_elements(out.data(), dtype, rounded.data(), DType::kF32, rounded.size());
  for (std::size_t i = 0; i < rounded.size(); ++i) {
    if (rounded[i] == 0.0F) std::memset(out.data() + i * size_of(dtype), 0, size_of(dtype));
  }
  return out;
}

std::vector<std::byte> read_all(const RowSource& source) {
  std::vector<std::byte> out(static_cast<std::size_t>(source.rows() * source.cols()) *
                             size_of(source.dtype()));
  source.read_rows(0, source.rows(), out.data());
  return out;
}

/// Row-major dense keeps the sign of a zero; everything else must not.
void expect_reads_as(const Matrix& a, const std::vector<std::byte>& expected, const char* what) {
  std::vector<std::byte> got = read_all(a);
  if (a.spec() == format::kDense) {
    std::vector<float> values(got.size() / size_of(a.dtype()));
    convert_elements(got.data(), a.dtype(), values.data(), DType::kF32, values.size());
    got = canonical(values, a.dtype());
  }
  ASSERT_EQ(got.size(), expected.size());
  // Bytes, so that NaN counts; memcmp of nothing is not defined for null.
  EXPECT_TRUE(got.empty() || std::memcmp(got.data(), expected.data(), got.size()) == 0)
      << a.spec().name() << " " << to_string(a.dtype()) << " " << a.rows() << "x" << a.cols()
      << ": " << what;
}

class PackTest : public ::testing::TestWithParam<FormatSpec> {
 protected:
  ThreadPool pool_{2};
};

TEST_P(PackTest, ReadsBackWhatWasPackedAndConvertsIntoEveryOther) {
  std::uint32_t seed = 0;
  for (const WeightCase& c : weight_cases()) {
    const std::vector<float> values = make_weights(c, ++seed);
    const DenseSource source({values.data(), DType::kF32, c.rows, c.cols, c.cols});
    for (const DType dtype : kDTypes) {
      const MatrixPtr a = try_pack(source, GetParam(), dtype, pool_);
      if (a == nullptr) continue;
      const std::vector<std::byte> expected = canonical(values, dtype);
      EXPECT_EQ(a->spec(), GetParam());
      EXPECT_EQ(a->dtype(), dtype);
      EXPECT_NO_THROW(a->validate()) << GetParam().name();
      EXPECT_EQ(a->nnz(),
                std::count_if(values.begin(), values.end(), [](float v) { return v != 0.0F; }));
      expect_reads_as(*a, expected, testing::to_string(c.pattern));
      for (const FormatSpec& other : all_specs()) {
        const MatrixPtr b = try_pack(*a, other, dtype, pool_);
        if (b == nullptr) continue;
        EXPECT_EQ(b->nnz(), a->nnz());
        EXPECT_NO_THROW(b->validate()) << GetParam().name() << " -> " << other.name();
        expect_reads_as(*b, expected, GetParam().name().c_str());
      }
    }
  }
}

TEST_P(PackTest, ReadsAnyRangeOfRows) {
  const WeightCase c{53, 75, Pattern::kTwoOfFour, 0.5};
  const std::vector<float> values = make_weights(c, 4);
  const MatrixPtr a = try_pack(DenseSource({values.data(), DType::kF32, c.rows, c.cols, c.cols}),
                               GetParam(), DType::kF32, pool_);
  if (a == nullptr) GTEST_SKIP() << "cannot hold this weight";
  for (const auto& [begin, end] :
       {std::pair{0, 1}, {7, 8}, {5, 39}, {52, 53}, {53, 53}, {15, 17}}) {
    std::vector<float> got(static_cast<std::size_t>((end - begin) * c.cols));
    a->read_rows(begin, end, got.data());
    EXPECT_TRUE(std::equal(got.begin(), got.end(), values.begin() + begin * c.cols))
        << GetParam().name() << " rows " << begin << " to " << end;
  }
}

TEST_P(PackTest, KeepsNanAndInfinityAndRoundsToZeroBeforeItLooks) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  std::vector<float> values(8 * 64, 0.0F);
  values[3] = kInf;
  values[70] = -kInf;
  values[200] = std::numeric_limits<float>::quiet_NaN();
  values[300] = 1e-30F;  // Zero in f16, a value in bf16 and f32.
  values[511] = -1e-30F;
  const DenseSource source({values.data(), DType::kF32, 8, 64, 64});
  for (const DType dtype : kDTypes) {
    const MatrixPtr a = try_pack(source, GetParam(), dtype, pool_);
    if (a == nullptr) continue;
    EXPECT_EQ(a->nnz(), dtype == DType::kF16 ? 3 : 5) << GetParam().name();
    EXPECT_NO_THROW(a->validate());
    expect_reads_as(*a, canonical(values, dtype), to_string(dtype));
  }
}

TEST_P(PackTest, IsTheSameForAnyNumberOfThreads) {
  const WeightCase c{301, 260, Pattern::kTwoOfFour, 0.5};
  const std::vector<float> values = make_weights(c, 8);
  const DenseSource source({values.data(), DType::kF32, c.rows, c.cols, c.cols});
  const MatrixPtr a = try_pack(source, GetParam(), DType::kBF16, pool_);
  if (a == nullptr) GTEST_SKIP() << "cannot hold this weight";
  for (const int threads : {1, 3, 5}) {
    ThreadPool pool(threads);
    const MatrixPtr b = pack(source, GetParam(), DType::kBF16, pool);
    EXPECT_EQ(b->bytes(), a->bytes());
    EXPECT_EQ(read_all(*b), read_all(*a));
  }
}

INSTANTIATE_TEST_SUITE_P(All, PackTest, ::testing::ValuesIn(all_specs()),
                         [](const ::testing::TestParamInfo<FormatSpec>& spec) {
                           std::string name = spec.param.name();
                           std::replace(name.begin(), name.end(), ':', 'o');
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(Pack, ReadsRowsThatLieApartWithoutACopyOfTheGap) {
  std::vector<float> values(6 * 10, 99.0F);
  for (int r = 0; r < 6; ++r) {
    for (int k = 0; k < 7; ++k)
      values[static_cast<std::size_t>(r * 10 + k)] = static_cast<float>(k % 3);
  }
  const MatrixPtr a = pack(DenseSource({values.data(), DType::kF32, 6, 7, 10}), format::kCsr32);
  EXPECT_EQ(a->nnz(), 6 * 4);
  const MatrixPtr dense = borrow_dense({values.data(), DType::kF32, 6, 7, 10}, nullptr);
  EXPECT_EQ(dense->nnz(), 6 * 4);
  EXPECT_EQ(read_all(*dense), read_all(*a));
}

TEST(Pack, BorrowsWithoutCopyingAndKeepsTheOwner) {
  const auto owner = std::make_shared<std::vector<float>>(12, 1.0F);
  const MatrixPtr a = borrow_dense({owner->data(), DType::kF32, 3, 4, 4}, owner);
  EXPECT_EQ(a->dense_data(), owner->data());
  EXPECT_EQ(owner.use_count(), 2);
}

TEST(Pack, ExplainsWhatItCannotDo) {
  const float one = 1.0F;
  EXPECT_EQ(can_pack(format::kCsr16, 4, 65537, DType::kF32).reason,
            "csr16 needs K <= 65536, got 65537");
  EXPECT_TRUE(can_pack(format::kCsr16, 4, 65536, DType::kF32));
  EXPECT_FALSE(can_pack(format::nm(5, 4), 4, 8, DType::kF32));
  EXPECT_FALSE(can_pack(format::nm(2, 64), 4, 64, DType::kF32));
  EXPECT_FALSE(can_pack(format::kDense, -1, 4, DType::kF32));
  EXPECT_FALSE(can_pack(format::kDense, 4, 4, DType::kI8));
  EXPECT_FALSE(can_pack({Format::kCsr, 24}, 4, 4, DType::kF32));
  EXPECT_FALSE(can_pack({Format::kCsr, 32, 4, 4}, 4, 4, DType::kF32));
  try {
    pack(DenseSource({&one, DType::kF32, 1, 1, 1}), {Format::kDelta, 3});
    FAIL() << "delta3 was packed";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUnsupported);
    EXPECT_STREQ(e.what(), "pack 1x1 f32 as delta3: delta3 is not a format");
  }
}

TEST(Pack, ReachesColumnsBeyond16Bits) {
  std::vector<float> values(3 * 70000, 0.0F);
  for (const std::size_t k : {0U, 65534U, 65535U, 65536U, 69999U, 70000U, 139999U, 140000U + 255U})
    values[k] = static_cast<float>(k % 100 + 1);
  const DenseSource source({values.data(), DType::kF32, 3, 70000, 70000});
  ThreadPool pool(2);
  for (const FormatSpec& spec : all_specs()) {
    const MatrixPtr a = try_pack(source, spec, DType::kF32, pool);
    EXPECT_TRUE(a != nullptr || !can_pack(spec, 3, 70000, DType::kF32)) << spec.name();
    if (a == nullptr) continue;
    EXPECT_NO_THROW(a->validate());
    expect_reads_as(*a, canonical(values, DType::kF32), "K = 70000");
  }
}

TEST(FormatSpec, NamesParseBackAndNothingElseDoes) {
  std::set<std::string> names;
  for (const FormatSpec& spec : all_specs()) {
    EXPECT_EQ(FormatSpec::parse(spec.name()), spec) << spec.name();
    EXPECT_TRUE(names.insert(spec.name()).second) << spec.name();
  }
  for (const char* name :
       {"",     "Dense", "dense16", "dense16x", "densex16", "dense0x4", "csr17",
        "bsr",  "bsr4",  "bsr4x-4", "bsr4x4x4", "2:",       ":4",       "2:4:8",
        "-2:4", "0:4",   "delta",   "delta16",  "sell",     "2:4 ",     "99999999999:4"}) {
    EXPECT_EQ(FormatSpec::parse(name), std::nullopt) << name;
  }
}

class NonzeroMask : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    force_isa(std::nullopt);
    if (GetParam() > active_isa()) GTEST_SKIP() << "this CPU has no " << to_string(GetParam());
    force_isa(GetParam());
  }
  void TearDown() override { force_isa(std::nullopt); }
};

TEST_P(NonzeroMask, FindsEveryKindOfNonzeroAtEveryLength) {
  constexpr float kKinds[] = {0.0F,
                              -0.0F,
                              1.0F,
                              -2.5F,
                              std::numeric_limits<float>::infinity(),
                              std::numeric_limits<float>::quiet_NaN(),
                              0.0F};
  for (const DType dtype : kDTypes) {
    for (std::int64_t count = 0; count <= 200; ++count) {
      std::vector<float> values;
      for (std::int64_t i = 0; i < count; ++i)
        values.push_back(kKinds[static_cast<std::size_t>((i * i + i / 3) % 7)]);
      std::vector<std::byte> raw(values.size() * size_of(dtype));
      convert_elements(values.data(), DType::kF32, raw.data(), dtype, values.size());
      std::vector<std::uint64_t> masks(static_cast<std::size_t>((count + 63) / 64), 0xDEAD);
      const std::int64_t found = nonzero_mask(raw.data(), dtype, count, masks.data());
      std::int64_t expected = 0;
      for (std::int64_t i = 0; i < static_cast<std::int64_t>(masks.size()) * 64; ++i) {
        const bool nonzero = i < count && values[static_cast<std::size_t>(i)] != 0.0F;
        expected += nonzero ? 1 : 0;
        ASSERT_EQ((masks[static_cast<std::size_t>(i / 64)] >> (i % 64)) & 1, nonzero ? 1U : 0U)
            << to_string(dtype) << " bit " << i << " of " << count;
      }
      ASSERT_EQ(found, expected);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, NonzeroMask,
                         ::testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512),
                         [](const ::testing::TestParamInfo<Isa>& isa) {
                           return to_string(isa.param);
                         });

}  // namespace
}  // namespace rarefy
