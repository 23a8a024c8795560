// Block-sparse products of bf16 on AMX: what the driver and the ISA file share. Plain data: the ISA
// file includes this.
//
// Token tiles are the left operand (16 tokens × 32 inputs, as activations lie), weights the right
// one (pairs of inputs a line, 16 outputs), a tile of sums has a token a line. A product takes as
// long as it has tokens, however many of its 32 inputs are zeros.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rarefy::block_cpu {

inline constexpr std::int64_t kStripOutputs = 16;
inline constexpr std::int64_t kTileInputs = 32;
inline constexpr std::int64_t kTileBytes = 1024;
inline constexpr std::int64_t kSumFloats = 256;  ///< Of a tile of sums.

/// Weights of one or two strips of 16 outputs for a run of tiles, from blocks where they lie.
///
/// A tile has 32 inputs: one part of a block, or two or four narrower ones side by side. Its 16
/// outputs are of one group of blocks, or 8 each of two members; two strips then have four. Tile i
/// of strip s goes to `to` + (i·strips + s)·1 KiB.
struct WeightTiles {
  /// [tile][member][part]: the part's first output and input; nullptr: zeros.
  const std::uint16_t* const* parts;
  std::int64_t offset;  ///< Added to every part: elements to the first strip.
  std::int64_t tiles;
  int tile_parts;    ///< 1, 2 or 4
  int members;       ///< 1, or 4 with two strips
  std::int64_t row;  ///< Elements from one row of a block to the next.
  int strips;        ///< 1 or 2
  std::byte* to;
};
void pack_outputs_by_rows_amx(const WeightTiles& job);     ///< Outputs are rows of a block.
void pack_outputs_by_columns_amx(const WeightTiles& job);  ///< Outputs are columns of a block.

/// Adds the products of packed weights and a panel of tokens to tiles of sums.
struct TileProducts {
  const std::byte* weights;  ///< [tile][strip]
  int strips;
  std::int64_t tiles;
  const std::int32_t* inputs;  ///< Of each tile: which 32 inputs.
  std::int32_t first_input;    ///< Those at the beginning of x.
  const std::byte* x;          ///< Token groups: [32 inputs][token tile].
  std::int64_t group_stride;   ///< Bytes between token groups.
  int group;                   ///< Token tiles in a group: 2, or 4 for one strip.
  std::int64_t token_tiles;
  float* sums;               ///< [strip][token tile]
  bool add;                  ///< The sums hold those of tiles before these.
  const std::byte* ahead;    ///< Read into L2 meanwhile: what comes next.
  std::int64_t ahead_lines;  ///< 0: nothing.
};
void multiply_tiles_amx(const TileProducts& job);

/// Sums of some strips to rows of results: C = sums + bias + residual.
struct SumRows {
  const float* sums;  ///< [strip][token tile]
  std::int64_t strips, token_tiles, tile_tokens, tokens;
  const float* bias;  ///< Of these outputs, or nullptr.
  const void* residual;
  std::int64_t residual_stride;
  void* c;
  std::int64_t c_stride;
};
void store_bf16_amx(const SumRows& job);
void store_f32_amx(const SumRows& job);

/// 16 or 32 rows by 16 or 32 columns of sums, [column half][row half] tiles, to rows of a block.
struct SampleRows {
  const float* sums;
  int row_halves, column_halves;
  void* to;
  std::int64_t stride;  ///< Elements between rows of the block.
};
void store_sample_bf16_amx(const SampleRows& job);
void store_sample_f16_amx(const SampleRows& job);
void store_sample_f32_amx(const SampleRows& job);

}  // namespace rarefy::block_cpu
