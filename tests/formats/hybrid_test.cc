// The hybrid layout: which block goes where, what is stored for it, and what validate() finds.
#include "formats/hybrid.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "formats/hybrid_shares.h"
#include "io/expect_error.h"

namespace rarefy {
namespace {

/// Blocks of 64×64: block (r, c) keeps densities[r][c] of its positions.
std::vector<BFloat16> blocks_of(const std::vector<std::vector<double>>& densities) {
  const std::size_t cols = densities[0].size() * 64;
  std::vector<BFloat16> values(densities.size() * 64 * cols);
  std::mt19937 random(5);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (std::size_t i = 0; i < values.size(); ++i) {
    const double density = densities[i / cols / 64][i % cols / 64];
    values[i] = convert<BFloat16>(uniform(random) < density ? 1.0F : 0.0F);
  }
  return values;
}

MatrixPtr pack_values(const std::vector<BFloat16>& values, std::int64_t rows, std::int64_t cols,
                      const FormatSpec& spec) {
  return pack(DenseSource({values.data(), DType::kBF16, rows, cols, cols}), spec);
}

const std::vector<std::vector<double>> kMixed{{0.6, 0.02, 0.0}, {0.0, 0.3, 0.01}};

TEST(Hybrid, PutsEveryBlockWhereItBelongs) {
  const auto values = blocks_of(kMixed);
  const MatrixPtr packed = pack_values(values, 128, 192, format::hybrid(64, 64, 102));
  packed->validate();
  const auto& a = dynamic_cast<const HybridMatrix&>(*packed);
  // Two pairs of strips by two tiles of K in each of two blocks; the empty ones are nowhere.
  EXPECT_EQ(a.tile_pairs(), 8);
  EXPECT_EQ(std::vector(a.columns(), a.columns() + 8),
            (std::vector<std::int32_t>{0, 1, 0, 1, 2, 3, 2, 3}));
  ASSERT_NE(a.sparse(), nullptr);
  std::int64_t sparse = 0;
  for (std::size_t i = 0; i < values.size(); ++i) {
    const std::size_t block = i / 192 / 64 * 3 + i % 192 / 64;
    if (block == 1 || block == 5) sparse += values[i].bits != 0 ? 1 : 0;
  }
  EXPECT_EQ(a.sparse()->nnz(), sparse);
  EXPECT_EQ(a.bytes(), 5 * 8 + 8 * 4 + 9 * 8 + 16 * 64 +
                           static_cast<std::size_t>(a.nnz() - sparse) * 2 +
                           HybridMatrix::kTailBytes + a.sparse()->bytes());
}

TEST(Hybrid, HasNoSparsePartWhereNothingIsSparse) {
  const MatrixPtr packed =
      pack_values(blocks_of({{0.5, 0.0}}), 64, 128, format::hybrid(64, 64, 102));
  EXPECT_EQ(dynamic_cast<const HybridMatrix&>(*packed).sparse(), nullptr);
  const MatrixPtr zero = pack_values(blocks_of({{0.0}}), 64, 64, format::hybrid(32, 32, 1025));
  zero->validate();
  EXPECT_EQ(dynamic_cast<const HybridMatrix&>(*zero).sparse(), nullptr);
  EXPECT_EQ(dynamic_cast<const HybridMatrix&>(*zero).tile_pairs(), 0);
}

/// Every other row and column is dead: sorting leaves a quarter of the tiles.
TEST(Hybrid, SortingLeavesDeadRowsAndColumnsOut) {
  constexpr std::int64_t kSide = 256;
  std::vector<BFloat16> values(kSide * kSide);
  for (std::int64_t i = 0; i < kSide * kSide; ++i) {
    const bool alive = i / kSide % 2 == 1 && i % kSide % 2 == 0;
    values[static_cast<std::size_t>(i)] = convert<BFloat16>(alive ? 1.0F : 0.0F);
  }
  const auto pairs_of = [&](bool rows, bool cols) {
    const MatrixPtr packed =
        pack_values(values, kSide, kSide, format::hybrid(32, 32, 0, rows, cols));
    packed->validate();
    return dynamic_cast<const HybridMatrix&>(*packed).tile_pairs();
  };
  EXPECT_EQ(pairs_of(false, false), 64);
  EXPECT_EQ(pairs_of(true, false), 32);
  EXPECT_EQ(pairs_of(false, true), 32);
  EXPECT_EQ(pairs_of(true, true), 16);
}

TEST(Hybrid, SharesAreWhatPackingFinds) {
  const auto values = blocks_of(kMixed);
  const DenseSource source({values.data(), DType::kBF16, 128, 192, 192});
  const PatternStats pattern = pattern_stats(source);
  for (const int below : {0, 102, 1025}) {
    const FormatSpec spec = format::hybrid(64, 64, below);
    const MatrixPtr packed = pack(source, spec);
    const auto& a = dynamic_cast<const HybridMatrix&>(*packed);
    const HybridShares shares = hybrid_shares(spec, pattern);
    const double sparse = a.sparse() != nullptr ? static_cast<double>(a.sparse()->nnz()) : 0.0;
    EXPECT_EQ(shares.sparse_nonzeros, sparse) << below;
    EXPECT_EQ(shares.tile_nonzeros, static_cast<double>(a.nnz()) - sparse) << below;
    EXPECT_NEAR(shares.tiles, 2 * static_cast<double>(a.tile_pairs()), 0.5) << below;
  }
}

TEST(Hybrid, ReadsBackWhatWasPackedAtAnyNumberOfThreads) {
  ThreadPool one(1), three(3);
  for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>{1, 1},
                                   {17, 33},
                                   {64, 96},
                                   {300, 200},
                                   {0, 40},
                                   {40, 0}}) {
    std::mt19937 random(7);
    std::vector<BFloat16> values(static_cast<std::size_t>(rows * cols));
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::size_t column = i % static_cast<std::size_t>(cols);
      values[i] = convert<BFloat16>(random() % 100 < column % 90 ? 1.5F : 0.0F);
    }
    for (const FormatSpec& spec :
         {format::hybrid(32, 32, 0), format::hybrid(64, 32, 400), format::hybrid(32, 64, 400, true),
          format::hybrid(32, 32, 500, true, true), format::hybrid(32, 32, 1025, false, true)}) {
      const DenseSource source({values.data(), DType::kBF16, rows, cols, cols});
      const MatrixPtr a = pack(source, spec, one);
      const MatrixPtr b = pack(source, spec, three);
      a->validate();
      b->validate();
      EXPECT_EQ(a->bytes(), b->bytes());
      if (values.empty()) continue;
      std::vector<BFloat16> back(values.size());
      a->read_rows(0, rows, back.data());
      EXPECT_EQ(std::memcmp(back.data(), values.data(), values.size() * 2), 0) << spec.name();
      const std::int64_t begin = rows / 3;
      const std::int64_t end = rows - rows / 4;
      b->read_rows(begin, end, back.data());
      EXPECT_EQ(std::memcmp(back.data(), values.data() + begin * cols,
                            static_cast<std::size_t>((end - begin) * cols) * 2),
                0)
          << spec.name();
    }
  }
}

