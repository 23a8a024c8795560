#include "rarefy/sparse_files.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <limits>
#include <numeric>
#include <string>

#include "expect_error.h"
#include "shared_data.h"
#include "temporary_directory.h"

namespace rarefy {
namespace {

using testing::expect_error;
using testing::TemporaryDirectory;

SparseText read(const std::string& name, const std::string& text) {
  const TemporaryDirectory dir;
  return read_sparse_text(dir.write(name, text));
}

void expect_corrupt(const std::string& name, const std::string& text,
                    std::initializer_list<const char*> parts,
                    ErrorKind kind = ErrorKind::kCorrupt) {
  SCOPED_TRACE(text);
  expect_error([&] { read(name, text); }, kind, parts);
}

TEST(Smtx, ReadsAndSorts) {
  const SparseText m = read("x.smtx", "3, 5, 4\n0 2 2 4\n1 4 3 0\n");
  EXPECT_EQ(m.rows, 3);
  EXPECT_EQ(m.cols, 5);
  EXPECT_EQ(m.row_offsets, (std::vector<std::int64_t>{0, 2, 2, 4}));
  EXPECT_EQ(m.col_indices, (std::vector<std::int32_t>{1, 4, 0, 3}));
  EXPECT_TRUE(m.values.empty());
  const SparseText empty = read("x.smtx", "2,3,0\r\n0 0 0\r\n\r\n");
  EXPECT_EQ(empty.row_offsets.size(), 3U);
  EXPECT_TRUE(empty.col_indices.empty());
  EXPECT_EQ(read("x.smtx", "0, 0, 0\n0\n").rows, 0);
}

TEST(Smtx, NamesTheLine) {
  expect_corrupt("x.smtx", "", {"x.smtx:1", "number of rows", "end of the file"});
  expect_corrupt("x.smtx", "3, x, 4\n", {":1:", "number of columns", "'x'"});
  expect_corrupt("x.smtx", "3, 5\n", {":1:", "number of nonzeros", "end of the line"});
  expect_corrupt("x.smtx", "-3, 5, 4\n", {":1:", "'-3'"});
  expect_corrupt("x.smtx", "3, 5, 999999999\n0 0 0 0\n", {":1:", "the file can hold"});
  expect_corrupt("x.smtx", "60000000, 5, 0\n0 0\n", {":1:", "rows", "60000000"});
  expect_corrupt("x.smtx", "3, 5, 4\n1 2 2 4\n1 4 3 0\n", {":2:", "row offset", "'1'"});
  expect_corrupt("x.smtx", "3, 5, 4\n0 2 1 4\n1 4 3 0\n", {":2:", "ascending", "from 2", "'1'"});
  expect_corrupt("x.smtx", "3, 5, 4\n0 2 2 3\n1 4 3 0\n", {":2:", "from 4 to 4", "'3'"});
  expect_corrupt("x.smtx", "3, 5, 4\n0 2 2 4 4\n1 4 3 0\n", {":2:", "end of the line", "'4'"});
  expect_corrupt("x.smtx", "3, 5, 4\n0 2 2\n4 1 4 3\n", {":2:", "end of the line"});
  expect_corrupt("x.smtx", "3, 5, 4\n0 2 2 4\n1 5 3 0\n", {":3:", "column", "0 to 4", "'5'"});
  expect_corrupt("x.smtx", "3, 5, 4\n0 2 2 4\n1 4 3\n", {":3:", "column", "end of the line"});
  expect_corrupt("x.smtx", "3, 5, 4\n0 2 2 4\n1 4 3 0 1\n", {":3:", "end of the file", "'1'"});
  expect_corrupt("x.smtx", "3, 5, 4\n0 2 2 4\n1 1 3 0\n", {":3:", "row 0", "1 twice"});
  expect_corrupt("x.smtx", "3, 5, 4.5\n", {":1:", "'4.5'"});
}

TEST(MatrixMarket, ReadsCoordinates) {
  const SparseText m = read("x.mtx",
                            "%%MatrixMarket matrix coordinate real general\n% a comment\n\n"
                            "3 4 4\n3 1 -2.5e-1\n1 4 +3\n% between\n1 2 1e-60\n2 2 inf\n");
  EXPECT_EQ(m.rows, 3);
  EXPECT_EQ(m.cols, 4);
  EXPECT_EQ(m.row_offsets, (std::vector<std::int64_t>{0, 2, 3, 4}));
  EXPECT_EQ(m.col_indices, (std::vector<std::int32_t>{1, 3, 1, 0}));
  EXPECT_EQ(m.values, (std::vector<float>{0, 3, std::numeric_limits<float>::infinity(), -0.25F}));

  const SparseText pattern = read(
      "x.mtx", "%%matrixmarket MATRIX Coordinate Pattern Symmetric\r\n2 2 2\r\n1 1\r\n2 1\r\n");
  EXPECT_EQ(pattern.col_indices, (std::vector<std::int32_t>{0, 1, 0}));
  EXPECT_TRUE(pattern.values.empty());

  const SparseText skew =
      read("x.mtx", "%%MatrixMarket matrix coordinate integer skew-symmetric\n2 2 1\n2 1 7\n");
  EXPECT_EQ(skew.col_indices, (std::vector<std::int32_t>{1, 0}));
  EXPECT_EQ(skew.values, (std::vector<float>{-7, 7}));
}

TEST(MatrixMarket, ReadsArraysColumnByColumn) {
  const SparseText m =
      read("x.mtx", "%%MatrixMarket matrix array real general\n2 3\n1\n0\n-0.0\n4\n5\n6\n");
  EXPECT_EQ(m.row_offsets, (std::vector<std::int64_t>{0, 2, 4}));
  EXPECT_EQ(m.col_indices, (std::vector<std::int32_t>{0, 2, 1, 2}));
  EXPECT_EQ(m.values, (std::vector<float>{1, 5, 4, 6}));
  const SparseText symmetric =
      read("x.mtx", "%%MatrixMarket matrix array integer symmetric\n2 2\n1\n2\n3\n");
  EXPECT_EQ(symmetric.values, (std::vector<float>{1, 2, 2, 3}));
  const SparseText skew =
      read("x.mtx", "%%MatrixMarket matrix array real skew-symmetric\n2 2\n2\n");
  EXPECT_EQ(skew.values, (std::vector<float>{-2, 2}));
}

TEST(MatrixMarket, NamesTheLine) {
  const std::string head = "%%MatrixMarket matrix coordinate real general\n";
  expect_corrupt("x.mtx", "", {"x.mtx:1", "%%MatrixMarket"});
  expect_corrupt("x.mtx", "1 1 1\n1 1 1\n", {":1:", "%%MatrixMarket", "'1'"});
  const auto kUnsupported = ErrorKind::kUnsupported;
  expect_corrupt("x.mtx", "%%MatrixMarket matrix coordinate complex general\n1 1 0\n",
                 {":1:", "'complex'"}, kUnsupported);
  expect_corrupt("x.mtx", "%%MatrixMarket matrix coordinate real hermitian\n1 1 0\n",
                 {"'hermitian'"}, kUnsupported);
  expect_corrupt("x.mtx", "%%MatrixMarket vector coordinate real general\n1 1 0\n", {"'vector'"},
                 kUnsupported);
  expect_corrupt("x.mtx", "%%MatrixMarket matrix array pattern general\n1 1\n", {":1:"});
  expect_corrupt("x.mtx", head + "2 2 9999\n1 1 1\n", {":2:", "the file can hold", "'9999'"});
  expect_corrupt("x.mtx", head + "2 2\n1 1 1\n", {":2:", "end of the line"});
  expect_corrupt("x.mtx", head + "2 2 1\n3 1 1\n", {":3:", "row from 1 to 2", "'3'"});
  expect_corrupt("x.mtx", head + "2 2 1\n1 0 1\n", {":3:", "column from 1 to 2", "'0'"});
  expect_corrupt("x.mtx", head + "2 2 1\n1 1 x\n", {":3:", "number", "'x'"});
  expect_corrupt("x.mtx", head + "2 2 1\n1 1 1e99\n", {":3:", "32-bit float", "'1e99'"});
  expect_corrupt("x.mtx", head + "2 2 1\n1 1 1e999\n", {":3:", "32-bit float"});
  expect_corrupt("x.mtx", head + "2 2 1\n1 1\n", {":3:", "number", "end of the line"});
  expect_corrupt("x.mtx", head + "2 2 1\n1 1 1 1\n", {":3:", "end of the line", "'1'"});
  expect_corrupt("x.mtx", head + "2 2 2\n1 1 1\n", {":4:", "row", "end of the file"});
  expect_corrupt("x.mtx", head + "2 2 1\n1 1 1\n2 2 2\n", {":4:", "end of the file", "'2'"});
  expect_corrupt("x.mtx", head + "2 2 2\n1 1 1\n1 1 2\n", {"row 1, column 1 twice"});
  expect_corrupt("x.mtx", "%%MatrixMarket matrix coordinate real symmetric\n2 3 0\n",
                 {":2:", "square", "2x3"});
  expect_corrupt("x.mtx", "%%MatrixMarket matrix coordinate real skew-symmetric\n2 2 1\n1 1 1\n",
                 {":3:", "diagonal"});
  expect_corrupt("x.mtx", "%%MatrixMarket matrix array real general\n1000 1000\n1\n", {":4:"});
  expect_corrupt("x.csv", "1\n", {"x.csv", ".smtx or .mtx"}, kUnsupported);
}

SparseText sample() {
  return {3, 4, {0, 2, 2, 4}, {0, 3, 1, 2}, {1.5F, -0.1F, 1e-45F, 3.4028235e38F}};
}

TEST(SparseFiles, ReadWhatTheyWrite) {
  const TemporaryDirectory dir;
  const SparseText m = sample();
  write_sparse_text(dir.path() / "x.mtx", m);
  const SparseText back = read_sparse_text(dir.path() / "x.mtx");
  EXPECT_EQ(back.row_offsets, m.row_offsets);
  EXPECT_EQ(back.col_indices, m.col_indices);
  EXPECT_EQ(back.values, m.values);

  write_sparse_text(dir.path() / "x.smtx", m);
  const SparseText pattern = read_sparse_text(dir.path() / "x.smtx");
  EXPECT_EQ(pattern.row_offsets, m.row_offsets);
  EXPECT_EQ(pattern.col_indices, m.col_indices);
  EXPECT_TRUE(pattern.values.empty());
  std::ifstream file(dir.path() / "x.smtx");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(file), {}), "3, 4, 4\n0 2 2 4\n0 3 1 2\n");

