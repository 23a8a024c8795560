// The kernels of block-sparse products on GPUs and the shapes they come in: what runs where, what
// it should cost, and the text to compile.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cuda/compiler.h"
#include "cuda/device.h"
#include "ops/block_sparse/cuda/sample_grids.h"
#include "ops/block_sparse/cuda/samples.h"
#include "ops/block_sparse/cuda/steps.h"
#include "rarefy/block_sparse.h"
#include "rarefy/spmm.h"

namespace rarefy::gpu {

enum class BlockProduct : std::uint8_t {
  kForward,     ///< C = act(X·Aᵀ + bias) + residual, X tokens × cols
  kTransposed,  ///< C = act(Y·A + bias) + residual, Y tokens × rows
  kSamples,     ///< the stored blocks of Pᵀ·Q, P tokens × rows, Q tokens × cols
};
const char* to_string(BlockProduct product);

/// What a kernel is made for: a weight rows × cols of blocks, of which `density` are stored;
/// values, activations and results of one dtype, sums in f32.
struct BlockProblem {
  BlockProduct product = BlockProduct::kForward;
  std::int64_t rows = 0, cols = 0;
  int block_rows = 64, block_cols = 64;
  double density = 0.25;
  std::int64_t tokens = 4096;  ///< That the estimate is for; any number runs.
  DType dtype = DType::kBF16;
  Activation activation = Activation::kNone;
  bool bias = false, residual = false;

  [[nodiscard]] bool transposed() const { return product == BlockProduct::kTransposed; }
  [[nodiscard]] PieceShape piece() const;
};

/// Whether any kernel does this, and if not, why: says what is supported.
Support supports(const BlockProblem& problem, const cuda::DeviceFacts& device);

enum class BlockWay : std::uint8_t {
  kMma,       ///< mma.sync, from compute capability 8.0 on
  kFeatures,  ///< wgmma, weights along rows: pieces of 64 outputs
  kTokens,    ///< wgmma, tokens along rows
};

/// One kernel of a problem. Legal by construction: block_configs makes them.
struct BlockConfig {
  BlockWay way = BlockWay::kMma;
  // Products.
  int features = 128, tokens = 128;  ///< Of a tile.
  int warps = 4;                     ///< That multiply.
  int parts = 1;                     ///< Of a tile's features, kTokens: one a warpgroup.
  int most_pieces = 2;
  // Samples.
  TaskShape task;         ///< With wgmma: strips alone.
  int slots = 1;          ///< Pieces of a warp, kMma.
  int strip = 64;         ///< Columns of a strip of Q, wgmma.
  int together = 4;       ///< Strips of Q in a product, wgmma.
  int stage_tokens = 32;  ///< Of a stage.
  int stages = 2;

  /// "forward.features.64x64.bf16.f128.t256.w8.p2.s4"
  [[nodiscard]] std::string name(const BlockProblem& problem) const;
  [[nodiscard]] cuda::Source source(const BlockProblem& problem) const;
  [[nodiscard]] const char* kernel(const BlockProblem& problem) const;
  [[nodiscard]] std::int64_t shared_bytes(const BlockProblem& problem) const;
  [[nodiscard]] unsigned threads() const;
  /// Columns of P and Q that a stage of samples has.
  [[nodiscard]] int sample_columns(const PieceShape& piece) const;
  [[nodiscard]] StepShape steps(const BlockProblem& problem) const;
  [[nodiscard]] GridShape grid() const;
  /// From counted products, bytes through shared memory and bytes from L2, for blocks spread
  /// evenly.
  [[nodiscard]] double estimate_us(const BlockProblem& problem,
                                   const cuda::DeviceFacts& device) const;
};

/// Of the strips of Q that a strip of P needs for samples, the share that its neighbour needs, too.
double shared_columns(const BlockProblem& problem, int strip);

/// All kernels for a problem on a device, best estimate first; wgmma's are listed for compute
/// capability 9.0 alone. Throws `Error` (kUnsupported) with the reason of `supports`.
std::vector<BlockConfig> block_configs(const BlockProblem& problem,
                                       const cuda::DeviceFacts& device);

/// The text of every instance for some problems that cover all blocks and dtypes: what the test of
/// all kernels compiles.
std::vector<cuda::Source> block_sources();

}  // namespace rarefy::gpu