TEST(Hybrid, NamesAndShapes) {
  for (const FormatSpec& spec :
       {format::hybrid(64, 64, 0), format::hybrid(32, 128, 27, true),
        format::hybrid(32, 32, 1025, false, true), format::hybrid(256, 64, 3, true, true)})
    EXPECT_EQ(FormatSpec::parse(spec.name()), spec) << spec.name();
  EXPECT_EQ(format::hybrid(64, 128, 27, true, true).name(), "hybrid64x128-27-rows-cols");
  for (const char* name : {"hybrid", "hybrid64x64", "hybrid64x64-", "hybrid64-3", "hybrid64x64-3x",
                           "hybrid64x64--3", "hybrid64x64-3-cols-rows"})
    EXPECT_EQ(FormatSpec::parse(name), std::nullopt) << name;
  EXPECT_EQ(can_pack(format::hybrid(48, 64, 0), 64, 64, DType::kBF16).reason,
            "blocks of a hybrid are multiples of 32x32, got 48x64");
  EXPECT_EQ(can_pack(format::hybrid(64, 64, 1026), 64, 64, DType::kBF16).reason,
            "a hybrid is sparse below 0 to 1025 of 1024, got 1026");
  EXPECT_EQ(can_pack(format::hybrid(64, 64, 0), 64, 64, DType::kF32).reason,
            "hybrid weights are bf16, got f32");
}

