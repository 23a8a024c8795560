// How rows of a weight are shared out among the blocks of a GPU.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "formats/csr.h"

namespace rarefy::gpu {

/// Clusters of `split` blocks that run at once, a block a multiprocessor. They do not straddle the
/// groups that multiprocessors come in: an H100 of 132 holds 66 clusters of two, 30 of four and 15
/// of eight; one more would run alone.
int resident_clusters(int multiprocessors, int split);

/// Deals items to `bins` bins with room for `room` items each, the heaviest first, each to the
/// lightest bin that has room; of equals the first. All must fit. Returns the items of each bin,
/// rising.
std::vector<std::vector<std::int32_t>> deal(std::span<const std::int64_t> loads, int bins,
                                            std::int64_t room);

/// Deals groups of `rows` consecutive rows to `tiles` tiles with room for `room` groups each, the
/// heaviest first, each to the lightest tile that has room. Returns [tile][room]: the first row of
/// each group, rising within a tile; -1 for none. All groups must fit.
std::vector<std::int32_t> deal_row_groups(const CsrMatrix& csr, int rows, int tiles, int room);

}  // namespace rarefy::gpu
