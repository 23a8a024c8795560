// Storage of dense tiles: the order that kernels rely on, padding, and what validate finds.
#include "formats/dense_tiles.h"

#include <gtest/gtest.h>

#include "formats/test_weights.h"

namespace rarefy {
namespace {

TEST(DenseTiles, Bf16TilesAreInVnniOrder) {
  constexpr std::int64_t kRows = 20;
  constexpr std::int64_t kCols = 40;
  std::vector<BFloat16> values(kRows * kCols);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i].bits = static_cast<std::uint16_t>(i + 1);
  const DenseSource source({values.data(), DType::kBF16, kRows, kCols, kCols});
  const auto a =
      std::dynamic_pointer_cast<const DenseTiles>(pack(source, format::dense_tiles(16, 32)));
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->strips(), 2);
  EXPECT_EQ(a->tiles_per_strip(), 2);
  EXPECT_EQ(a->bytes(), 4096U);
  EXPECT_EQ(a->nnz(), kRows * kCols);
  for (std::int64_t r = 0; r < 32; ++r) {
    for (std::int64_t k = 0; k < 64; ++k) {
      const auto* tile = reinterpret_cast<const BFloat16*>(a->strip(r / 16) + k / 32 * 1024);
      const std::int64_t place = (k % 32) / 2 * 32 + r % 16 * 2 + k % 2;
      const auto want = r < kRows && k < kCols ? r * kCols + k + 1 : 0;
      ASSERT_EQ(tile[place].bits, want) << r << ", " << k;
    }
  }
  EXPECT_NO_THROW(a->validate());
}

TEST(DenseTiles, F32TilesHoldOneColumnALine) {
  std::vector<float> values(16 * 16);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) - 3.5F;
  const DenseSource source({values.data(), DType::kF32, 16, 16, 16});
  const auto a =
      std::dynamic_pointer_cast<const DenseTiles>(pack(source, format::dense_tiles(16, 16)));
  const auto* tile = reinterpret_cast<const float*>(a->strip(0));
  for (std::size_t r = 0; r < 16; ++r)
    for (std::size_t k = 0; k < 16; ++k) EXPECT_EQ(tile[k * 16 + r], values[r * 16 + k]);
}

TEST(DenseTiles, TileShapeFollowsTheDtype) {
  EXPECT_TRUE(can_pack(format::dense_tiles(16, 32), 5, 5, DType::kBF16));
  EXPECT_TRUE(can_pack(format::dense_tiles(16, 32), 5, 5, DType::kF16));
  EXPECT_TRUE(can_pack(format::dense_tiles(16, 16), 5, 5, DType::kF32));
  EXPECT_FALSE(can_pack(format::dense_tiles(16, 16), 5, 5, DType::kBF16));
  EXPECT_FALSE(can_pack(format::dense_tiles(16, 32), 5, 5, DType::kF32));
  EXPECT_FALSE(can_pack(format::dense_tiles(32, 32), 5, 5, DType::kF16));
}

TEST(DenseTiles, ReadsBackAnyRangeOfRows) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const auto& [rows, cols] : {std::pair{1, 1}, {16, 32}, {33, 65}, {7, 100}}) {
      const auto values =
          testing::make_weights({rows, cols, testing::Pattern::kNegativeZeros, 0.5}, 11);
      const DenseSource source({values.data(), DType::kF32, rows, cols, cols});
      const int width = static_cast<int>(DenseTiles::tile_cols(dtype));
      const MatrixPtr a = pack(source, format::dense_tiles(16, width), dtype);
      EXPECT_NO_THROW(a->validate());
      const std::int64_t begin = rows / 3;
      std::vector<std::byte> raw(static_cast<std::size_t>((rows - begin) * cols) * size_of(dtype));
      a->read_rows(begin, rows, raw.data());
      std::vector<float> got(static_cast<std::size_t>((rows - begin) * cols));
      convert_elements(raw.data(), dtype, got.data(), DType::kF32, got.size());
      for (std::size_t i = 0; i < got.size(); ++i) {
        const float want = values[static_cast<std::size_t>(begin * cols) + i];
        EXPECT_NEAR(got[i], want, std::abs(want) / 256);  // bf16 keeps 8 bits.
        EXPECT_FALSE(want == 0 && std::signbit(got[i]));
      }
    }
  }
}

TEST(DenseTiles, ValidateFindsWrongSizesPaddingAndCounts) {
  const auto complaint = [](std::int64_t nnz, Buffer values) -> std::string {
    try {
      DenseTiles(10, 20, DType::kBF16, nnz, std::move(values)).validate();
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), ErrorKind::kCorrupt);
      return e.what();
    }
    return "";
  };
  EXPECT_EQ(complaint(0, Buffer::zeros(1024)), "");
  EXPECT_NE(complaint(0, Buffer::zeros(2048)), "");
  EXPECT_NE(complaint(1, Buffer::zeros(1024)), "");
  Buffer padded = Buffer::zeros(1024);
  padded.as<std::uint16_t>()[strip_index(10, 0, 2)] = 0x3f80;
  EXPECT_NE(complaint(0, std::move(padded)).find("padding"), std::string::npos);
}

}  // namespace
}  // namespace rarefy
