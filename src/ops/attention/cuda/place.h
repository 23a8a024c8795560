// Where the tokens of a run stand: the host's twin of place.cuh.
#pragma once

#include <cstdint>

namespace rarefy::gpu {

/// Keys and values of a sequence lie as [layer][keys, values][capacity][kv_heads · head_dim].
struct Place {
  std::uint64_t memory = 0;    ///< Address of the sequence's keys and values.
  std::int32_t capacity = 0;   ///< Positions that they have room for.
  std::int32_t position = -1;  ///< Of this token; negative: a row that only fills the batch.
  std::int32_t token = 0;      ///< Its id.
  std::int32_t unused = 0;
};
static_assert(sizeof(Place) == 24, "as in place.cuh");

}  // namespace rarefy::gpu
