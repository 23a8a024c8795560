// What kernels on row lists and token panels share: how K and the rows are cut, how results are
// stored, what it costs. For portable files; the inner loops are in csr_engine.h.
#pragma once

#include <algorithm>
#include <cmath>

#include "ops/spmm/cpu/csr_engine.h"
#include "ops/spmm/cpu/strip_activations.h"
#include "ops/spmm/cpu/transpose_floats.h"
#include "ops/spmm/epilogue.h"
#include "ops/spmm/kernel.h"
#include "ops/spmm/scratch.h"

namespace rarefy::csr {

/// Of a 48 KiB L1, what a range of a panel takes; a row's sums and nonzeros pass through the rest.
inline constexpr std::int64_t kRangeBytes = 32 << 10;
/// A row's sums are loaded and stored once a range: fewer nonzeros than this would not pay for it,
/// and the range grows into L2 instead.
inline constexpr double kEntriesARange = 16;
inline constexpr std::int64_t kMostRangeBytes = 512 << 10;
/// Sums that a thread keeps between ranges.
inline constexpr std::int64_t kSumBytes = 512 << 10;
inline constexpr std::int64_t kMostTokens = 16 * kMostVectors;

struct Level {
  Isa isa;
  Run* run;
  RunBlocks* run_blocks;
  double cycles_per_vector;  ///< A nonzero times 16 tokens.
};

inline constexpr Level kLevels[] = {
    {Isa::kAvx512, run_avx512, run_blocks_avx512, 1.4},
    {Isa::kAvx2, run_avx2, run_blocks_avx2, 2.2},
    {Isa::kPortable, run_portable, run_blocks_portable, 10.0},
};

/// Vectors of 16 tokens a panel has: the narrowest of 1, 2, 4, 8 that holds them all.
inline int panel_vectors(std::int64_t n) {
  int vectors = 1;
  while (vectors < kMostVectors && 16 * vectors < n) vectors *= 2;
  return vectors;
}

/// Columns of a range of K.
inline std::int64_t range_columns(double density, int vectors) {
  const std::int64_t column_bytes = std::int64_t{64} * vectors;
  const double enough = kEntriesARange / std::max(density, 1e-6);
  const double most = static_cast<double>(kMostRangeBytes) / static_cast<double>(column_bytes);
  return std::max(kRangeBytes / column_bytes, static_cast<std::int64_t>(std::min(enough, most)));
}

/// Results of rows [begin, end) for the tokens of a panel; sums: [row][token].
inline void store_rows(const Epilogue& epilogue, const float* sums, std::int64_t begin,
                       std::int64_t end, std::int64_t panel_tokens, std::int64_t first_token,
                       std::int64_t tokens) {
  constexpr std::int64_t kRun = 64;
  constexpr std::int64_t kTokens = 16;
  const bool plain = epilogue.is_plain_f32();
  float gathered[kTokens * kRun];
  for (std::int64_t r = begin; r < end; r += kRun, sums += kRun * panel_tokens) {
    const std::int64_t count = std::min(kRun, end - r);
    for (std::int64_t t = 0; t < tokens; t += kTokens) {
      const std::int64_t live = std::min(kTokens, tokens - t);
      float* to = plain ? epilogue.c().row<float>(first_token + t) + r : gathered;
      transpose_floats(sums + t, panel_tokens, count, live, to,
                       plain ? epilogue.c().row_stride : kRun);
      for (std::int64_t i = 0; !plain && i < live; ++i)
        epilogue.store(first_token + t + i, r, gathered + i * kRun, count);
    }
  }
}

/// Cuts [0, units) where the weight of units before, offsets[u] + u·unit_weight, reaches the part's
/// share.
inline std::int64_t cut(const std::int64_t* offsets, std::int64_t units, std::int64_t unit_weight,
                        std::int64_t part, std::int64_t parts) {
  const auto weight = [&](std::int64_t u) { return offsets[u] - offsets[0] + u * unit_weight; };
  const std::int64_t target = weight(units) * part / parts;
  std::int64_t low = 0;
  std::int64_t high = units;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (weight(middle) < target) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

/// One thread's rows [begin, end): multiply(rows, range, panel, sums, add) for all panels and
/// ranges, and the results stored.
struct PanelWalk {
  const strip::Activations& x;
  const Epilogue& epilogue;
  std::int64_t n, k, range;

  template <class Start, class Multiply>
  void run(std::int64_t begin, std::int64_t end, Start&& start, Multiply&& multiply) const {
    const std::int64_t ranges = (k + range - 1) / range;
    const std::int64_t round =
        std::max<std::int64_t>(64, kSumBytes / (x.tokens * std::int64_t{sizeof(float)}));
    Scratch sums(strip::huge_page_bytes(
        static_cast<std::size_t>(std::min(round, end - begin) * x.tokens) * sizeof(float)));
    for (std::int64_t r0 = begin; r0 < end; r0 += round) {
      const std::int64_t r1 = std::min(end, r0 + round);
      for (std::int32_t tile = 0; tile < x.token_tiles; ++tile) {
        const float* panel = static_cast<const float*>(x.data) + tile * x.padded_k * x.tokens;
        start(r0, r1);
        for (std::int64_t i = 0; i < ranges; ++i)
          multiply(r0, r1, i * range, std::min(k, (i + 1) * range), panel, sums.as<float>(), i > 0);
        const std::int64_t first = std::int64_t{tile} * x.tokens;
        store_rows(epilogue, sums.as<float>(), r0, r1, x.tokens, first,
                   std::min<std::int64_t>(x.tokens, n - first));
      }
    }
  }
};

/// What both kernels count: 16-token vectors of products, and activations turned into panels.
inline SpmmCost panel_cost(const FormatSpec& spec, const PatternStats& pattern,
                           const SpmmProblem& p, double entries, const Level& level) {
  const double vectors = std::ceil(static_cast<double>(p.n) / kMostTokens) * panel_vectors(p.n);
  const auto n = static_cast<double>(p.n);
  const double ranges =
      std::ceil(static_cast<double>(p.k) /
                static_cast<double>(range_columns(pattern.density(), panel_vectors(p.n))));
  const double sums = static_cast<double>(p.m) * ranges * (20 + 2 * vectors);
  return {.bytes = estimated_bytes(spec, pattern, p.weight) + activation_bytes(p),
          .cycles = entries * (1.5 + vectors * level.cycles_per_vector) + sums +
                    2 * n * static_cast<double>(p.k) + 2 * n * static_cast<double>(p.m)};
}

}  // namespace rarefy::csr