  write_sparse_text(dir.path() / "y.mtx", pattern);
  EXPECT_EQ(read_sparse_text(dir.path() / "y.mtx").col_indices, m.col_indices);
  EXPECT_TRUE(read_sparse_text(dir.path() / "y.mtx").values.empty());
  const SparseText empty{0, 0, {0}, {}, {}};
  write_sparse_text(dir.path() / "e.mtx", empty);
  EXPECT_EQ(read_sparse_text(dir.path() / "e.mtx").rows, 0);
}

TEST(SparseFiles, RefuseToWriteWhatIsNoCsr) {
  const TemporaryDirectory dir;
  const auto refused = [&](void (*change)(SparseText&), std::initializer_list<const char*> parts) {
    SparseText m = sample();
    change(m);
    expect_error([&] { write_sparse_text(dir.path() / "x.mtx", m); }, ErrorKind::kInvalidArgument,
                 parts);
    expect_error([&] { SparseTextSource(m, DType::kF32, 0); }, ErrorKind::kInvalidArgument, parts);
  };
  refused([](SparseText& m) { m.row_offsets.pop_back(); }, {"4 row offsets", "got 3"});
  refused([](SparseText& m) { m.row_offsets[1] = 5; }, {"ascend"});
  refused([](SparseText& m) { m.row_offsets[3] = 3; }, {"ascend from 0 to 4"});
  refused([](SparseText& m) { m.col_indices[1] = 0; }, {"row 0", "got 0 after 0"});
  refused([](SparseText& m) { m.col_indices[3] = 4; }, {"row 2", "below 4", "got 4"});
  refused([](SparseText& m) { m.values.pop_back(); }, {"4 values or none", "got 3"});
  EXPECT_FALSE(std::filesystem::exists(dir.path() / "x.mtx"));
}

