// The window layout itself: lanes, steps, the mark of a new window, and what validate() finds.
#include "formats/window.h"

#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "io/expect_error.h"
#include "rarefy/matrix.h"

namespace rarefy {
namespace {

MatrixPtr pack_f32(const std::vector<float>& values, std::int64_t rows, std::int64_t cols,
                   DType dtype) {
  return pack(DenseSource({values.data(), DType::kF32, rows, cols, cols}), format::kWindow, dtype);
}

std::vector<float> read_all(const Matrix& a) {
  std::vector<float> back(static_cast<std::size_t>(a.rows() * a.cols()));
  pack(a, format::kDense, DType::kF32)->read_rows(0, a.rows(), back.data());
  return back;
}

TEST(Window, PairsOfOneRowShareALaneAndOddListsRepeatTheirColumn) {
  std::vector<float> dense(128);
  dense[3] = 1;
  dense[70] = 2;
  dense[127] = 4;
  const MatrixPtr packed = pack_f32(dense, 1, 128, DType::kBF16);
  const auto& a = dynamic_cast<const WindowMatrix&>(*packed);
  a.validate();
  ASSERT_EQ(a.steps().size(), 1U);
  ASSERT_EQ(a.steps()[0], 2U);
  // Two masks of two groups; then 4 columns and a pair of values for each step.
  const auto* masks = reinterpret_cast<const std::uint16_t*>(a.stream());
  EXPECT_EQ(masks[0], 1);
  EXPECT_EQ(masks[1], 0);
  EXPECT_EQ(masks[2], 1);
  const auto* data = reinterpret_cast<const std::uint8_t*>(a.stream() + 8);
  EXPECT_EQ(data[0], 0x80 | 3);  // Byte 0 of lane 0, value 0: marked, a window begins.
  EXPECT_EQ(data[2], 70);        // Value 1 of group 0.
  EXPECT_EQ(data[8], 127);       // Step 1: no mark,
  EXPECT_EQ(data[10], 127);      // the padding repeats the column.
  EXPECT_EQ(read_all(a), dense);
}

TEST(Window, AWindowWithoutNonzerosHasAStepOfZeros) {
  std::vector<float> dense(500);
  dense[400] = 5;
  for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    const MatrixPtr packed = pack_f32(dense, 1, 500, dtype);
    const auto& a = dynamic_cast<const WindowMatrix&>(*packed);
    a.validate();
    EXPECT_EQ(a.steps()[0], 4U);
    EXPECT_EQ(a.nnz(), 1);
    EXPECT_EQ(read_all(a), dense);
  }
}

TEST(Window, HoldsFullRowsAndEmptyOnesTogether) {
  for (DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    constexpr std::int64_t kRows = 70, kCols = 259;
    std::vector<float> dense(static_cast<std::size_t>(kRows * kCols));
    for (std::int64_t r = 0; r < kRows; r += 7)
      for (std::int64_t c = 0; c < kCols; ++c)
        dense[static_cast<std::size_t>(r * kCols + c)] = static_cast<float>(1 + (c + r) % 100);
    const MatrixPtr packed = pack_f32(dense, kRows, kCols, dtype);
    packed->validate();
    EXPECT_EQ(read_all(*packed), dense);
  }
}

/// Copies a packed matrix, lets `damage` change it, and expects validate() to say `what`.
template <class Damage>
void expect_corrupt(const char* what, const Damage& damage) {
  std::vector<float> dense(40 * 300);
  for (std::size_t i = 0; i < dense.size(); i += 3) dense[i] = static_cast<float>(i % 7 + 1);
  const MatrixPtr packed = pack_f32(dense, 40, 300, DType::kBF16);
  const auto& good = dynamic_cast<const WindowMatrix&>(*packed);
  Buffer stream(good.offsets().back() + WindowMatrix::kTailBytes);
  Buffer offsets(good.offsets().size_bytes());
  Buffer steps(good.steps().size_bytes());
  std::memcpy(stream.data(), good.stream(), stream.size());
  std::memcpy(offsets.data(), good.offsets().data(), offsets.size());
  std::memcpy(steps.data(), good.steps().data(), steps.size());
  const std::size_t data = good.steps()[0] * 4;  // Where block 0's first columns lie.
  std::int64_t nnz = good.nnz();
  damage(stream.data(), data, offsets.as<std::uint64_t>(), steps.as<std::uint32_t>(), nnz);
  const WindowMatrix bad(40, 300, DType::kBF16, nnz, std::move(stream), std::move(offsets),
                         std::move(steps));
  testing::expect_error([&] { bad.validate(); }, ErrorKind::kCorrupt, {what});
}

TEST(Window, ValidateFindsDamage) {
  using Bytes = std::byte*;
  using Offsets = std::uint64_t*;
  using Steps = std::uint32_t*;
  expect_corrupt("expected", [](Bytes, std::size_t, Offsets, Steps, std::int64_t& nnz) { ++nnz; });
  expect_corrupt("offsets[0]",
                 [](Bytes, std::size_t, Offsets o, Steps, std::int64_t&) { o[0] = 4; });
  expect_corrupt("stream", [](Bytes, std::size_t, Offsets o, Steps, std::int64_t&) { o[2] += 4; });
  expect_corrupt("does not fit",
                 [](Bytes, std::size_t, Offsets, Steps s, std::int64_t&) { s[0] = 1U << 30; });
  expect_corrupt("is empty", [](Bytes b, std::size_t, Offsets, Steps, std::int64_t&) {
    std::memset(b, 0, 4);  // The masks of step 0.
  });
  expect_corrupt("column", [](Bytes b, std::size_t data, Offsets, Steps, std::int64_t&) {
    b[data] &= ~WindowMatrix::kNewWindow;  // The first window never begins.
  });
  expect_corrupt("after", [](Bytes b, std::size_t data, Offsets, Steps, std::int64_t&) {
    b[data] |= std::byte{0x7f};  // A first column past the second.
  });
  expect_corrupt("block 0", [](Bytes, std::size_t, Offsets, Steps s, std::int64_t&) { --s[0]; });
}

}  // namespace
}  // namespace rarefy
