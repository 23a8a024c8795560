// N:M rows decoded to tiles beside the tile products of the panel before.
//
// 2:4, two tiles at a time: a group of a row is one dword of values, so that 16 dwords of 16 rows
// are transposed (32 shuffles) and a group's four columns are two byte shuffles, whose controls a
// vpermd finds by the group's four index bits: 96 cycles of port 5 for two tiles, 3.0 for 32
// weights; vpexpandw with kmovd, as on bitmaps, takes 3.2. Other patterns go row by row: for each
// of the n slots two vpermw and a comparison, then a transposition: 3n + 9 cycles for 32 weights.
#include "ops/spmm/cpu/nm_gemm.h"
#include "ops/spmm/cpu/strip_amx_tiles.h"
#include "ops/spmm/cpu/transpose16_avx512.h"

namespace rarefy::strip {
namespace {

/// Rows past the last repeat it: their sums are never stored.
std::int64_t row_within(const NmRows& rows, std::int64_t row) {
  return row < rows.rows ? row : rows.rows - 1;
}

/// Byte shuffles of a pair of values (2 slots of 2 bytes) to the columns 2·half and 2·half + 1 of a
/// group, one control of four bytes for each of the 16 index codes.
struct PairControls {
  alignas(64) std::uint32_t control[2][16];
};
constexpr PairControls make_controls() {
  PairControls table{};
  for (unsigned code = 0; code < 16; ++code) {
    const unsigned place[2] = {code & 3, code >> 2};
    for (unsigned column = 0; column < 4; ++column) {
      // An empty second slot says place 0, which it can only have behind an empty first one.
      std::uint32_t from = 0x8080;
      if (place[0] == column) from = 0x0100;
      if (place[1] == column && place[1] > place[0]) from = 0x0302;
      table.control[column / 2][code] |= from << 16 * (column % 2);
    }
  }
  return table;
}
constexpr PairControls kControls = make_controls();

/// One tile of 2:4 of the strip at `row`.
void decode_two_of_four(const NmRows& w, std::int64_t row, std::int64_t tile, std::byte* to) {
  constexpr std::int64_t kRowBytes = 32;  ///< Values of a tile.
  constexpr std::int64_t kIndexBytes = 4;
  const std::byte* values[16];
  alignas(64) std::int32_t index_at[16];
  for (std::int64_t r = 0; r < 16; ++r) {
    const std::int64_t from = row_within(w, row + r);
    values[r] = w.values + from * w.row_bytes + tile * kRowBytes;
    index_at[r] = static_cast<std::int32_t>((from - row) * w.row_index_bytes);
  }
  const std::byte* indices = w.indices + row * w.row_index_bytes + tile * kIndexBytes;
  const __m512i at = _mm512_load_si512(index_at);
  const __m512i first_control = _mm512_load_si512(kControls.control[0]);
  const __m512i second_control = _mm512_load_si512(kControls.control[1]);
  // Controls count from the beginning of a 128-bit lane.
  const __m512i lane = _mm512_set_epi32(0x0c0c0c0c, 0x08080808, 0x04040404, 0, 0x0c0c0c0c,
                                        0x08080808, 0x04040404, 0, 0x0c0c0c0c, 0x08080808,
                                        0x04040404, 0, 0x0c0c0c0c, 0x08080808, 0x04040404, 0);
  __m512i codes = _mm512_i32gather_epi32(at, indices, 1);
#pragma GCC unroll 2
  for (int piece = 0; piece < 2; ++piece) {
    __m512i groups[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const auto quarter = [&](int r) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(values[r] + piece * 16));
      };
      __m512i v = _mm512_broadcast_i32x4(quarter(i));
      v = _mm512_mask_broadcast_i32x4(v, 0x00f0, quarter(4 + i));
      v = _mm512_mask_broadcast_i32x4(v, 0x0f00, quarter(8 + i));
      groups[i] = _mm512_mask_broadcast_i32x4(v, 0xf000, quarter(12 + i));
    }
    transpose_lanes(groups);
#pragma GCC unroll 4
    for (int g = 0; g < 4; ++g) {
      const auto columns = [&](__m512i controls) {
        return _mm512_shuffle_epi8(
            groups[g], _mm512_add_epi8(_mm512_permutexvar_epi32(codes, controls), lane));
      };
      std::byte* line = to + (piece * 4 + g) * 128;
      _mm512_store_si512(line, columns(first_control));
      _mm512_store_si512(line + 64, columns(second_control));
      codes = _mm512_srli_epi32(codes, 4);
    }
  }
}

