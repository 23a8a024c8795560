// From tiles of sums to results.
#pragma once

#include "ops/spmm/cpu/strip_engine.h"
#include "ops/spmm/epilogue.h"

namespace rarefy::strip {

/// Strips whose results are stored together: a run of 128 outputs a token.
inline constexpr std::int64_t kStripsAStore = 8;

/// Stores the results of at most kStripsAStore strips, from strip `s` on, for n tokens. sums:
/// [strip][token tile] tiles.
void store_sums(const Epilogue& epilogue, const float* sums, std::int64_t s, std::int64_t strips,
                const Activations& x, std::int64_t n, std::int64_t m);

}  // namespace rarefy::strip
