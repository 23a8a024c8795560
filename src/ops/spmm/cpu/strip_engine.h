// What the strip kernels of all instruction sets share: work on strips of 16 outputs (strips.h),
// cut in units, and activations repacked in token tiles. Plain data only: ISA files include this.
//
// A unit is 1, 2 or 4 strips times a list of blocks within one range of K. For each strip and each
// token tile it adds Σ weight·activation to a tile of sums, `tokens` rows of 16 floats.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rarefy::strip {

inline constexpr int kOutputs = 16;         ///< Rows of A in a strip.
inline constexpr int kSumTileFloats = 256;  ///< Room of a tile of sums: 16 tokens × 16 outputs.
inline constexpr std::int64_t kTileK = 32;  ///< Columns of an AMX tile of bf16.
inline constexpr std::int64_t kTileBytes = 1024;

/// Strips × blocks to be multiplied. Dense weights are one block as wide as the range of K.
struct Unit {
  const std::byte* values;      ///< The first strip's part of the first block.
  const std::int32_t* columns;  ///< Block columns, or nullptr: one block at column `first_k`.
  std::int64_t block_stride;    ///< Bytes between blocks.
  std::int64_t strip_stride;    ///< Bytes between the strips of a block.
  std::int64_t width;           ///< Columns of a block.
  std::int64_t first_k;         ///< Added to columns[i]·width.
  std::int32_t blocks;
  std::int32_t strips;  ///< 1, 2 or 4
  float* sums;          ///< strips × token_tiles tiles
  bool add;             ///< The sums hold those of earlier ranges of K; otherwise they are written.
};

/// Activations in token tiles of `tokens` rows; missing tokens and columns past K are zero.
///
/// AMX: tiles of 16×32 bf16, [k / 32][token tile][part]; part 1, if any, is what bf16 lost of part
/// 0. FMA: f32, [token tile][k][token].
struct Activations {
  const void* data;
  std::int64_t padded_k;
  std::int32_t token_tiles, tokens, parts;
};

/// Runs a unit. `next`, if any, is the one that follows: AMX reads its weights ahead.
using Run = void(const Unit& unit, const Activations& x, const Unit* next);

/// Packs `columns` values of 16 rows or fewer for AMX: rows [0, rows) of `from` (row_stride
/// elements apart) to tiles [k / 32] that lie tile_stride bytes apart, from column 0. `tokens` rows
/// a tile.
struct AmxPack {
  const void* from;
  std::int64_t row_stride;
  std::int64_t rows, tokens;
  std::int64_t columns;      ///< Valid columns; the last tile is filled with zeros.
  std::int64_t tile_stride;  ///< Bytes between tiles of consecutive k.
  std::byte* to;             ///< Part 0 of the first tile; part 1 follows 1 KiB later.
};

void amx_pack_bf16(const AmxPack& p);   ///< bf16 as it is.
void amx_pack_f32(const AmxPack& p);    ///< f32 rounded to bf16.
void amx_pack_split(const AmxPack& p);  ///< f32 as bf16 + bf16.

/// Tile registers of this thread for tiles of `tokens` tokens; to be called around runs.
void amx_begin(int tokens);
void amx_end();

Run run_amx;
Run run_f32_avx512, run_f16_avx512, run_bf16_avx512;
Run run_f32_avx2, run_f16_avx2, run_bf16_avx2;
Run run_f32_portable, run_f16_portable, run_bf16_portable;

}  // namespace rarefy::strip
