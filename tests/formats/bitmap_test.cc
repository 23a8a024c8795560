// The bitmap layout itself: where a value goes, what a tile looks like, and what validate() finds.
#include "formats/bitmap.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "io/expect_error.h"
#include "rarefy/matrix.h"

namespace rarefy {
namespace {

template <class T>
std::vector<T> random_values(std::int64_t rows, std::int64_t cols, double density, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> uniform(0, 1);
  std::vector<T> values(static_cast<std::size_t>(rows * cols));
  for (T& v : values)
    v = uniform(random) < density ? convert<T>(uniform(random) + 0.5F) : convert<T>(0.0F);
  return values;
}

ConstMatrixRef view(const void* data, DType dtype, std::int64_t rows, std::int64_t cols) {
  return {data, dtype, rows, cols, cols};
}

struct Shape2 {
  std::int64_t rows, cols;
};

class BitmapShapes : public ::testing::TestWithParam<Shape2> {};

TEST_P(BitmapShapes, ReadsBackWhatWasPackedAtAnyNumberOfThreads) {
  const auto [rows, cols] = GetParam();
  ThreadPool one(1), three(3);
  for (double density : {0.0, 0.3, 1.0}) {
    for (DType dtype : {DType::kBF16, DType::kF32}) {
      const auto wide = random_values<float>(rows, cols, density, 7);
      const auto narrow = random_values<BFloat16>(rows, cols, density, 7);
      const void* data = dtype == DType::kF32 ? static_cast<const void*>(wide.data())
                                              : static_cast<const void*>(narrow.data());
      const DenseSource source(view(data, dtype, rows, cols));
      const MatrixPtr a = pack(source, format::kBitmap, one);
      const MatrixPtr b = pack(source, format::kBitmap, three);
      a->validate();
      b->validate();
      EXPECT_EQ(a->bytes(), b->bytes());
      const std::size_t bytes = static_cast<std::size_t>(rows * cols) * size_of(dtype);
      std::vector<std::byte> back(bytes + 1);
      a->read_rows(0, rows, back.data());
      EXPECT_EQ(std::memcmp(back.data(), data, bytes), 0);
      // A range that starts and ends inside blocks.
      const std::int64_t begin = rows / 3, end = rows - rows / 4;
      b->read_rows(begin, end, back.data());
      const std::size_t row_bytes = static_cast<std::size_t>(cols) * size_of(dtype);
      EXPECT_EQ(std::memcmp(back.data(),
                            static_cast<const std::byte*>(data) +
                                static_cast<std::size_t>(begin) * row_bytes,
                            static_cast<std::size_t>(end - begin) * row_bytes),
                0);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Ragged, BitmapShapes,
                         ::testing::Values(Shape2{1, 1}, Shape2{16, 32}, Shape2{17, 33},
                                           Shape2{15, 31}, Shape2{64, 100}, Shape2{5, 257},
                                           Shape2{100, 7}));

TEST(Bitmap, TileIsVnniOrderedWithMasksFirst) {
  std::vector<BFloat16> dense(16 * 32);
  const auto set = [&](int row, int col, std::uint16_t bits) {
    dense[static_cast<std::size_t>(row * 32 + col)].bits = bits;
  };
  set(3, 5, 11);    // group 2, lane 7
  set(0, 5, 12);    // group 2, lane 1
  set(15, 31, 13);  // group 15, lane 31
  set(1, 4, 14);    // group 2, lane 2
  const MatrixPtr packed =
      pack(DenseSource(view(dense.data(), DType::kBF16, 16, 32)), format::kBitmap);
  const auto& bitmap = dynamic_cast<const BitmapMatrix&>(*packed);
  EXPECT_EQ(bitmap.nnz(), 4);
  EXPECT_EQ(bitmap.bytes(), 64 + 4 * 2 + BitmapMatrix::kTailBytes + 2 * sizeof(std::uint64_t));
  std::uint32_t masks[16];
  std::uint16_t values[4];
  std::memcpy(masks, bitmap.block(0), sizeof masks);
  std::memcpy(values, bitmap.block(0) + sizeof masks, sizeof values);
  EXPECT_EQ(masks[2], (1U << 7) | (1U << 1) | (1U << 2));
  EXPECT_EQ(masks[15], 1U << 31);
  EXPECT_EQ(masks[0], 0U);
  EXPECT_EQ(values[0], 12);
  EXPECT_EQ(values[1], 14);
  EXPECT_EQ(values[2], 11);
  EXPECT_EQ(values[3], 13);
}

TEST(Bitmap, F32TileHoldsOneColumnAGroup) {
  std::vector<float> dense(16 * 16);
  dense[3 * 16 + 5] = 1.5F;
  dense[0 * 16 + 5] = 2.5F;
  const MatrixPtr packed =
      pack(DenseSource(view(dense.data(), DType::kF32, 16, 16)), format::kBitmap);
  const auto& bitmap = dynamic_cast<const BitmapMatrix&>(*packed);
  std::uint16_t masks[16];
  float values[2];
  std::memcpy(masks, bitmap.block(0), sizeof masks);
  std::memcpy(values, bitmap.block(0) + sizeof masks, sizeof values);
  EXPECT_EQ(masks[5], (1U << 3) | 1U);
  EXPECT_EQ(values[0], 2.5F);
  EXPECT_EQ(values[1], 1.5F);
}

TEST(Bitmap, NegativeZeroIsAZeroAndNanIsNot) {
  std::vector<float> dense(16 * 16);
  dense[1] = -0.0F;
  dense[2] = std::numeric_limits<float>::quiet_NaN();
  const MatrixPtr packed =
      pack(DenseSource(view(dense.data(), DType::kF32, 16, 16)), format::kBitmap);
  EXPECT_EQ(packed->nnz(), 1);
  std::vector<float> back(16 * 16);
  packed->read_rows(0, 16, back.data());
  EXPECT_FALSE(std::signbit(back[1]));
  EXPECT_TRUE(std::isnan(back[2]));
}

TEST(Bitmap, EmptyMatricesHaveNoTiles) {
  for (const auto& [rows, cols] : {Shape2{0, 40}, Shape2{40, 0}, Shape2{0, 0}}) {
    const MatrixPtr packed =
        pack(DenseSource(view(nullptr, DType::kBF16, rows, cols)), format::kBitmap);
    packed->validate();
    EXPECT_EQ(packed->nnz(), 0);
  }
}

/// Copies a packed matrix's arrays, lets `damage` change them, and expects validate() to say
/// `what`.
template <class Damage>
void expect_corrupt(const char* what, const Damage& damage) {
  const auto values = random_values<BFloat16>(20, 40, 0.5, 3);
  const MatrixPtr packed =
      pack(DenseSource(view(values.data(), DType::kBF16, 20, 40)), format::kBitmap);
  const auto& good = dynamic_cast<const BitmapMatrix&>(*packed);
  const std::size_t stream_bytes = good.offsets().back() + BitmapMatrix::kTailBytes;
  Buffer stream(stream_bytes), offsets(good.offsets().size_bytes());
  std::memcpy(stream.data(), good.block(0), stream_bytes);
  std::memcpy(offsets.data(), good.offsets().data(), offsets.size());
  std::int64_t nnz = good.nnz();
  damage(stream, offsets.as<std::uint64_t>(), nnz);
  const BitmapMatrix bad(20, 40, DType::kBF16, nnz, std::move(stream), std::move(offsets));
  testing::expect_error([&] { bad.validate(); }, ErrorKind::kCorrupt, {what});
}

TEST(Bitmap, ValidateFindsDamage) {
  expect_corrupt("expected", [](Buffer&, std::uint64_t*, std::int64_t& nnz) { ++nnz; });
  expect_corrupt("offsets[0]", [](Buffer&, std::uint64_t* o, std::int64_t&) { o[0] = 2; });
  expect_corrupt("stream", [](Buffer&, std::uint64_t* o, std::int64_t&) { o[2] += 2; });
  expect_corrupt("exceeds", [](Buffer&, std::uint64_t* o, std::int64_t&) { o[1] = o[2] + 2; });
  expect_corrupt("block 0", [](Buffer&, std::uint64_t* o, std::int64_t&) { o[1] -= 2; });
  expect_corrupt("outside", [](Buffer& s, std::uint64_t* o, std::int64_t&) {
    s.data()[o[1] + 3] |= std::byte{0x80};  // Row 31 of a block that has 4.
  });
  expect_corrupt("stored zero", [](Buffer& s, std::uint64_t*, std::int64_t&) {
    s.data()[64] = s.data()[65] = std::byte{0};
  });
}

}  // namespace
}  // namespace rarefy