/// Where the slots of a row's tile lie and what they are compared with, for any n of m. Tiles begin
/// at any bit of a byte (1:8 has 12 bits a tile), so that they are laid anew where that changes.
class SlotTables {
 public:
  explicit SlotTables(const NmRows& w) : w_(w) {
    for (int i = 0; i < 32; ++i) {
      first_slot[i] = static_cast<std::uint16_t>(i / w.m * w.n);
      place_wanted[i] = static_cast<std::uint16_t>(i % w.m);
    }
  }
  void begin_at(int bit) {
    if (bit == bit_) return;
    bit_ = bit;
    for (int i = 0; i < 32; ++i) {
      const int from = bit + i * w_.index_width;
      byte_at[2 * i] = static_cast<std::uint8_t>(from / 8);
      byte_at[2 * i + 1] = static_cast<std::uint8_t>(from / 8 + 1);
      shift[i] = static_cast<std::uint16_t>(from % 8);
    }
  }
  alignas(64) std::uint16_t first_slot[32];    ///< Of each column's group.
  alignas(64) std::uint16_t place_wanted[32];  ///< Of each column.
  alignas(64) std::uint8_t byte_at[64];        ///< Two bytes that hold a slot's place,
  alignas(64) std::uint16_t shift[32];         ///< from this bit on.

 private:
  const NmRows& w_;
  int bit_ = -1;
};

/// One tile of any n of m, m a power of two up to 32.
void decode_any(const NmRows& w, SlotTables& tables, std::int64_t row, std::int64_t tile,
                std::byte* to) {
  const int slots = 32 / w.m * w.n;
  const std::int64_t bit = tile * slots * w.index_width;
  tables.begin_at(static_cast<int>(bit % 8));
  const __m512i bytes = _mm512_load_si512(tables.byte_at);
  const __m512i shifts = _mm512_load_si512(tables.shift);
  const __m512i low_bits = _mm512_set1_epi16(static_cast<short>((1 << w.index_width) - 1));
  const __m512i first_slot = _mm512_load_si512(tables.first_slot);
  const __m512i wanted = _mm512_load_si512(tables.place_wanted);
  const __m512i one = _mm512_set1_epi16(1);
  // At most 155 bits of indices, and 64 bytes of values: both arrays have 64 bytes behind them.
  const __mmask64 index_bytes = (__mmask64{1} << 32) - 1;
  __m512i lines[16];
  for (std::int64_t r = 0; r < 16; ++r) {
    const std::int64_t from = row_within(w, row + r);
    const __m512i values = _mm512_loadu_si512(w.values + from * w.row_bytes + tile * slots * 2);
    const __m512i packed =
        _mm512_maskz_loadu_epi8(index_bytes, w.indices + from * w.row_index_bytes + bit / 8);
    const __m512i places = _mm512_and_si512(
        _mm512_srlv_epi16(_mm512_permutexvar_epi8(bytes, packed), shifts), low_bits);
    __m512i slot = first_slot;
    __m512i dense = _mm512_setzero_si512();
    for (int s = 0; s < w.n; ++s) {
      // Empty slots hold +0, so that what is or-ed never meets.
      const __mmask32 here =
          _mm512_cmpeq_epi16_mask(_mm512_permutexvar_epi16(slot, places), wanted);
      dense = _mm512_or_si512(dense, _mm512_maskz_permutexvar_epi16(here, slot, values));
      slot = _mm512_add_epi16(slot, one);
    }
    lines[r] = dense;
  }
  transpose16(lines);
  for (int i = 0; i < 16; ++i) _mm512_store_si512(to + 64 * i, lines[i]);
}

