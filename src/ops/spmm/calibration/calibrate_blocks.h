// What measuring blocks on both kinds of units has in common on the CPU and on a GPU: the weights,
// the order, and what becomes of the times.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <utility>

#include "ops/spmm/calibration/calibration_file.h"
#include "rarefy/calibration.h"
#include "rarefy/progress.h"
#include "rarefy/tensor.h"

namespace rarefy {

/// One block in `every` of a grid, all of one density: of the weights' positions, each is kept with
/// probability `density`.
class Checkerboard final : public RowSource {
 public:
  Checkerboard(const CalibrateOptions& options, DType dtype, std::pair<int, int> block,
               double density, int every = 2)
      : rows_(options.rows),
        cols_(options.cols),
        dtype_(dtype),
        block_(block),
        density_(density),
        every_(every) {}
  [[nodiscard]] std::int64_t rows() const override { return rows_; }
  [[nodiscard]] std::int64_t cols() const override { return cols_; }
  [[nodiscard]] DType dtype() const override { return dtype_; }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;

  [[nodiscard]] std::pair<int, int> block() const { return block_; }
  [[nodiscard]] double density() const { return density_; }
  /// Positions of the blocks that are there.
  [[nodiscard]] double positions() const;

 private:
  [[nodiscard]] bool has_block(std::int64_t r, std::int64_t c) const {
    return density_ > 0 && (r / block_.first + c / block_.second) % every_ == 0;
  }

  std::int64_t rows_, cols_;
  DType dtype_;
  std::pair<int, int> block_;
  double density_;
  int every_;
};

/// What both sides take for one weight, in microseconds.
struct SideTimes {
  double dense_us = 0;  ///< Its blocks stored as they are, beyond `call_us`.
  double sparse_us = 0;
  double call_us = 0;   ///< Of the dense side, whatever is stored.
  double whole_us = 0;  ///< A dense product of all positions; 0: not measured.
};

/// Times both sides on one device.
class SideTimer {
 public:
  virtual ~SideTimer() = default;
  /// Gets `weight` ready, which lives until the next one is taken.
  virtual void take(const Checkerboard& weight) = 0;
  /// Of the weight taken last, with `n` tokens.
  virtual SideTimes time(std::int64_t n) = 0;
};

/// Throws `Error` (kInvalidArgument) for what cannot be measured.
/// @param dtypes that the device has kernels of both sides for
void check_calibration(const CalibrateOptions& options, std::initializer_list<DType> dtypes);

/// Times every dtype, block shape, sparsity and n, and fits the curves.
BlockCalibration calibrate_blocks(const CalibrateOptions& options, const CalibrationKey& key,
                                  SideTimer& timer, Progress& progress);

}  // namespace rarefy
