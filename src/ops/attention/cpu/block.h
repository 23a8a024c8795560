// The attention kernel over the Vec of the including file: blocked online softmax (Milakov &
// Gimelshein 2018; Dao et al. 2022), in f32.
//
// For each block of 64 keys: pack the keys transposed and the values padded, both to f32; scores =
// q·kᵀ in register tiles; mask; rescale what is there and add p·v in register tiles. A row goes
// through the same operations in the same order whatever rows are beside it.
#pragma once

#include <cstdint>

#include "ops/attention/cpu/kernels.h"

namespace rarefy::attention_kernels {
namespace {

using simd::kLanes;
using simd::kTileRows;
using simd::kTileVectors;
using simd::Vec;

constexpr float kNothing = -__builtin_inff();

inline std::int64_t smaller(std::int64_t a, std::int64_t b) {
  return a < b ? a : b;
}
inline std::int64_t larger(std::int64_t a, std::int64_t b) {
  return a > b ? a : b;
}
inline std::int64_t padded(std::int64_t count) {
  return (count + kLanes - 1) / kLanes * kLanes;
}

/// Where things lie in the block's scratch.
struct Layout {
  std::int64_t rows, width;  ///< width: head_dim padded to whole vectors.
  float *q, *keys, *values, *scores, *sums, *most, *total;

