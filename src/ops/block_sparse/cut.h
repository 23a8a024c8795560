// How the work of a product is cut for threads: in equal shares of a sequence of groups of blocks,
// once for each panel of tokens.
#pragma once

#include <algorithm>
#include <cstdint>

#include "ops/block_sparse/pattern.h"

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

}  // namespace rarefy
