// Storage of BSR: orders inside a block, padding, which blocks exist, and what validate finds.
#include "formats/bsr.h"

#include <gtest/gtest.h>

#include <cstring>

#include "formats/test_weights.h"

namespace rarefy {
namespace {

using testing::make_weights;
using testing::WeightCase;

DenseSource source_of(const std::vector<float>& values, std::int64_t rows, std::int64_t cols) {
  return DenseSource({values.data(), DType::kF32, rows, cols, cols});
}

std::shared_ptr<const Bsr> packed(const std::vector<float>& values, std::int64_t rows,
                                  std::int64_t cols, int block_rows, int block_cols, DType dtype) {
  return std::dynamic_pointer_cast<const Bsr>(
      pack(source_of(values, rows, cols), format::bsr(block_rows, block_cols), dtype));
}

TEST(Bsr, StoresExactlyTheBlocksThatHoldANonzero) {
  std::vector<float> values(40 * 70);
  values[0 * 70 + 0] = 1.0F;     // Block (0, 0).
  values[17 * 70 + 69] = 2.0F;   // Block (1, 2), cut off at the right.
  values[39 * 70 + 33] = -3.0F;  // Block (2, 1), cut off below.
  values[39 * 70 + 0] = -0.0F;   // A zero: makes no block.
  const auto a = packed(values, 40, 70, 16, 32, DType::kBF16);
  ASSERT_EQ(a->grid_rows(), 3);
  ASSERT_EQ(a->grid_cols(), 3);
  EXPECT_EQ(std::vector<std::int64_t>(a->row_offsets(), a->row_offsets() + 4),
            (std::vector<std::int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(std::vector<std::int32_t>(a->columns(), a->columns() + 3),
            (std::vector<std::int32_t>{0, 2, 1}));
  EXPECT_EQ(a->nnz(), 3);
  EXPECT_EQ(a->bytes(), 4 * 8 + 3 * 4 + 3 * 1024U);
  EXPECT_NO_THROW(a->validate());
}

TEST(Bsr, Bf16StripsPairColumns) {
  std::vector<float> values(32 * 4);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i + 1);
  const auto a = packed(values, 32, 4, 32, 4, DType::kBF16);
  ASSERT_TRUE(a->in_strips());
  const auto* stored = reinterpret_cast<const BFloat16*>(a->block(0));
  for (std::int64_t r = 0; r < 32; ++r) {
    for (std::int64_t c = 0; c < 4; ++c) {
      const std::int64_t place = r / 16 * 64 + (c / 2) * 32 + r % 16 * 2 + c % 2;
      EXPECT_EQ(to_float(stored[place]), static_cast<float>(r * 4 + c + 1)) << r << ", " << c;
    }
  }
}

TEST(Bsr, OddWidthsAndHeightsAreRowMajorInTheBlock) {
  EXPECT_FALSE(Bsr::in_strips(format::bsr(16, 5), DType::kBF16));
  EXPECT_TRUE(Bsr::in_strips(format::bsr(16, 5), DType::kF16));
  EXPECT_FALSE(Bsr::in_strips(format::bsr(8, 32), DType::kF32));
  std::vector<float> values(6 * 10);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i + 1);
  const auto a = packed(values, 6, 10, 3, 5, DType::kF32);
  const auto* block = reinterpret_cast<const float*>(a->block(1));  // Rows 0-2, columns 5-9.
  for (std::int64_t r = 0; r < 3; ++r)
    for (std::int64_t c = 0; c < 5; ++c)
      EXPECT_EQ(block[r * 5 + c], static_cast<float>(r * 10 + c + 6));
}

class BsrRoundTrip : public ::testing::TestWithParam<std::tuple<int, int, DType>> {};

TEST_P(BsrRoundTrip, AnyRangeOfRowsReadsBack) {
  const auto [block_rows, block_cols, dtype] = GetParam();
  constexpr std::int64_t kRows = 53;
  constexpr std::int64_t kCols = 75;
  const auto values = make_weights({kRows, kCols, testing::Pattern::kNegativeZeros, 0.02}, 7);
  const DenseSource source = source_of(values, kRows, kCols);
  const MatrixPtr a = pack(source, format::bsr(block_rows, block_cols), dtype);
  EXPECT_NO_THROW(a->validate());
  const MatrixPtr dense = pack(source, format::kDense, dtype);
  EXPECT_EQ(a->nnz(), dense->nnz());
  const std::size_t row_bytes = kCols * size_of(dtype);
  for (const auto& [begin, end] :
       {std::pair{0, 53}, {1, 2}, {15, 17}, {30, 50}, {52, 53}, {9, 9}}) {
    std::vector<std::byte> got(static_cast<std::size_t>(end - begin) * row_bytes, std::byte{0x55});
    std::vector<std::byte> want(got.size());
    a->read_rows(begin, end, got.data());
    dense->read_rows(begin, end, want.data());
    for (std::size_t i = 0; i < got.size(); i += size_of(dtype)) {
      // Every zero comes back as +0, whatever its sign was; anything else bit for bit.
      std::uint32_t g = 0;
      std::uint32_t w = 0;
      std::memcpy(&g, got.data() + i, size_of(dtype));
      std::memcpy(&w, want.data() + i, size_of(dtype));
      const std::uint32_t sign = dtype == DType::kF32 ? 0x80000000U : 0x8000U;
      EXPECT_EQ(g, w == sign ? 0U : w) << "byte " << i << " of rows " << begin << "-" << end;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, BsrRoundTrip,
    ::testing::Combine(::testing::Values(1, 3, 16, 32, 48), ::testing::Values(1, 5, 16, 32, 128),
                       ::testing::Values(DType::kF32, DType::kF16, DType::kBF16)));

TEST(Bsr, EmptyMatricesHaveNoBlocks) {
  const std::vector<float> none;
  for (const auto& [rows, cols] : {std::pair{0, 0}, {0, 5}, {5, 0}}) {
    const auto a = packed(none, rows, cols, 16, 32, DType::kF32);
    EXPECT_EQ(a->nnz(), 0);
    EXPECT_NO_THROW(a->validate());
  }
}

/// A valid 32×64 matrix of two blocks of 16×32, one a block row, for tests to break.
struct Broken {
  Bsr::Arrays arrays;
  std::int64_t nnz = 0;
  Broken() {
    arrays.row_offsets = {0, 1, 2};
    arrays.columns = {0, 1};
    arrays.values = Buffer::zeros(2 * 16 * 32 * 4);
  }
  std::string complaint() {
    const Bsr a(32, 64, DType::kF32, format::bsr(16, 32), nnz, std::move(arrays));
    try {
      a.validate();
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kCorrupt);
      return e.what();
    }
    return "";
  }
};

TEST(Bsr, ValidateNamesWhatIsBroken) {
  const auto complaint = [](auto&& change) {
    Broken b;
    change(b);
    return b.complaint();
  };
  const auto has = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  EXPECT_EQ(complaint([](Broken&) {}), "");
  EXPECT_PRED2(has, complaint([](Broken& b) { b.arrays.row_offsets.pop_back(); }), "row_offsets");
  EXPECT_PRED2(has, complaint([](Broken& b) { b.arrays.row_offsets[0] = 1; }), "row_offsets[0]");
  EXPECT_PRED2(has, complaint([](Broken& b) { b.arrays.row_offsets[1] = 9; }), "row_offsets[1]");
  EXPECT_PRED2(has, complaint([](Broken& b) { b.arrays.row_offsets[1] = -1; }), "row_offsets[1]");
  EXPECT_PRED2(has, complaint([](Broken& b) { b.arrays.row_offsets[2] = 1; }), "row_offsets[2]");
  EXPECT_PRED2(has, complaint([](Broken& b) { b.arrays.columns[1] = 2; }), "columns[1]");
  EXPECT_PRED2(has, complaint([](Broken& b) { b.arrays.columns[0] = -1; }), "columns[0]");
  EXPECT_PRED2(has, complaint([](Broken& b) {
                 b.arrays.row_offsets = {0, 2, 2}, b.arrays.columns = {1, 1};
               }),
               "columns[1]");
  EXPECT_PRED2(has, complaint([](Broken& b) { b.arrays.values = Buffer::zeros(1024); }), "values");
  EXPECT_PRED2(has, complaint([](Broken& b) { b.nnz = 3; }), "expected 3 nonzeros, found 0");
}

TEST(Bsr, ValidateFindsValuesOutsideTheMatrix) {
  Bsr::Arrays arrays;
  arrays.row_offsets = {0, 1};
  arrays.columns = {0};
  arrays.values = Buffer::zeros(16 * 32 * 4);
  arrays.values.as<float>()[strip_index(15, 3, 1)] = 1.0F;  // Row 15 of a matrix of 10 rows.
  const Bsr a(10, 32, DType::kF32, format::bsr(16, 32), 0, std::move(arrays));
  EXPECT_THROW(a.validate(), Error);
}

TEST(Bsr, RefusesBlocksTooLargeToBeBlocks) {
  EXPECT_FALSE(can_pack(format::bsr(8192, 1), 10, 10, DType::kF32));
  EXPECT_FALSE(can_pack(format::bsr(16, 32), 10, std::int64_t{1} << 31, DType::kF32));
}

}  // namespace
}  // namespace rarefy