  explicit Layout(const Block& b)
      : rows(b.tokens * b.group),
        width(padded(b.head_dim)),
        q(b.scratch),
        keys(q + rows * width),              // head_dim × kKeyBlock
        values(keys + width * kKeyBlock),    // kKeyBlock × width
        scores(values + width * kKeyBlock),  // rows × kKeyBlock
        sums(scores + rows * kKeyBlock),     // rows × width
        most(sums + rows * width),           // rows
        total(most + rows) {}
};

template <KvType kType>
Vec load_kv(const void* base, std::int64_t index) {
  if constexpr (kType == KvType::kF32) return simd::load(static_cast<const float*>(base) + index);
  const auto* halves = static_cast<const std::uint16_t*>(base) + index;
  return kType == KvType::kF16 ? simd::load_f16(halves) : simd::load_bf16(halves);
}

/// The last, partial vector of a row.
template <KvType kType>
Vec load_kv_first(const void* base, std::int64_t index, int count) {
  if constexpr (kType == KvType::kF32) {
    return simd::load_first(static_cast<const float*>(base) + index, count);
  } else {
    const auto* halves = static_cast<const std::uint16_t*>(base) + index;
    std::uint16_t copy[kLanes] = {};
    for (int i = 0; i < count; ++i) copy[i] = halves[i];
    return load_kv<kType>(copy, 0);
  }
}

template <KvType kType>
Vec load_kv_any(const void* base, std::int64_t index, std::int64_t left) {
  return left >= kLanes ? load_kv<kType>(base, index)
                        : load_kv_first<kType>(base, index, static_cast<int>(left));
}

/// keys[d][j] = k[first + j][d], zero from `count` on.
template <KvType kType>
void pack_keys(const Block& b, std::int64_t first, std::int64_t count, const Layout& s) {
  for (std::int64_t j = 0; j < kKeyBlock; j += kLanes) {
    for (std::int64_t d = 0; d < s.width; d += kLanes) {
      Vec tile[kLanes];
      for (int i = 0; i < kLanes; ++i) {
        tile[i] = j + i < count
                      ? load_kv_any<kType>(b.k, (first + j + i) * b.k_stride + d, b.head_dim - d)
                      : simd::broadcast(0.0F);
      }
      simd::transpose(tile);
      for (int i = 0; i < kLanes; ++i) simd::store(s.keys + (d + i) * kKeyBlock + j, tile[i]);
    }
  }
}

/// values[j][d] = v[first + j][d], zero from head_dim on.
template <KvType kType>
void pack_values(const Block& b, std::int64_t first, std::int64_t count, const Layout& s) {
  for (std::int64_t j = 0; j < count; ++j) {
    for (std::int64_t d = 0; d < s.width; d += kLanes) {
      simd::store(s.values + j * s.width + d,
                  load_kv_any<kType>(b.v, (first + j) * b.v_stride + d, b.head_dim - d));
    }
  }
}

inline void pack(const Block& b, std::int64_t first, std::int64_t count, const Layout& s) {
  switch (b.kv_type) {
    case KvType::kF32:
      pack_keys<KvType::kF32>(b, first, count, s);
      pack_values<KvType::kF32>(b, first, count, s);
      break;
    case KvType::kF16:
      pack_keys<KvType::kF16>(b, first, count, s);
      pack_values<KvType::kF16>(b, first, count, s);
      break;
    case KvType::kBF16:
      pack_keys<KvType::kBF16>(b, first, count, s);
      pack_values<KvType::kBF16>(b, first, count, s);
      break;
  }
}

/// kRows rows from `row` on: scores = q·keys over columns [begin, end) rounded out to whole tiles.
template <int kRows>
void score_rows(const Block& b, const Layout& s, std::int64_t row, std::int64_t begin,
                std::int64_t end) {
  constexpr std::int64_t kStrip = kTileVectors * kLanes;
  const float* q = s.q + row * s.width;
  for (std::int64_t j = begin / kStrip * kStrip; j < end; j += kStrip) {
    Vec sum[kRows][kTileVectors];
    for (auto& sums : sum)
      for (Vec& v : sums) v = simd::broadcast(0.0F);
    for (std::int64_t d = 0; d < b.head_dim; ++d) {
      const float* keys = s.keys + d * kKeyBlock + j;
      Vec key[kTileVectors];
      for (int c = 0; c < kTileVectors; ++c) key[c] = simd::load(keys + c * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const Vec x = simd::broadcast(q[r * s.width + d]);
        for (int c = 0; c < kTileVectors; ++c) sum[r][c] = simd::fma(x, key[c], sum[r][c]);
      }
    }
    for (int r = 0; r < kRows; ++r)
      for (int c = 0; c < kTileVectors; ++c)
        simd::store(s.scores + (row + r) * kKeyBlock + j + c * kLanes, sum[r][c]);
  }
}

/// sums += p·values over kRows rows, kVectors vectors of width from `d` on, columns [begin, end).
template <int kRows, int kVectors>
void add_values(const Layout& s, std::int64_t row, std::int64_t d, std::int64_t begin,
                std::int64_t end) {
  float* to = s.sums + row * s.width + d;
  const float* p = s.scores + row * kKeyBlock;
  Vec sum[kRows][kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kVectors; ++c) sum[r][c] = simd::load(to + r * s.width + c * kLanes);
  for (std::int64_t j = begin; j < end; ++j) {
    Vec value[kVectors];
    for (int c = 0; c < kVectors; ++c)
      value[c] = simd::load(s.values + j * s.width + d + c * kLanes);
    for (int r = 0; r < kRows; ++r) {
      const Vec x = simd::broadcast(p[r * kKeyBlock + j]);
      for (int c = 0; c < kVectors; ++c) sum[r][c] = simd::fma(x, value[c], sum[r][c]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int c = 0; c < kVectors; ++c) simd::store(to + r * s.width + c * kLanes, sum[r][c]);
}

template <int kRows>
void add_all_values(const Layout& s, std::int64_t row, std::int64_t begin, std::int64_t end) {
  std::int64_t d = 0;
  for (; d + kTileVectors * kLanes <= s.width; d += kTileVectors * kLanes)
    add_values<kRows, kTileVectors>(s, row, d, begin, end);
  for (; d < s.width; d += kLanes) add_values<kRows, 1>(s, row, d, begin, end);
}

/// Masks and exponentiates the scores of one row, rescales its sums to the new maximum. Columns
/// [begin, end) may be seen; those of [tile_begin, tile_end) are read later and must hold zeros
/// elsewhere.
inline void soften_row(const Layout& s, std::int64_t row, std::int64_t begin, std::int64_t end,
                       std::int64_t tile_begin, std::int64_t tile_end) {
  float* p = s.scores + row * kKeyBlock;
  const std::int64_t from = tile_begin / kLanes * kLanes;
  const std::int64_t to = padded(tile_end);
  for (std::int64_t j = from; j < smaller(begin, to); ++j) p[j] = kNothing;
  for (std::int64_t j = larger(end, from); j < to; ++j) p[j] = kNothing;

  Vec block_most = simd::broadcast(s.most[row]);
  for (std::int64_t j = from; j < to; j += kLanes)
    block_most = simd::max(simd::load(p + j), block_most);
  const float most = simd::largest(block_most);
  // While all scores are -inf there is nothing to subtract: exp(-inf - 0) = 0, and NaN stays.
  const float shift = most == kNothing ? 0.0F : most;
  float rescale[kLanes];
  simd::store(rescale, simd::exp(simd::broadcast(s.most[row] - shift)));

  const Vec minus = simd::broadcast(-shift);
  Vec sum = simd::broadcast(0.0F);
  for (std::int64_t j = from; j < to; j += kLanes) {
    const Vec term = simd::exp(simd::add(simd::load(p + j), minus));
    simd::store(p + j, term);
    sum = simd::add(sum, term);
  }
  s.total[row] = s.total[row] * rescale[0] + simd::sum(sum);
  if (most != s.most[row]) {
    const Vec factor = simd::broadcast(rescale[0]);
    float* sums = s.sums + row * s.width;
    for (std::int64_t d = 0; d < s.width; d += kLanes)
      simd::store(sums + d, simd::mul(simd::load(sums + d), factor));
  }
  s.most[row] = most;
}

/// Columns of the key block at `first` that the token of `row` may see.
struct Range {
  std::int64_t begin, end;
};
inline Range visible(const Block& b, std::int64_t row, std::int64_t first) {
  const std::int64_t position = b.first_position + row / b.group;
  const std::int64_t oldest = b.window > 0 ? larger(0, position - b.window + 1) : 0;
  const std::int64_t begin = larger(larger(oldest, b.key_begin) - first, 0);
  const std::int64_t end = smaller(smaller(position + 1, b.key_end) - first, kKeyBlock);
  return {begin, end > begin ? end : begin};
}

template <int kRows>
void attend_rows(const Block& b, const Layout& s, std::int64_t row, std::int64_t first) {
  Range all{kKeyBlock, 0};
  for (int r = 0; r < kRows; ++r) {
    const Range range = visible(b, row + r, first);
    if (range.begin == range.end) continue;
    all = {smaller(all.begin, range.begin), larger(all.end, range.end)};
  }
  if (all.begin >= all.end) return;
  score_rows<kRows>(b, s, row, all.begin, all.end);
  for (int r = 0; r < kRows; ++r) {
    const Range range = visible(b, row + r, first);
    soften_row(s, row + r, range.begin, range.end, all.begin, all.end);
  }
  add_all_values<kRows>(s, row, all.begin, all.end);
}

inline void load_queries(const Block& b, const Layout& s) {
  for (std::int64_t row = 0; row < s.rows; ++row) {
    const float* from = b.q + (row / b.group) * b.q_stride + (row % b.group) * b.head_dim;
    float* to = s.q + row * s.width;
    for (std::int64_t d = 0; d < b.head_dim; ++d) to[d] = from[d] * b.scale;
    for (std::int64_t d = 0; d < s.width; ++d) s.sums[row * s.width + d] = 0.0F;
    s.most[row] = kNothing;
    s.total[row] = 0.0F;
  }
}

inline void store_rows(const Block& b, const Layout& s) {
  for (std::int64_t row = 0; row < s.rows; ++row) {
    const float* from = s.sums + row * s.width;
    if (b.out != nullptr) {
      float* to = b.out + (row / b.group) * b.out_stride + (row % b.group) * b.head_dim;
      const float inverse = s.total[row] == 0.0F ? 0.0F : 1.0F / s.total[row];
      for (std::int64_t d = 0; d < b.head_dim; ++d) to[d] = from[d] * inverse;
    } else {
      float* to = b.part + row * (b.head_dim + 2);
      for (std::int64_t d = 0; d < b.head_dim; ++d) to[d] = from[d];
      to[b.head_dim] = s.most[row];
      to[b.head_dim + 1] = s.total[row];
    }
  }
}

inline void attend(const Block& b) {
  const Layout s(b);
  load_queries(b, s);
  for (std::int64_t first = b.key_begin / kKeyBlock * kKeyBlock; first < b.key_end;
       first += kKeyBlock) {
    pack(b, first, smaller(kKeyBlock, b.key_end - first), s);
    std::int64_t row = 0;
    for (; row + kTileRows <= s.rows; row += kTileRows) attend_rows<kTileRows>(b, s, row, first);
    for (; row < s.rows; ++row) attend_rows<1>(b, s, row, first);
  }
  store_rows(b, s);
}

}  // namespace
}  // namespace rarefy::attention_kernels
