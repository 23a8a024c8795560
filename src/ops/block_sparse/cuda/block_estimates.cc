// What kernels of block-sparse products should take, from counts: products, bytes through shared
// memory, bytes from L2, and what one H100 took (docs/gpu-block-sparse.md).
#include <algorithm>
#include <cmath>

#include "ops/block_sparse/cuda/block_config.h"

namespace rarefy::gpu {
namespace {

// Per multiprocessor and clock; those of mma.sync and of L2 are what kernels here have reached.
constexpr double kShared = 128, kFromL2 = 34, kWgmmaRate = 2048;
double mma_rate(const cuda::DeviceFacts& device) {
  return device.major == 9 ? 0.35 * 2048 : 0.7 * 1024;
}

constexpr double kStart = 4;  // Microseconds: the launch, first loads, last stores.

/// Clocks of samples by wgmma.
double sample_clocks(const BlockConfig& c, const BlockProblem& problem, double multiprocessors) {
  const double d = problem.density, n = static_cast<double>(problem.tokens);
  // At the boost clock; a box of the copy engine, and a row of one. Narrow boxes come slower: the
  // best kernels for blocks of 64, 32 and 16 have reached this.
  constexpr double kWgmma = 0.77, kUnfilled = 0.5, kBox = 15, kBoxRow = 0.3;
  const double from_l2 = c.strip == 64 ? 33 : c.strip == 32 ? 25 : 21;
  const double shared = shared_columns(problem, c.strip);
  const double blocks = std::max(1.0, static_cast<double>(kSampleHeight) / problem.block_rows) *
                        std::max(1.0, static_cast<double>(c.strip) / problem.block_cols);
  const double columns =
      static_cast<double>(problem.cols) / c.strip * (1 - std::pow(1 - d, blocks));
  const double rows = std::ceil(static_cast<double>(problem.rows) / kSampleHeight);
  // Tasks of one warpgroup; the last one of a strip is full by chance alone.
  const double halves = rows * (columns / c.together + kUnfilled);
  const double products = 2.0 * kSampleHeight * c.together * c.strip;  // Of a token.
  const double strips = c.together * (c.task.row_strips == 2 ? 2 - shared : 2);
  const double bytes = 2.0 * (c.task.row_strips * kSampleHeight + strips * c.strip);
  const double boxes = (c.task.row_strips + strips) * (kBoxRow + kBox / c.stage_tokens);
  const double token_clocks = std::max({products / kWgmma / kWgmmaRate, bytes / from_l2, boxes});
  return std::ceil(halves / multiprocessors) / 2 * n * token_clocks;
}

/// Clocks of samples by mma.sync.
double sample_clocks_mma(const BlockConfig& c, const BlockProblem& problem, double rate,
                         double multiprocessors) {
  const PieceShape piece = problem.piece();
  const double d = problem.density, n = static_cast<double>(problem.tokens);
  constexpr double kMmaShare = 0.38;  // Of what the counts allow, measured.
  // Pieces of a column of the task's strips; a task ends with its pieces or its columns.
  const double rows = c.task.row_strips, all = rows * d;
  const double union_ =
      1 - std::pow(1 - d, rows * piece.out / std::max(piece.out, problem.block_rows));
  const double columns =
      std::min<double>(c.task.column_strips, c.task.pieces * union_ / std::max(all, 1e-9));
  const double pieces = columns * all / std::max(union_, 1e-9);
  const double positions = static_cast<double>(problem.rows) * static_cast<double>(problem.cols);
  const double tasks = positions * d / (piece.out * piece.in) / std::max(pieces, 1e-9);
  const double products = pieces * piece.out * piece.in * n;
  const double strips = (rows * piece.out + columns * piece.in) * 2 * n;
  const double read = products * 2 * (1.0 / piece.out + 1.0 / piece.in);
  const double task_clocks =
      std::max({products / rate, (strips + read) / kShared, strips / kFromL2});
  return std::ceil(tasks / multiprocessors) * task_clocks / kMmaShare;
}

/// Clocks of the forward and the transposed product.
double product_clocks(const BlockConfig& c, const BlockProblem& problem, double rate,
                      double multiprocessors) {
  const PieceShape piece = problem.piece();
  const double d = problem.density, n = static_cast<double>(problem.tokens);
  const bool transposed = problem.transposed();
  const double outputs = static_cast<double>(transposed ? problem.cols : problem.rows);
  const double inputs = static_cast<double>(transposed ? problem.rows : problem.cols);
  const int out_block = transposed ? problem.block_cols : problem.block_rows;
  const double independent =
      std::max(1.0, static_cast<double>(c.features) / out_block) * piece.across();
  const double used = 1 - std::pow(1 - d, independent);
  const double groups = std::ceil(outputs / c.features), token_tiles = std::ceil(n / c.tokens);
  // Of a slab, in a block of the grid.
  const double products = d * c.features * c.tokens * kSlab;
  const double slab = 2.0 * c.tokens * kSlab, weights = d * c.features * kSlab * 2;
  const double pieces = d * c.features / piece.out * piece.across();
  // Every piece is a branch, and what it multiplies waits for what came before it: clocks of that,
  // as measured (docs/gpu-block-sparse.md).
  double read = 0, branches = 0;
  switch (c.way) {
    case BlockWay::kMma:
      read = used * slab + weights * c.warps;
      branches = pieces * (100 + piece.out * piece.in / 256.0 * 80 * c.tokens / 128);
      break;
    case BlockWay::kFeatures:
      read = pieces * (piece.in / 16.0) * (2048 + 32.0 * c.tokens);
      break;
    default:
      read = used * slab + pieces * (piece.in / 16.0) * (c.tokens / 64.0) * 32.0 * piece.out;
      branches =
          pieces / c.parts *
          (150 + piece.in / 16.0 * (c.tokens * c.parts * 4.0 / (64 * c.warps)) * 2 * piece.out);
  }
  const double l2 = used * slab + weights;
  constexpr double kStep = 60;  // Clocks of handing over.
  const double slab_clocks = std::max({products / rate, (used * slab + weights + read) / kShared,
                                       l2 / kFromL2, branches}) +
                             used * kStep;
  const double rounds = std::ceil(groups * token_tiles / multiprocessors);
  const double tile_clocks = slab_clocks * std::ceil(inputs / kSlab) + c.features * c.tokens / 16.0;
  return rounds * tile_clocks;
}

}  // namespace

double shared_columns(const BlockProblem& problem, int strip) {
  if (problem.block_rows == 2 * kSampleHeight) return 1;
  const double blocks = std::max(1.0, static_cast<double>(kSampleHeight) / problem.block_rows) *
                        std::max(1.0, static_cast<double>(strip) / problem.block_cols);
  return 1 - std::pow(1 - problem.density, blocks);
}

double BlockConfig::estimate_us(const BlockProblem& problem,
                                const cuda::DeviceFacts& device) const {
  const double multiprocessors = std::max(1, device.multiprocessors);
  const double rate = way == BlockWay::kMma ? mma_rate(device) : kWgmmaRate;
  const double clocks = problem.product != BlockProduct::kSamples
                            ? product_clocks(*this, problem, rate, multiprocessors)
                        : way == BlockWay::kMma
                            ? sample_clocks_mma(*this, problem, rate, multiprocessors)
                            : sample_clocks(*this, problem, multiprocessors);
  const double us = clocks / (1e3 * device.clock_ghz);
  if (problem.product == BlockProduct::kSamples) return kStart + us;
  // Few tokens wait for the weight.
  constexpr double kFromMemory = 0.75;  // Of the data sheet's bandwidth.
  const double bytes =
      2 * problem.density * static_cast<double>(problem.rows) * static_cast<double>(problem.cols);
  return kStart + std::max(us, bytes / (kFromMemory * 1e3 * device.memory_gb_per_s));
}

}  // namespace rarefy::gpu
