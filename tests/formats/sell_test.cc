// The sliced ELL layout itself: order of lanes, gaps and their fillers, and what validate() finds.
#include "formats/sell.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "io/expect_error.h"
#include "rarefy/matrix.h"

namespace rarefy {
namespace {

MatrixPtr pack_f32(const std::vector<float>& values, std::int64_t rows, std::int64_t cols,
                   const FormatSpec& spec) {
  return pack(DenseSource({values.data(), DType::kF32, rows, cols, cols}), spec, DType::kF32);
}

std::vector<float> read_all(const Matrix& a) {
  std::vector<float> back(static_cast<std::size_t>(a.rows() * a.cols()));
  a.read_rows(0, a.rows(), back.data());
  return back;
}

TEST(Sell, SortsTheRowsOfAScopeByLengthAndKeepsTheirOrder) {
  constexpr std::int64_t kRows = 70, kCols = 40;
  std::vector<float> dense(static_cast<std::size_t>(kRows * kCols));
  for (std::int64_t r = 0; r < kRows; ++r)
    for (std::int64_t c = 0; c < r % 5; ++c) dense[static_cast<std::size_t>(r * kCols + c)] = 1;
  const MatrixPtr packed = pack_f32(dense, kRows, kCols, format::kSell8);
  const auto& a = dynamic_cast<const SellMatrix&>(*packed);
  a.validate();
  EXPECT_EQ(a.slices(), 5);
  EXPECT_EQ(a.order()[0], 4U);  // The first of length 4, then the next.
  EXPECT_EQ(a.order()[1], 9U);
  EXPECT_EQ(a.order()[64], 64U);  // The second scope begins anew.
  EXPECT_EQ(a.order()[65], 69U);
  EXPECT_EQ(a.order()[64 + 6], SellMatrix::kNoRow);
  EXPECT_EQ(a.offsets()[1], 4 * a.step_bytes());
  EXPECT_EQ(read_all(a), dense);
}

TEST(Sell, CutsGapsThatTheFieldCannotHold) {
  std::vector<float> dense(1000);
  dense[255] = 1;  // Just within reach of 8 bits,
  dense[511] = 2;  // one more than reach: one filler,
  dense[999] = 3;  // 488: one filler.
  const MatrixPtr narrow = pack_f32(dense, 1, 1000, format::kSell8);
  const MatrixPtr wide = pack_f32(dense, 1, 1000, format::kSell16);
  narrow->validate();
  wide->validate();
  EXPECT_EQ(dynamic_cast<const SellMatrix&>(*narrow).offsets()[1], 5U * 16 * 5);
  EXPECT_EQ(dynamic_cast<const SellMatrix&>(*wide).offsets()[1], 3U * 16 * 6);
  EXPECT_EQ(narrow->nnz(), 3);
  EXPECT_EQ(read_all(*narrow), dense);
  EXPECT_EQ(read_all(*wide), dense);
}

TEST(Sell, HoldsGapsBeyond16Bits) {
  std::vector<float> dense(200000);
  dense[199999] = 1;
  const MatrixPtr packed = pack_f32(dense, 1, 200000, format::kSell16);
  packed->validate();
  EXPECT_EQ(read_all(*packed), dense);
}

/// Copies a packed matrix, lets `damage` change it, and expects validate() to say `what`.
template <class Damage>
void expect_corrupt(const char* what, const Damage& damage) {
  std::vector<float> dense(20 * 30);
  for (std::size_t i = 0; i < 19 * 30; i += 3) dense[i] = 1;  // Row 19 is empty.
  const MatrixPtr packed = pack_f32(dense, 20, 30, format::kSell8);
  const auto& good = dynamic_cast<const SellMatrix&>(*packed);
  Buffer stream(good.offsets().back() + SellMatrix::kTailBytes);
  Buffer offsets(good.offsets().size_bytes());
  Buffer order(good.order().size_bytes());
  std::memcpy(stream.data(), good.stream(), stream.size());
  std::memcpy(offsets.data(), good.offsets().data(), offsets.size());
  std::memcpy(order.data(), good.order().data(), order.size());
  std::int64_t nnz = good.nnz();
  damage(stream.data(), offsets.as<std::uint64_t>(), order.as<std::uint32_t>(), nnz);
  const SellMatrix bad(format::kSell8, 20, 30, DType::kF32, nnz, std::move(stream),
                       std::move(offsets), std::move(order));
  testing::expect_error([&] { bad.validate(); }, ErrorKind::kCorrupt, {what});
}

TEST(Sell, ValidateFindsDamage) {
  using Bytes = std::byte*;
  using Offsets = std::uint64_t*;
  using Order = std::uint32_t*;
  expect_corrupt("nonzeros", [](Bytes, Offsets, Order, std::int64_t& nnz) { --nnz; });
  expect_corrupt("offsets[0]", [](Bytes, Offsets o, Order, std::int64_t&) { o[0] = 1; });
  expect_corrupt("steps", [](Bytes, Offsets o, Order, std::int64_t&) { o[1] += 1; });
  expect_corrupt("repetition", [](Bytes, Offsets, Order r, std::int64_t&) { r[1] = r[0]; });
  expect_corrupt("scope", [](Bytes, Offsets, Order r, std::int64_t&) { r[1] = 20; });
  expect_corrupt("no lane", [](Bytes, Offsets, Order r, std::int64_t&) {
    r[19] = SellMatrix::kNoRow;  // The lane of the empty row, sorted last.
  });
  expect_corrupt("outside", [](Bytes b, Offsets, Order, std::int64_t&) { b[0] = std::byte{30}; });
  expect_corrupt("value at column", [](Bytes b, Offsets, Order, std::int64_t&) {
    b[16 * 5] = std::byte{0};  // The second gap of lane 0: the same column twice.
  });
}

}  // namespace
}  // namespace rarefy
