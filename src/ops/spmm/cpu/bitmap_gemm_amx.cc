// Bitmap tiles decoded beside the tile products of the panel before: vpexpandw and kmovd keep port
// 5 busy for 3.2 cycles per 32 weights, 51 a tile, while a tile product keeps the AMX unit busy for
// 16 and touches port 5 not at all. From four token tiles on (N = 64) decoding hides behind
// products.
//
// Nothing is prefetched: two streams are what the hardware follows by itself, and lines on their
// way from memory to L1 hold buffers that the tile loads from L2 wait for (a prefetch 2 KiB ahead
// cost 10 % at N = 128, 17 % at N = 64).
#include "ops/spmm/cpu/bitmap_gemm.h"
#include "ops/spmm/cpu/bitmap_tile_amx.h"
#include "ops/spmm/cpu/strip_amx_tiles.h"

namespace rarefy::strip {
namespace {

/// Decodes a tile of each strip per `steps_a_tile` steps.
struct Decode {
  BitmapPanel& panel;
  std::int64_t steps_a_tile;
  std::int64_t waited = 0;
  std::int64_t done = 0;

  void decode_next() {
    for (std::int32_t s = 0; s < panel.strips; ++s)
      panel.from[s] =
          expand_tile(panel.from[s], panel.to + s * panel.strip_stride + done * kTileBytes);
    ++done;
  }
  void begin_pass() {}
  void step() {
    if (++waited < steps_a_tile) return;
    waited = 0;
    if (done < panel.tiles) decode_next();
  }
  void finish() {
    while (done < panel.tiles) decode_next();
  }
};

}  // namespace

void run_bitmap_amx(const Unit& unit, const Activations& x, BitmapPanel& panel) {
  Decode side{panel, (x.token_tiles * unit.strips + 3) / 4};
  run_unit(unit, x, side);
  side.finish();
}

void decode_bitmap_amx(BitmapPanel& panel) {
  Decode side{panel, 1};
  side.finish();
}

}  // namespace rarefy::strip
