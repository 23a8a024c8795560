// Block-sparse products by multiply-adds in f32: what the drivers and the ISA files share. Plain
// data: ISA files include this.
#pragma once

#include <cstdint>

namespace rarefy::block_cpu {

/// Sums of one group of outputs over a list of blocks, for a panel of tokens.
///
/// A token tile is `vectors` vectors of tokens side by side. Activations: [token tile][input]
/// [token], sums: [token tile][output][token].
struct ProductJob {
  const float* values;
  const std::int32_t* order;   ///< Block i lies at values + order[i]·in·out; nullptr: i·in·out.
  const std::int32_t* inputs;  ///< Block i takes inputs inputs[i]·in - first_input….
  std::int64_t blocks;
  std::int64_t in, out;                ///< Inputs and outputs of a block.
  std::int64_t in_stride, out_stride;  ///< Floats of a block between neighbouring inputs, outputs.
  const float* x;
  std::int64_t first_input;  ///< Input at the beginning of x.
  std::int64_t tile_stride;  ///< Floats of x from one token tile to the next.
  std::int64_t token_tiles;
  int vectors;  ///< 1 to kMostVectors
  float* sums;
  bool add;  ///< The sums hold those of blocks before these.
};

/// Values of one block of Pᵀ·Q.
struct SampleJob {
  const float* p;  ///< [step][rows]
  const float* q;  ///< [step][q_stride]; zeros from `cols` to the next multiple of a vector.
  std::int64_t steps;
  std::int64_t rows, cols, q_stride;
  float* sums;  ///< rows × cols
  bool add;     ///< The sums hold those of earlier steps.
};

/// Vectors of tokens in a tile at most; floats of the widest vector.
inline constexpr int kMostVectors = 3;
inline constexpr int kWidestVector = 16;

struct FmaKernels {
  int lanes;  ///< Floats of a vector.
  void (*multiply)(const ProductJob& job);
  void (*sample)(const SampleJob& job);
};

const FmaKernels& fma_portable();
const FmaKernels& fma_avx2();
const FmaKernels& fma_avx512();

}  // namespace rarefy::block_cpu