TEST(SparseTextSource, ReadsRowsOfAnyDType) {
  const SparseTextSource f32(sample(), DType::kF32, 0);
  std::vector<float> rows(8);
  f32.read_rows(1, 3, rows.data());
  EXPECT_EQ(rows, (std::vector<float>{0, 0, 0, 0, 0, 1e-45F, 3.4028235e38F, 0}));
  const SparseTextSource bf16(sample(), DType::kBF16, 0);
  std::vector<BFloat16> row(4);
  bf16.read_rows(0, 1, row.data());
  EXPECT_EQ(to_float(row[0]), 1.5F);
  EXPECT_EQ(row[3].bits, to_bfloat16(-0.1F).bits);
}

TEST(SparseTextSource, DrawsNormalValuesBySeed) {
  constexpr std::int64_t kRows = 64;
  constexpr std::int64_t kCols = 512;
  SparseText dense{kRows, kCols, {}, {}, {}};
  for (std::int64_t r = 0; r <= kRows; ++r) dense.row_offsets.push_back(r * kCols);
  for (std::int64_t i = 0; i < kRows * kCols; ++i) {
    dense.col_indices.push_back(static_cast<std::int32_t>(i % kCols));
  }
  std::vector<float> a(kRows * kCols);
  std::vector<float> b(kRows * kCols);
  SparseTextSource(dense, DType::kF32, 1).read_rows(0, kRows, a.data());
  SparseTextSource(dense, DType::kF32, 1).read_rows(0, kRows, b.data());
  EXPECT_EQ(a, b);
  SparseTextSource(dense, DType::kF32, 2).read_rows(0, kRows, b.data());
  EXPECT_NE(a, b);
  const double n = kRows * kCols;
  const double mean = std::accumulate(a.begin(), a.end(), 0.0) / n;
  const double square = std::inner_product(a.begin(), a.end(), a.begin(), 0.0) / n;
  EXPECT_NEAR(mean, 0.0, 5.0 / std::sqrt(n));                // five standard errors of the mean
  EXPECT_NEAR(square, 1.0, 5.0 * std::sqrt(2.0 / n));        // and of the variance
  for (const float x : a) ASSERT_GE(std::abs(x), 0x1p-14F);  // Stored means not zero, in f16 too.
}

TEST(Smtx, ReadsTheDeepLearningMatrixCollection) {
  const auto folder = testing::shared_path("data/dlmc");
  if (!folder) GTEST_SKIP() << "shared data/dlmc is missing";
  int files = 0;
  const TemporaryDirectory dir;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(*folder)) {
    if (entry.path().extension() != ".smtx") continue;
    const SparseText m = read_sparse_text(entry.path());
    EXPECT_GT(m.col_indices.size(), 0U) << entry.path();
    write_sparse_text(dir.path() / "again.smtx", m);
    const SparseText again = read_sparse_text(dir.path() / "again.smtx");
    EXPECT_EQ(again.row_offsets, m.row_offsets);
    EXPECT_EQ(again.col_indices, m.col_indices);
    ++files;
  }
  EXPECT_EQ(files, 16);
}

}  // namespace
}  // namespace rarefy
