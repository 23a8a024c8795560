// The layout of compressed sparse blocks: which entries a block holds, the order of its visits, and
// what validate() finds.
#include "formats/csb.h"

#include <gtest/gtest.h>

#include <cstring>
#include <utility>
#include <vector>

#include "io/expect_error.h"
#include "rarefy/matrix.h"

namespace rarefy {
namespace {

MatrixPtr pack_csb(const std::vector<float>& values, std::int64_t rows, std::int64_t cols,
                   DType dtype = DType::kF32) {
  return pack(DenseSource({values.data(), DType::kF32, rows, cols, cols}), format::kCsb, dtype);
}

const CsbMatrix& as_csb(const MatrixPtr& packed) {
  return dynamic_cast<const CsbMatrix&>(*packed);
}

TEST(Csb, SortsTheRowsOfABlockByTheirEntries) {
  constexpr std::int64_t kCols = 200;
  std::vector<float> dense(3 * kCols);
  dense[5] = 1;  // Row 0: columns 5, 127 and, in the next block, 128.
  dense[127] = 2;
  dense[128] = 3;
  dense[kCols + 9] = 4;          // Row 1: column 9.
  dense[2 * kCols + 9] = -0.0F;  // A zero.
  dense[2 * kCols + 100] = 5;    // Row 2: column 100.
  dense[2 * kCols + 199] = 6;    // And 199, of the next block.
  const MatrixPtr packed = pack_csb(dense, 3, kCols);
  const CsbMatrix& a = as_csb(packed);
  a.validate();
  EXPECT_EQ(a.nnz(), 6);
  ASSERT_EQ(a.grid_rows(), 1);
  ASSERT_EQ(a.grid_cols(), 2);
  EXPECT_EQ(std::vector<std::int64_t>(a.visit_offsets(), a.visit_offsets() + 3),
            (std::vector<std::int64_t>{0, 3, 5}));
  EXPECT_EQ(std::vector<std::int64_t>(a.entry_offsets(), a.entry_offsets() + 3),
            (std::vector<std::int64_t>{0, 4, 6}));
  std::vector<std::pair<int, int>> visits;
  for (int v = 0; v < 5; ++v) visits.emplace_back(a.visits()[v].row, a.visits()[v].count());
  EXPECT_EQ(visits, (std::vector<std::pair<int, int>>{{1, 1}, {2, 1}, {0, 2}, {0, 1}, {2, 1}}));
  EXPECT_EQ(std::vector<int>(a.columns(), a.columns() + 6),
            (std::vector<int>{9, 100, 5, 127, 0, 71}));
  const auto* values = static_cast<const float*>(a.values());
  EXPECT_EQ(std::vector<float>(values, values + 6), (std::vector<float>{4, 5, 1, 2, 3, 6}));
  // Three offsets twice, five visits, six columns and six values, and two tails.
  EXPECT_EQ(a.bytes(), 2 * 3 * 8U + 5 * 2U + 6 + 6 * 4U + 2 * 64U);
}

TEST(Csb, HoldsFullBlocksAndEmptyOnesAndReadsAnyRows) {
  constexpr std::int64_t kRows = 300, kCols = 391;
  for (DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    std::vector<float> dense(static_cast<std::size_t>(kRows * kCols));
    for (std::int64_t r = 0; r < kRows; ++r) {
      for (std::int64_t c = 0; c < kCols; ++c) {
        // The first block is full, the second empty, the others hold a seventh.
        const bool first = r < 256 && c < 128;
        const bool second = r < 256 && c >= 128 && c < 256;
        if (first || (!second && (r * 3 + c) % 7 == 0))
          dense[static_cast<std::size_t>(r * kCols + c)] = static_cast<float>(1 + (r + c) % 90);
      }
    }
    const MatrixPtr packed = pack_csb(dense, kRows, kCols, dtype);
    packed->validate();
    const CsbMatrix& a = as_csb(packed);
    EXPECT_EQ(a.entry_offsets()[1], 256 * 128);
    EXPECT_EQ(a.entry_offsets()[2], 256 * 128);
    const MatrixPtr back = pack(*packed, format::kDense, DType::kF32);
    std::vector<float> rows(static_cast<std::size_t>(kRows * kCols));
    back->read_rows(0, kRows, rows.data());
    EXPECT_EQ(rows, dense);
    if (dtype != DType::kF32) continue;
    std::vector<float> middle(static_cast<std::size_t>(20 * kCols));
    a.read_rows(250, 270, middle.data());
    EXPECT_TRUE(std::equal(middle.begin(), middle.end(), dense.begin() + 250 * kCols));
  }
}

/// Copies a packed matrix, lets `damage` change it, and expects validate() to say `what`.
template <class Damage>
void expect_corrupt(const char* what, const Damage& damage) {
  constexpr std::int64_t kRows = 40, kCols = 300;
  std::vector<float> dense(static_cast<std::size_t>(kRows * kCols));
  for (std::size_t i = 0; i < dense.size(); i += 3 + i / 300 % 2)
    dense[i] = static_cast<float>(i % 7 + 1);
  const MatrixPtr packed = pack_csb(dense, kRows, kCols);
  const CsbMatrix::Arrays& good = as_csb(packed).arrays();
  const auto copy = [](const Buffer& from) {
    Buffer to(from.size());
    std::memcpy(to.data(), from.data(), from.size());
    return to;
  };
  CsbMatrix::Arrays arrays{copy(good.visit_offsets), copy(good.entry_offsets), copy(good.visits),
                           copy(good.columns), copy(good.values)};
  damage(arrays);
  const CsbMatrix bad({format::kCsb, kRows, kCols, DType::kF32, packed->nnz()}, std::move(arrays));
  testing::expect_error([&] { bad.validate(); }, ErrorKind::kCorrupt, {what});
}

TEST(Csb, ValidateFindsDamage) {
  using Arrays = CsbMatrix::Arrays;
  const auto visit = [](Arrays& a, std::size_t i) -> CsbMatrix::Visit& {
    return a.visits.as<CsbMatrix::Visit>()[i];
  };
  expect_corrupt("visit_offsets[0]", [](Arrays& a) { a.visit_offsets.as<std::int64_t>()[0] = 1; });
  expect_corrupt("entry_offsets[2]", [](Arrays& a) { a.entry_offsets.as<std::int64_t>()[2] = 1; });
  expect_corrupt("entry_offsets[1]", [](Arrays& a) { ++a.entry_offsets.as<std::int64_t>()[1]; });
  expect_corrupt("visits: expected", [](Arrays& a) { ++a.visit_offsets.as<std::int64_t>()[3]; });
  expect_corrupt("columns: expected", [](Arrays& a) { a.columns = Buffer(100); });
  expect_corrupt("values: expected", [](Arrays& a) { a.values = Buffer(100); });
  expect_corrupt("visits[0].row: expected below 40", [&](Arrays& a) { visit(a, 0).row = 40; });
  expect_corrupt("visits[1].row: expected each row once",
                 [&](Arrays& a) { visit(a, 1).row = visit(a, 0).row; });
  expect_corrupt("visits[1]: expected more entries",
                 [&](Arrays& a) { std::swap(visit(a, 0), visit(a, 1)); });
  expect_corrupt("visits[39]: expected at most", [&](Arrays& a) { ++visit(a, 39).last; });
  expect_corrupt("columns[1]: expected", [](Arrays& a) {
    std::swap(a.columns.as<std::uint8_t>()[0], a.columns.as<std::uint8_t>()[1]);
  });
  expect_corrupt("to 43, found 44", [](Arrays& a) {
    // The last block is 44 columns wide.
    a.columns.as<std::uint8_t>()[a.entry_offsets.as<std::int64_t>()[3] - 1] = 44;
  });
  expect_corrupt("nonzeros", [](Arrays& a) { a.values.as<float>()[3] = 0; });
}

}  // namespace
}  // namespace rarefy
