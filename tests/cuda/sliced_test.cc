// The sliced family: packing on any machine, every kind of kernel against the reference on a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "family_on_device.h"
#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/sliced/pack.h"

namespace rarefy::gpu {
namespace {

std::uint32_t place_of(std::uint32_t row) {
  return row ^ (row >> 3 & 7);
}

/// Place and value of a step of an f32 weight's batch.
struct Entry {
  std::uint16_t place = 0;
  float value = 0;
};
Entry entry_of(const SlicedArrays& arrays, std::size_t batch, std::size_t lane, std::size_t i) {
  constexpr std::size_t kBytes = 32 * 4 * (2 + 4);
  const std::byte* from = arrays.batches.data() + batch * kBytes;
  Entry entry;
  std::memcpy(&entry.place, from + (lane * 4 + i) * 2, 2);
  std::memcpy(&entry.value, from + 256 + (lane * 4 + i) * 4, 4);
  return entry;
}

/// Adds up what the arrays hold, as the kernel would.
std::vector<float> unpack(const SlicedArrays& arrays, const SliceSpec& spec, std::int64_t rows,
                          std::int64_t cols) {
  std::vector<float> dense(static_cast<std::size_t>(rows * cols));
  const std::size_t ranges = arrays.rows.size() - 1;
  std::set<std::size_t> seen;
  for (std::size_t range = 0; range < ranges; ++range) {
    std::map<std::uint32_t, std::uint32_t> row_of_slot;
    for (std::uint32_t r = arrays.rows[range]; r < arrays.rows[range + 1]; ++r)
      row_of_slot[r - arrays.rows[range]] = r;
    for (std::uint32_t f = arrays.fold_begin[range]; f < arrays.fold_begin[range + 1]; ++f) {
      const SliceFold& fold = arrays.folds[f];
      for (std::uint32_t i = 0; i < fold.count; ++i) {
        EXPECT_FALSE(row_of_slot.contains(fold.first + i)) << "slots are used once";
        row_of_slot[fold.first + i] = row_of_slot.at(fold.slot);
        const std::uint32_t rows_of_range = arrays.rows[range + 1] - arrays.rows[range];
        EXPECT_EQ(arrays.extra_rows[arrays.extra_begin[range] + fold.first + i - rows_of_range],
                  row_of_slot.at(fold.slot));
      }
    }
    for (int part = 0; part < spec.parts; ++part) {
      const std::size_t stream =
          (range * static_cast<std::size_t>(spec.parts) + static_cast<std::size_t>(part)) *
          static_cast<std::size_t>(spec.warps);
      std::set<std::uint16_t> slots_of_part;
      for (std::uint32_t s = arrays.streams[stream].slice;
           s < arrays.streams[stream + static_cast<std::size_t>(spec.warps)].slice; ++s) {
        for (int i = 0; i < 32 / spec.lanes; ++i) {
          const std::uint16_t slot =
              arrays
                  .slots[s * (32U / static_cast<unsigned>(spec.lanes)) + static_cast<unsigned>(i)];
          if (slot != 0xFFFF) {
            EXPECT_TRUE(slots_of_part.insert(slot).second) << "two lanes would write one sum";
          }
        }
        for (std::uint32_t batch = arrays.slices[s]; batch < arrays.slices[s + 1]; ++batch) {
          seen.insert(batch);
          for (std::size_t lane = 0; lane < 32; ++lane) {
            const std::uint16_t slot = arrays.slots[s * (32U / static_cast<unsigned>(spec.lanes)) +
                                                    lane / static_cast<std::size_t>(spec.lanes)];
            for (std::size_t i = 0; i < 4; ++i) {
              const auto [place, value] = entry_of(arrays, batch, lane, i);
              if (place >= spec.part) {
                EXPECT_LT(place, spec.part + 8);
                EXPECT_EQ(value, 0.0F);
                continue;
              }
              // The swizzle is its own inverse.
              const std::uint32_t column =
                  place_of(place) + static_cast<std::uint32_t>(part * spec.part);
              EXPECT_LT(column, cols);
              EXPECT_NE(slot, 0xFFFF);
              dense[row_of_slot.at(slot) * static_cast<std::size_t>(cols) + column] += value;
            }
          }
        }
      }
    }
  }
  EXPECT_EQ(seen.size(), arrays.slices.back()) << "every batch has a warp";
  return dense;
}

TEST(PackSliced, HoldsEveryNonzeroOnce) {
  for (Pattern pattern :
       {Pattern::kUniform, Pattern::kEmptyRows, Pattern::kOneFullRow, Pattern::kRowSkew,
        Pattern::kColumnRuns, Pattern::kZero, Pattern::kFull}) {
    const TestWeight w({67, 301, pattern, 0.05}, DType::kF32);
    const auto& csr = dynamic_cast<const CsrMatrix&>(*w.csr);
    std::vector<float> expected(67 * 301);
    w.source->read_rows(0, 67, expected.data());
    for (const SliceSpec& spec : {SliceSpec{1, 4, 304, 1, 1000}, SliceSpec{2, 2, 152, 2, 40},
                                  SliceSpec{4, 8, 104, 3, 64}, SliceSpec{8, 1, 304, 1, 128},
                                  SliceSpec{16, 4, 304, 1, 256}, SliceSpec{32, 4, 160, 2, 512}}) {
      for (const std::int64_t ranges : {1, 3, 70}) {
        const SlicedArrays arrays = pack_sliced(csr, split_rows(w.pattern.row_nnz, ranges), spec);
        EXPECT_EQ(unpack(arrays, spec, 67, 301), expected)
            << testing::to_string(pattern) << " " << spec.lanes << " " << ranges;
      }
    }
  }
}

/// Cycles that shared memory takes for the gathers: of eight lanes, as many as the commonest
/// residue has places.
double cycles_of(const SlicedArrays& arrays) {
  double cycles = 0;
  for (std::size_t batch = 0; batch < arrays.slices.back(); ++batch) {
    for (std::size_t i = 0; i < 4; ++i) {
      for (std::size_t unit = 0; unit < 4; ++unit) {
        std::map<std::uint32_t, int> residues;
        int most = 0;
        for (std::size_t lane = unit * 8; lane < unit * 8 + 8; ++lane)
          most = std::max(most, ++residues[entry_of(arrays, batch, lane, i).place % 8U]);
        cycles += most;
      }
    }
  }
  return cycles;
}

TEST(PackSliced, OrderAvoidsConflictsAndSteps) {
  const TestWeight w({1024, 4096, Pattern::kUniform, 0.02}, DType::kF32);
  const auto& csr = dynamic_cast<const CsrMatrix&>(*w.csr);
  const auto nonzeros = static_cast<double>(csr.entries());
  for (const int lanes : {1, 2, 4, 8, 16}) {
    const SlicedArrays arrays =
        pack_sliced(csr, split_rows(w.pattern.row_nnz, 2), {lanes, 16, 4096, 1, 1000});
    const double steps = static_cast<double>(arrays.slices.back()) * 128 / nonzeros;
    // In eighths: eight nonzeros a cycle at best. Places in random order take about 2.6.
    const double cycles = cycles_of(arrays) * 8 / nonzeros;
    EXPECT_LT(steps, lanes <= 4 ? 1.12 : 1.6) << lanes;
    EXPECT_LT(cycles, lanes <= 4 ? 1.3 : 1.7) << lanes;
  }
}

TEST(PackSliced, SkewedRowsCostLittleMore) {
  // Row lengths from nothing to twice the mean.
  const TestWeight w({1024, 4096, Pattern::kRowSkew, 0.05}, DType::kF32);
  const auto& csr = dynamic_cast<const CsrMatrix&>(*w.csr);
  const SlicedArrays arrays =
      pack_sliced(csr, split_rows(w.pattern.row_nnz, 4), {2, 32, 4096, 1, 277});
  EXPECT_LT(static_cast<double>(arrays.slices.back()) * 128 / static_cast<double>(csr.entries()),
            1.15);
}

TEST(SplitRows, GivesRangesOfLikeWork) {
  std::vector<std::int32_t> rows(1000);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<std::int32_t>(i % 10 * 8);
  const std::vector<std::uint32_t> begins = split_rows(rows, 16);
  ASSERT_EQ(begins.size(), 17U);
  EXPECT_EQ(begins.front(), 0U);
  EXPECT_EQ(begins.back(), 1000U);
  for (std::size_t i = 0; i < 16; ++i) {
    ASSERT_LE(begins[i], begins[i + 1]);
    const std::int64_t nnz =
        std::accumulate(rows.begin() + begins[i], rows.begin() + begins[i + 1], std::int64_t{0});
    EXPECT_NEAR(static_cast<double>(nnz), 36000 / 16.0, 150);
  }
  // More ranges than rows; rows without nonzeros.
  for (const auto& few : {std::vector<std::int32_t>{}, std::vector<std::int32_t>{5, 0, 7},
                          std::vector<std::int32_t>(40, 0)}) {
    const std::vector<std::uint32_t> split = split_rows(few, 8);
    ASSERT_EQ(split.size(), 9U);
    EXPECT_EQ(split.front(), 0U);
    EXPECT_EQ(split.back(), few.size());
    EXPECT_TRUE(std::is_sorted(split.begin(), split.end()));
  }
}

class SlicedOnDevice : public FamilyOnDevice {
 protected:
  SlicedOnDevice() : FamilyOnDevice(sliced_family(), {}) {}
};

TEST_F(SlicedOnDevice, EveryPatternEveryDtype) {
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    for (const Pattern pattern :
         {Pattern::kUniform, Pattern::kEmptyRows, Pattern::kOneFullRow, Pattern::kRowSkew,
          Pattern::kColumnRuns, Pattern::kZero, Pattern::kNegativeZeros}) {
      const TestWeight weight({131, 515, pattern, 0.1}, dtype);
      check(weight, {.n = 9, .activations = dtype, .output = dtype}, 5);
    }
  }
}

TEST_F(SlicedOnDevice, EveryNumberOfTokensInBothLayouts) {
  const TestWeight weight({700, 1000, Pattern::kUniform, 0.05}, DType::kF16);
  for (const std::int64_t n : {4, 8, 11, 16, 17, 33, 64, 100}) {
    for (const Layout layout : {Layout::kTokenMajor, Layout::kFeatureMajor})
      check(weight, {.n = n, .layout = layout}, 17);
  }
}

TEST_F(SlicedOnDevice, EveryConfigurationOfProblemsWithPartsAndPieces) {
  const TestWeight weight({900, 14336, Pattern::kRowSkew, 0.01}, DType::kF32);
  for (const Layout layout : {Layout::kTokenMajor, Layout::kFeatureMajor})
    check(weight, {.n = 16, .activations = DType::kF32, .output = DType::kF32, .layout = layout},
          1);
}

TEST_F(SlicedOnDevice, MixedDtypesAndEpilogues) {
  const TestWeight weight({65, 300, Pattern::kRowSkew, 0.1}, DType::kBF16);
  for (const Epilogue& e : kSomeEpilogues) {
    check(weight,
          {.n = 8,
           .activations = DType::kF32,
           .output = DType::kF32,
           .activation = e.activation,
           .bias = e.bias,
           .residual = e.residual},
          2);
  }
}

TEST_F(SlicedOnDevice, NotFiniteActivationsReachTheRowsThatHoldThem) {
  const TestWeight weight({64, 128, Pattern::kUniform, 0.2}, DType::kF16);
  for (const float special :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    check(weight, {.n = 8, .output = DType::kF32}, 2, special);
  }
}

}  // namespace
}  // namespace rarefy::gpu
