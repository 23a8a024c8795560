#include "ops/spmm/cpu/bitmap_panels.h"

#include <algorithm>

namespace rarefy::strip {

/// Range after range, and in each range pair after pair, so that the activations of a range stay in
/// L2 while all strips go past. Pairs that have no tiles at all get sums of zero here.
std::int64_t BitmapPanels::list_panels(std::int64_t begin, std::int64_t end, float* sums,
                                       Strip* state, Panel* panels) const {
  const std::int64_t strips = end - begin;
  std::int64_t count = 0;
  for (std::int64_t range = 0; range < a_.tiles; range += range_tiles_) {
    const std::int64_t range_end = std::min(a_.tiles, range + range_tiles_);
    for (std::int64_t s = 0; s < strips; s += 2) {
      std::int64_t first = range;
      std::int64_t last = range_end;
      if (a_.pair_offsets != nullptr) {
        const std::int64_t* offsets = a_.pair_offsets + (begin + s) / 2;
        const std::int32_t* list_end = a_.columns + offsets[1];
        const std::int32_t* from = std::lower_bound(a_.columns + offsets[0], list_end, range);
        first = from - a_.columns;
        last = std::lower_bound(from, list_end, range_end) - a_.columns;
      }
      if (first == last) continue;
      panels[count++] = {s, first, static_cast<std::int32_t>(last - first), state[s].begun};
      state[s].begun = true;
    }
  }
  for (std::int64_t s = 0; s < strips; s += 2) {
    if (!state[s].begun)
      std::fill_n(sums + s * strip_floats(x_),
                  std::min<std::int64_t>(2, strips - s) * strip_floats(x_), 0.0F);
  }
  return count;
}

Unit BitmapPanels::unit_of(const Panel& panel, const BitmapPanel& decoded, float* sums) const {
  Unit unit =
      panel_unit(decoded.to, decoded.strip_stride, a_.pair_offsets == nullptr ? panel.first : 0,
                 panel.tiles, decoded.strips, sums + panel.strip * strip_floats(x_));
  unit.add = panel.add;
  if (a_.pair_offsets == nullptr) return unit;
  unit.columns = a_.columns + panel.first;
  unit.block_stride = kTileBytes;
  unit.width = kTileK;
  unit.blocks = panel.tiles;
  return unit;
}

void BitmapPanels::run_round(std::int64_t begin, std::int64_t end, float* sums) {
  const std::int64_t strips = end - begin;
  const std::int64_t ranges = (a_.tiles + range_tiles_ - 1) / range_tiles_;
  Scratch decoded(static_cast<std::size_t>(4 * range_tiles_ * kTileBytes));
  const std::int64_t most_panels = (strips + 1) / 2 * ranges;
  Scratch lists(static_cast<std::size_t>(strips) * sizeof(Strip) +
                static_cast<std::size_t>(most_panels) * sizeof(Panel));
  auto* state = lists.as<Strip>();
  auto* panels = reinterpret_cast<Panel*>(state + strips);
  for (std::int64_t s = 0; s < strips; ++s) state[s] = {a_.stream + a_.offsets[begin + s], false};
  const std::int64_t count = list_panels(begin, end, sums, state, panels);
  if (count == 0) return;

  // Panel i lies in half i % 2 of the scratch.
  const auto to_decode = [&](std::int64_t i) {
    const Panel& panel = panels[i];
    BitmapPanel next{};
    next.strips = static_cast<std::int32_t>(std::min<std::int64_t>(2, strips - panel.strip));
    for (std::int32_t s = 0; s < next.strips; ++s) next.from[s] = state[panel.strip + s].next;
    next.to = decoded.as<std::byte>() + i % 2 * 2 * range_tiles_ * kTileBytes;
    next.strip_stride = range_tiles_ * kTileBytes;
    next.tiles = panel.tiles;
    return next;
  };
  const auto keep_streams = [&](std::int64_t i, const BitmapPanel& done) {
    for (std::int32_t s = 0; s < done.strips; ++s) state[panels[i].strip + s].next = done.from[s];
  };
  BitmapPanel now = to_decode(0);
  decode_bitmap_amx(now);
  keep_streams(0, now);
  for (std::int64_t i = 0; i < count; ++i) {
    // The last one has nothing left to decode beside it.
    BitmapPanel next = i + 1 < count ? to_decode(i + 1) : BitmapPanel{};
    run_bitmap_amx(unit_of(panels[i], now, sums), x_, next);
    if (i + 1 < count) keep_streams(i + 1, next);
    now = next;
  }
}

}  // namespace rarefy::strip
