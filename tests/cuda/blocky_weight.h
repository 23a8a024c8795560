// Weights for tests of kernels that store blocks: some blocks full, the others nearly empty.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "spmm_case.h"

namespace rarefy::gpu {

struct Blocky {
  std::int64_t rows = 0, cols = 0;
  int block_rows = 64, block_cols = 64;
  double stored = 0.25;  ///< Share of blocks that are dense.
  double scattered = 0;  ///< Density of the others.
  double within = 1;     ///< Density of the dense ones.
};

inline TestWeight blocky_weight(const Blocky& b, DType dtype, std::uint32_t seed = 1) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::bernoulli_distribution stored(b.stored), within(b.within), scattered(b.scattered);
  std::vector<float> values(static_cast<std::size_t>(b.rows * b.cols));
  for (std::int64_t top = 0; top < b.rows; top += b.block_rows) {
    for (std::int64_t left = 0; left < b.cols; left += b.block_cols) {
      const bool dense = stored(random);
      for (std::int64_t r = top; r < std::min(b.rows, top + b.block_rows); ++r)
        for (std::int64_t c = left; c < std::min(b.cols, left + b.block_cols); ++c)
          if (dense ? within(random) : scattered(random))
            values[static_cast<std::size_t>(r * b.cols + c)] = normal(random) + 2.0F;
    }
  }
  return {values, b.rows, b.cols, dtype};
}

}  // namespace rarefy::gpu