/// Reads the rows of a panel ahead to L2, each from end to end: memory and the hardware's
/// prefetcher like that better than the order of decoding, which jumps from row to row.
class ReadAhead {
 public:
  ReadAhead(const NmRows& w, const NmPanel* panel) {
    if (panel == nullptr) return;
    const std::int64_t tile_bytes = 64 / w.m * w.n;
    const std::int64_t tile_index_bits = 32 / w.m * w.n * w.index_width;
    row_bytes_ = w.row_bytes;
    row_index_bytes_ = w.row_index_bytes;
    values_ = w.values + panel->row * w.row_bytes + panel->first * tile_bytes;
    indices_ = w.indices + panel->row * w.row_index_bytes + panel->first * tile_index_bits / 8;
    piece_ = panel->tiles * tile_bytes;
    index_piece_ = panel->tiles * tile_index_bits / 8;
    rows_ = std::int64_t{16} * panel->strips;
    if (panel->row + rows_ > w.rows) rows_ = w.rows - panel->row;
  }
  void lines(int count) {
    for (; count > 0 && rows_ > 0; --count) {
      _mm_prefetch(reinterpret_cast<const char*>(values_ + at_), _MM_HINT_T1);
      at_ += kLine;
      if (at_ < piece_) continue;
      for (std::int64_t i = 0; i < index_piece_; i += kLine)
        _mm_prefetch(reinterpret_cast<const char*>(indices_ + i), _MM_HINT_T1);
      at_ = 0;
      --rows_;
      values_ += row_bytes_;
      indices_ += row_index_bytes_;
    }
  }

 private:
  const std::byte* values_ = nullptr;
  const std::byte* indices_ = nullptr;
  std::int64_t row_bytes_ = 0, row_index_bytes_ = 0, piece_ = 0, index_piece_ = 0, rows_ = 0;
  std::int64_t at_ = 0;
};

/// Decodes a tile per `steps_a_tile` steps: two of a strip, which share lines, then two of the
/// next.
struct Decode {
  const NmRows& rows;
  const NmPanel& panel;
  SlotTables& tables;
  ReadAhead ahead;
  std::int64_t steps_a_tile;
  int lines_a_step;
  std::int64_t waited = 0;
  std::int64_t done = 0;

  [[nodiscard]] std::int64_t all() const { return (panel.tiles + 1) / 2 * 2 * panel.strips; }
  void decode_next() {
    const std::int64_t strip = done / 2 % panel.strips;
    const std::int64_t tile = done / 2 / panel.strips * 2 + done % 2;
    ++done;
    if (tile >= panel.tiles) return;
    std::byte* to = panel.to + strip * panel.strip_stride + tile * kTileBytes;
    const std::int64_t row = panel.row + 16 * strip;
    if (rows.n == 2 && rows.m == 4) return decode_two_of_four(rows, row, panel.first + tile, to);
    decode_any(rows, tables, row, panel.first + tile, to);
  }
  void begin_pass() {}
  void step() {
    ahead.lines(lines_a_step);
    waited += panel.strips;
    for (; waited >= steps_a_tile; waited -= steps_a_tile)
      if (done < all()) decode_next();
  }
  void finish() {
    while (done < all()) decode_next();
  }
};

}  // namespace

void run_nm_amx(const Unit& unit, const Activations& x, const NmRows& rows, const NmPanel& panel,
                const NmPanel* ahead) {
  const std::int64_t passes = (x.token_tiles * unit.strips + 3) / 4;
  // Two strips of a tile are at most 32 lines.
  const std::int64_t lines = 32 * rows.n / rows.m;
  SlotTables tables(rows);
  Decode side{rows,   panel,
              tables, ReadAhead(rows, ahead),
              passes, static_cast<int>((lines + passes - 1) / passes)};
  run_unit(unit, x, side);
  side.finish();
}

void decode_nm_amx(const NmRows& rows, const NmPanel& panel) {
  SlotTables tables(rows);
  Decode side{rows, panel, tables, ReadAhead(rows, nullptr), 1, 0};
  side.finish();
}

}  // namespace rarefy::strip
