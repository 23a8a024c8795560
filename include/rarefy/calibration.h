// What a block of a weight costs on either kind of unit of this machine or of a GPU, measured: the
// curves that hybrid plans are cut by. docs/hybrid.md tells how they are found and used.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "rarefy/dtype.h"

namespace rarefy {

/// Where a block belongs by its density.
enum class Band : std::uint8_t {
  kEmpty,   ///< No nonzero: it is not stored.
  kSparse,  ///< One nonzero after the other is clearly cheaper.
  kSwing,   ///< Either way takes about as long.
  kDense,   ///< The matrix unit (or dense multiply-adds) is clearly cheaper.
};

const char* to_string(Band band);

/// The two curves for one dtype and one number of tokens; nanoseconds for 1024 positions of one
/// weight, on all threads or multiprocessors together, as functions of the density of its blocks.
struct BlockCurve {
  DType dtype = DType::kBF16;
  std::int64_t n = 128;
  double dense_ns = 0;     ///< The dense side of an empty block …
  double dense_slope = 0;  ///< … and what it takes more per unit of density (to decode, say).
  double sparse_ns = 0;    ///< The sparse side, likewise.
  double sparse_slope = 0;
  double call_us = 0;   ///< Of the dense side, before its first block: not in `dense_ns`.
  double whole_ns = 0;  ///< In a dense product of the whole weight; 0: not measured.

  [[nodiscard]] double dense_side(double density) const { return dense_ns + dense_slope * density; }
  [[nodiscard]] double sparse_side(double density) const {
    return sparse_ns + sparse_slope * density;
  }
  /// The density up to which the sparse side takes at most 1 / `margin` of the dense side; 0 where
  /// it never does, 1 where it always does.
  [[nodiscard]] double sparse_until(double margin = 1.0) const;
  [[nodiscard]] Band band(double density) const;

  /// Sides that differ by less than a tenth are as good as each other.
  static constexpr double kMargin = 1.1;
};

/// One measurement: blocks of a shape and a sparsity, every other one of the grid present.
struct BlockTiming {
  DType dtype = DType::kBF16;
  std::int64_t n = 128;
  int block_rows = 64, block_cols = 64;
  double density = 0.5;
  double dense_ns = 0, sparse_ns = 0;  ///< For 1024 positions of the present blocks.
  double call_us = 0, whole_ns = 0;    ///< A curve has their means.
};

struct BlockCalibration {
  std::string device;  ///< CPU, instruction set and threads; a GPU's name, driver and NVRTC.
  std::string build;   ///< Hash of the formats and kernels that were measured.
  std::string date;    ///< YYYY-MM-DD
  std::vector<BlockCurve> curves;
  std::vector<BlockTiming> timings;

  /// The curve of `dtype` whose n is nearest in ratio; nullptr when there is none.
  [[nodiscard]] const BlockCurve* curve(DType dtype, std::int64_t n) const;
  /// The dense side of blocks of this shape for the tokens of `curve`, the mean over densities; of
  /// a shape that was not measured, the curve's own.
  [[nodiscard]] double stored_ns(const BlockCurve& curve, int block_rows, int block_cols) const;
};

struct CalibrateOptions {
  std::vector<DType> dtypes{DType::kBF16, DType::kF32};
  std::vector<std::int64_t> ns{32, 128, 512};
  std::vector<double> sparsities{0.5, 0.8, 0.9, 0.95, 0.98, 0.995};
  /// 64 to 512 squared and skinny; multiples of 32.
  std::vector<std::pair<int, int>> blocks{{64, 64},   {128, 128}, {256, 256},
                                          {512, 512}, {32, 512},  {512, 32}};
  std::int64_t rows = 1024, cols = 4096;
  int rounds = 3;
};

/// Fits the curves of every dtype and n among `timings`: least squares of relative errors, slopes
/// and constants not negative; means of what has no density.
std::vector<BlockCurve> fit_curves(const std::vector<BlockTiming>& timings);

}  // namespace rarefy
