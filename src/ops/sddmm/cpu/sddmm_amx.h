// SDDMM in tiles of 16×16 sums on AMX, bf16 operands. Plain data: the ISA file includes this.
//
// An operand X (T × columns) is packed in groups of 32 columns: [group][t / 32][half] tiles of 1
// KiB, 16 columns by 32 t, zeros outside. `kRows` tiles have a column a line (the left operand of
// a tile product), `kPairs` tiles a pair of t a line (the right one).
#pragma once

#include <cstddef>
#include <cstdint>

namespace rarefy::sddmm_cpu {

inline constexpr std::int64_t kGroupColumns = 32;
inline constexpr std::int64_t kHalfColumns = 16;
inline constexpr std::int64_t kTileSteps = 32;  ///< t of a tile.
inline constexpr std::int64_t kTileBytes = 1024;
inline constexpr std::int64_t kTileSums = 256;

enum class TileOrder : std::uint8_t { kRows, kPairs };

/// `steps` rows of bf16, row_stride elements apart, to packed groups; columns from `columns` on,
/// which may be none or negative, are zeros.
struct TilePack {
  const void* from;
  std::int64_t row_stride, steps, columns, groups;
  TileOrder order;
  std::byte* to;
};
void pack_tiles_amx(const TilePack& job);

/// sums[right half][left half][16][16] (+)= left · right over `step_tiles` tiles of t. The pointers
/// are to the first half of a group that takes part; halves: 1 or 2.
struct TileProduct {
  const std::byte *left, *right;
  int left_halves, right_halves;
  std::int64_t step_tiles;
  float* sums;
  bool add;
};
void multiply_tiles_amx(const TileProduct& job);

/// Sums of 32×32 to the places of a region: bit c of masks[r] is a place, those of a row follow one
/// another from values[next[r]] on. next advances behind them.
struct RegionSample {
  const float* sums;  ///< As multiply_tiles_amx leaves them; the left operand's columns are rows.
  const std::uint32_t* masks;
  std::int64_t* next;
  float* values;
  bool add;
};
void sample_region_amx(const RegionSample& job);

/// One tile of sums, a block's columns as lines of 16 rows, to 16 columns of a strip (strips.h) of
/// bf16, f16 or f32. Rows and columns past the live ones become +0. Returns the nonzeros.
struct StripStore {
  const float* sums;
  int live_rows, live_columns;
  void* strip;
};
int store_strip_bf16_amx(const StripStore& job);
int store_strip_f16_amx(const StripStore& job);
int store_strip_f32_amx(const StripStore& job);

}  // namespace rarefy::sddmm_cpu