Buffer copy_of(const Buffer& from) {
  Buffer to(from.size());
  if (from.size() != 0) std::memcpy(to.data(), from.data(), from.size());
  return to;
}

using Damage = std::function<void(HybridMatrix::Arrays&, std::int64_t& nnz)>;

void expect_corrupt(const char* what, const Damage& damage) {
  const auto values = blocks_of(kMixed);
  const MatrixPtr packed = pack_values(values, 128, 192, format::hybrid(64, 64, 102, true, true));
  const auto& good = dynamic_cast<const HybridMatrix&>(*packed);
  const HybridMatrix::Arrays& from = good.arrays();
  HybridMatrix::Arrays arrays{copy_of(from.row_order),
                              copy_of(from.col_order),
                              copy_of(from.pair_offsets),
                              copy_of(from.columns),
                              copy_of(from.strip_offsets),
                              copy_of(from.stream),
                              from.sparse};
  std::int64_t nnz = good.nnz();
  damage(arrays, nnz);
  const HybridMatrix bad({good.spec(), 128, 192, DType::kBF16, nnz}, std::move(arrays));
  testing::expect_error([&] { bad.validate(); }, ErrorKind::kCorrupt, {what});
}

TEST(Hybrid, ValidateFindsDamage) {
  using Arrays = HybridMatrix::Arrays;
  expect_corrupt("nonzeros", [](Arrays&, std::int64_t& nnz) { ++nnz; });
  expect_corrupt("row_order[3]", [](Arrays& a, std::int64_t&) {
    a.row_order.as<std::int32_t>()[3] = a.row_order.as<std::int32_t>()[2];
  });
  expect_corrupt("col_order[0]",
                 [](Arrays& a, std::int64_t&) { a.col_order.as<std::int32_t>()[0] = 192; });
  expect_corrupt("col_order: expected", [](Arrays& a, std::int64_t&) { a.col_order = Buffer(8); });
  expect_corrupt("pair_offsets[2]",
                 [](Arrays& a, std::int64_t&) { a.pair_offsets.as<std::int64_t>()[2] = -1; });
  expect_corrupt("columns: expected",
                 [](Arrays& a, std::int64_t&) { a.pair_offsets.as<std::int64_t>()[4] += 1; });
  expect_corrupt("columns[1]",
                 [](Arrays& a, std::int64_t&) { a.columns.as<std::int32_t>()[1] = 0; });
  expect_corrupt("columns[1]",
                 [](Arrays& a, std::int64_t&) { a.columns.as<std::int32_t>()[1] = 6; });
  expect_corrupt("stream: expected",
                 [](Arrays& a, std::int64_t&) { a.strip_offsets.as<std::uint64_t>()[8] += 2; });
  expect_corrupt("past the end of its strip",
                 [](Arrays& a, std::int64_t&) { a.strip_offsets.as<std::uint64_t>()[1] -= 2; });
  expect_corrupt("strip_offsets[1]: expected",
                 [](Arrays& a, std::int64_t&) { a.strip_offsets.as<std::uint64_t>()[1] += 2; });
  expect_corrupt("stored zero", [](Arrays& a, std::int64_t&) {
    a.stream.data()[64] = a.stream.data()[65] = std::byte{0};
  });
  expect_corrupt("that the sparse part has", [](Arrays& a, std::int64_t&) {
    // The tiles of the last block move to where the sparse part is.
    std::vector<BFloat16> full(std::size_t{128} * 192, convert<BFloat16>(1.0F));
    a.sparse =
        std::dynamic_pointer_cast<const CsbMatrix>(pack_values(full, 128, 192, format::kCsb));
  });
  expect_corrupt("sparse: expected", [](Arrays& a, std::int64_t&) {
    std::vector<BFloat16> other(std::size_t{64} * 192);
    a.sparse =
        std::dynamic_pointer_cast<const CsbMatrix>(pack_values(other, 64, 192, format::kCsb));
  });
}

}  // namespace
}  // namespace rarefy
