// How the work of a product is cut: in equal shares of a sequence of groups of blocks, once for
// each panel of tokens.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "ops/block_sparse/pattern.h"
#include "rarefy/threads.h"

namespace rarefy {

/// Where a share begins: at a group of a panel.
struct PanelCut {
  std::int64_t panel, group;
};

/// Beginning of part `part` of `parts` over all panels, one after the other; a group weighs its
/// blocks and one for its sums.
inline PanelCut cut_panels(const std::int32_t* offsets, std::int64_t groups, std::int64_t panels,
                           std::int64_t part, std::int64_t parts) {
  const std::int64_t weight = offsets[groups] + groups;
  const std::int64_t at = weight * panels / parts * part + weight * panels % parts * part / parts;
  const std::int64_t panel = weight > 0 ? at / weight : 0;
  const std::int64_t target = at - panel * weight;
  std::int64_t low = 0;
  std::int64_t high = groups;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (offsets[middle] + middle < target) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return {panel, low};
}

/// Calls body(panel, first group, last group) for share `part`.
template <class Body>
void for_share(const std::int32_t* offsets, std::int64_t groups, std::int64_t panels,
               std::int64_t part, std::int64_t parts, Body&& body) {
  const PanelCut begin = cut_panels(offsets, groups, panels, part, parts);
  const PanelCut end = cut_panels(offsets, groups, panels, part + 1, parts);
  for (std::int64_t panel = begin.panel; panel <= std::min(end.panel, panels - 1); ++panel) {
    const std::int64_t first = panel == begin.panel ? begin.group : 0;
    const std::int64_t last = panel == end.panel ? end.group : groups;
    if (first < last) body(panel, first, last);
  }
}

/// Hands out shares of all panels to whichever thread is free, each of which calls make_body() once
/// and its result, body(panel, first group, last group), for what it gets, in order.
///
/// Not one share a thread: where another runtime's threads still spin after an operator of theirs
/// (OpenMP's do), one of ours may wait milliseconds for a core, and the others should not wait for
/// its half (128 tokens after an operator of torch: 7.2 ms, so 4.6; 2.1 alone).
///
/// @param ranges of inputs in which each share is worked off; what is read for a range is read
/// again in the next share, so that there are fewer.
template <class MakeBody>
void hand_out(ThreadPool& pool, const std::int32_t* offsets, std::int64_t groups,
              std::int64_t panels, std::int64_t ranges, MakeBody&& make_body) {
  const std::int64_t a_thread = ranges == 1 ? 8 : 2;
  const std::int64_t shares =
      pool.size() == 1 ? 1 : std::min(groups * panels, a_thread * pool.size());
  std::atomic<std::int64_t> next{0};
  pool.run([&](int) {
    std::int64_t share = next.fetch_add(1, std::memory_order_relaxed);
    if (share >= shares) return;
    auto body = make_body();
    for (; share < shares; share = next.fetch_add(1, std::memory_order_relaxed))
      for_share(offsets, groups, panels, share, shares, body);
  });
}

inline std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}

/// How tokens are cut in panels and inputs in ranges, so that the activations of both stay in L2.
/// It does not change a bit of the results: products are added in the same order, to the same sum,
/// whether that waits in memory between ranges or not.
struct PanelCuts {
  std::int64_t tile_tokens;          ///< Tokens that are multiplied together.
  std::int64_t panel_tiles, panels;  ///< Token tiles of a panel.
  std::int64_t range, ranges;        ///< Groups of inputs of a range.

  /// What fits: bytes of an activation, bytes of a panel and range, and the least tiles of a panel,
  /// below which inputs are cut rather than tokens. Ranges are multiples of `range_unit` groups.
  struct Room {
    std::int64_t activation_bytes, range_bytes, least_tiles, range_unit;
  };

  PanelCuts(const BlockGroups& g, std::int64_t tokens, std::int64_t tokens_a_tile, const Room& room)
      : tile_tokens(tokens_a_tile) {
    const std::int64_t tile_bytes =
        std::max<std::int64_t>(1, g.inputs_total) * tile_tokens * room.activation_bytes;
    const std::int64_t tiles = ceil_div(tokens, tile_tokens);
    panels = ceil_div(tiles, std::max(room.least_tiles, room.range_bytes / tile_bytes));
    panel_tiles = ceil_div(tiles, panels);
    const std::int64_t units =
        std::max<std::int64_t>(1, ceil_div(g.inputs_total / g.in, room.range_unit));
    ranges = std::min(units, ceil_div(tile_bytes * panel_tiles, room.range_bytes));
    range = ceil_div(units, ranges) * room.range_unit;
    ranges = ceil_div(units * room.range_unit, range);
  }
  [[nodiscard]] std::int64_t panel_tokens() const { return panel_tiles * tile_tokens; }
};

}  // namespace rarefy
