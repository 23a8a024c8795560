// Block-sparse products on AMX: weights to tiles, products, sums to rows.
#include "ops/block_sparse/cpu/amx_inner.h"
#include "ops/spmm/cpu/strip_amx_tiles.h"
#include "ops/spmm/cpu/transpose16_avx512.h"

namespace rarefy::block_cpu {
namespace {

[[gnu::always_inline]] inline void store_lines(std::byte* to, const __m512i* lines) {
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) _mm512_store_si512(to + 64 * i, lines[i]);
}

__m256i load256(const std::uint16_t* from) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}
__m128i load128(const std::uint16_t* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}

/// 32 weights from kParts places.
template <int kParts>
[[gnu::always_inline]] inline __m512i join(const std::uint16_t* const* from) {
  if constexpr (kParts == 1) {
    return _mm512_loadu_si512(from[0]);
  } else if constexpr (kParts == 2) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(load256(from[0])), load256(from[1]), 1);
  } else {
    const auto half = [&](int p) __attribute__((always_inline)) {
      return _mm256_inserti128_si256(_mm256_castsi128_si256(load128(from[p])), load128(from[p + 1]),
                                     1);
    };
    return _mm512_inserti64x4(_mm512_castsi256_si512(half(0)), half(2), 1);
  }
}

/// The parts of a tile, of one member or two; absent ones read zeros again and again.
template <int kParts, int kMembers>
struct TileParts {
  const std::uint16_t* at[kMembers][kParts];
  std::int64_t row[kMembers][kParts];
  TileParts(const WeightTiles& job, std::int64_t tile, int first_member) {
    alignas(64) static constexpr std::uint16_t kZeros[32] = {};
    for (int m = 0; m < kMembers; ++m) {
      for (int p = 0; p < kParts; ++p) {
        const std::uint16_t* part = job.parts[(tile * job.members + first_member + m) * kParts + p];
        at[m][p] = part != nullptr ? part + job.offset : kZeros;
        row[m][p] = part != nullptr ? job.row : 0;
      }
    }
  }
  /// 32 inputs of output r, where outputs are rows.
  [[gnu::always_inline]] __m512i inputs(std::int64_t r) const {
    const std::int64_t m = kMembers == 2 ? r / 8 : 0;
    const std::int64_t in_member = kMembers == 2 ? r % 8 : r;
    const std::uint16_t* from[kParts];
    for (int p = 0; p < kParts; ++p) from[p] = at[m][p] + in_member * row[m][p];
    return join<kParts>(from);
  }
  /// 16 outputs of input i of part p, where outputs are columns.
  [[gnu::always_inline]] __m256i outputs(int p, std::int64_t i) const {
    if constexpr (kMembers == 1) return load256(at[0][p] + i * row[0][p]);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(load128(at[0][p] + i * row[0][p])),
                                   load128(at[kMembers - 1][p] + i * row[kMembers - 1][p]), 1);
  }
};

template <int kParts, int kMembers>
void pack_by_rows(const WeightTiles& job) {
  for (std::int64_t i = 0; i < job.tiles; ++i) {
    for (int s = 0; s < job.strips; ++s) {
      const TileParts<kParts, kMembers> parts(job, i, kMembers == 2 ? 2 * s : 0);
      const std::int64_t first = kMembers == 2 ? 0 : s * kStripOutputs;
      __m512i lines[16];
#pragma GCC unroll 16
      for (int r = 0; r < 16; ++r) lines[r] = parts.inputs(first + r);
      transpose16(lines);
      store_lines(job.to + (i * job.strips + s) * kTileBytes, lines);
    }
  }
}

/// Two rows of 32 weights to pairs: of the first 16 columns and of the others.
struct RowPairs {
  RowPairs() {
    alignas(64) std::uint16_t low_index[32];
    alignas(64) std::uint16_t high_index[32];
    for (int i = 0; i < 32; ++i) {
      low_index[i] = static_cast<std::uint16_t>(i / 2 + i % 2 * 32);
      high_index[i] = static_cast<std::uint16_t>(16 + i / 2 + i % 2 * 32);
    }
    low = _mm512_load_si512(low_index);
    high = _mm512_load_si512(high_index);
  }
  __m512i low, high;
};

/// One strip of a tile.
template <int kParts, int kMembers>
void pack_strip_by_columns(const TileParts<kParts, kMembers>& parts, const RowPairs& pairs,
                           std::byte* to) {
  for (int p = 0; p < kParts; ++p) {
    for (int i = 0; i < 32 / kParts; i += 2, to += 64) {
      const __m512i even = _mm512_castsi256_si512(parts.outputs(p, i));
      const __m512i odd = _mm512_castsi256_si512(parts.outputs(p, i + 1));
      _mm512_store_si512(to, _mm512_permutex2var_epi16(even, pairs.low, odd));
    }
  }
}

template <int kParts, int kMembers>
void pack_by_columns(const WeightTiles& job) {
  const RowPairs pairs;
  for (std::int64_t i = 0; i < job.tiles; ++i) {
    std::byte* to = job.to + i * job.strips * kTileBytes;
    if (kMembers == 2 || job.strips == 1) {
      for (int s = 0; s < job.strips; ++s, to += kTileBytes)
        pack_strip_by_columns(TileParts<kParts, kMembers>(job, i, 2 * s), pairs, to);
      continue;
    }
    const TileParts<kParts, 1> parts(job, i, 0);
    for (int p = 0; p < kParts; ++p) {
      const std::uint16_t* from = parts.at[0][p];
      const std::int64_t row = parts.row[0][p];
      for (int k = 0; k < 32 / kParts; k += 2, from += 2 * row, to += 64) {
        const __m512i even = _mm512_loadu_si512(from);
        const __m512i odd = _mm512_loadu_si512(from + row);
        _mm512_store_si512(to, _mm512_permutex2var_epi16(even, pairs.low, odd));
        _mm512_store_si512(to + kTileBytes, _mm512_permutex2var_epi16(even, pairs.high, odd));
      }
    }
  }
}

/// Calls pack<parts, members> for what the job has.
template <class Pack>
void dispatch(const WeightTiles& job, Pack&& pack) {
  const auto with_members = [&](auto parts) {
    if (job.members == 1) return pack(parts, std::integral_constant<int, 1>{});
    pack(parts, std::integral_constant<int, 2>{});
  };
  if (job.tile_parts == 1) return with_members(std::integral_constant<int, 1>{});
  if (job.tile_parts == 2) return with_members(std::integral_constant<int, 2>{});
  with_members(std::integral_constant<int, 4>{});
}

/// Reads ahead beside the products, as many lines after each tile.
class Reader {
 public:
  Reader(const std::byte* from, std::int64_t lines, std::int64_t steps)
      : line_(from), left_(lines), share_(lines == 0 ? 0 : (lines + steps - 1) / steps) {}
  [[gnu::always_inline]] void read() {
    for (std::int64_t i = share_ < left_ ? share_ : left_; i > 0; --i, --left_, line_ += 64)
      _mm_prefetch(reinterpret_cast<const char*>(line_), _MM_HINT_T1);
  }

 private:
  const std::byte* line_;
  std::int64_t left_, share_;
};

template <int kStrips, int kTokenTiles>
void multiply(const TileProducts& job, const std::byte* x, float* sums, Reader& reader) {
  using R = strip::Registers<kStrips, kTokenTiles>;
  const std::int64_t strip_sums = job.token_tiles * kSumFloats;
  strip::unrolled<kStrips>([&](auto s) {
    strip::unrolled<kTokenTiles>([&](auto t) {
      if (job.add) {
        strip::load<R::sum(s, t)>(sums + s * strip_sums + t * kSumFloats);
      } else {
        strip::zero<R::sum(s, t)>();
      }
    });
  });
  const std::byte* w = job.weights;
  const std::int64_t k_stride = job.group * kTileBytes;
  for (std::int64_t i = 0; i < job.tiles; ++i, w += kStrips * kTileBytes) {
    strip::step<kStrips, kTokenTiles, 1>(w, kTileBytes,
                                         x + (job.inputs[i] - job.first_input) * k_stride);
    reader.read();
  }
  strip::unrolled<kStrips>([&](auto s) {
    strip::unrolled<kTokenTiles>(
        [&](auto t) { strip::store<R::sum(s, t)>(sums + s * strip_sums + t * kSumFloats); });
  });
}

struct Bf16Rows {
  static constexpr std::int64_t kBytes = 2;
  static __m512 load(const void* p) {
    const __m256i half = _mm256_loadu_si256(static_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
  }
  static void store(void* p, __m512 x) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x)));
  }
  static void store2(void* p, __m512 low, __m512 high) {
    _mm512_storeu_si512(p, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
  }
};
struct F16Rows {
  static constexpr std::int64_t kBytes = 2;
  static void store(void* p, __m512 x) {
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
  }
};
struct F32Rows {
  static constexpr std::int64_t kBytes = 4;
  static __m512 load(const void* p) { return _mm512_loadu_ps(p); }
  static void store(void* p, __m512 x) { _mm512_storeu_ps(p, x); }
  static void store2(void* p, __m512 low, __m512 high) {
    store(p, low);
    store(static_cast<std::byte*>(p) + 64, high);
  }
};

template <class Rows>
void store_rows(const SumRows& job) {
  constexpr std::int64_t kStripBytes = kStripOutputs * Rows::kBytes;
  const std::int64_t strip_floats = job.token_tiles * kSumFloats;
  for (std::int64_t t = 0; t < job.tokens; ++t) {
    const float* sums =
        job.sums + t / job.tile_tokens * kSumFloats + t % job.tile_tokens * kStripOutputs;
    auto* c = static_cast<std::byte*>(job.c) + t * job.c_stride * Rows::kBytes;
    const auto* residual =
        static_cast<const std::byte*>(job.residual) + t * job.residual_stride * Rows::kBytes;
    const auto value = [&](std::int64_t s) {
      __m512 x = _mm512_load_ps(sums + s * strip_floats);
      if (job.bias != nullptr) x = _mm512_add_ps(x, _mm512_loadu_ps(job.bias + s * kStripOutputs));
      if (job.residual != nullptr) x = _mm512_add_ps(x, Rows::load(residual + s * kStripBytes));
      return x;
    };
    std::int64_t s = 0;
    for (; s + 2 <= job.strips; s += 2) Rows::store2(c + s * kStripBytes, value(s), value(s + 1));
    if (s < job.strips) Rows::store(c + s * kStripBytes, value(s));
  }
}

template <class Rows>
void store_sample(const SampleRows& job) {
  for (int half = 0; half < job.row_halves; ++half) {
    for (int r = 0; r < 16; ++r) {
      auto* to = static_cast<std::byte*>(job.to) + (16 * half + r) * job.stride * Rows::kBytes;
      for (int column = 0; column < job.column_halves; ++column) {
        const float* sums = job.sums + (column * job.row_halves + half) * kSumFloats + 16 * r;
        Rows::store(to + 16 * column * Rows::kBytes, _mm512_load_ps(sums));
      }
    }
  }
}

}  // namespace

void pack_outputs_by_rows_amx(const WeightTiles& job) {
  dispatch(job, [&](auto parts, auto members) { pack_by_rows<parts, members>(job); });
}

void pack_outputs_by_columns_amx(const WeightTiles& job) {
  dispatch(job, [&](auto parts, auto members) { pack_by_columns<parts, members>(job); });
}

void multiply_tiles_amx(const TileProducts& job) {
  const std::int64_t groups = (job.token_tiles + job.group - 1) / job.group;
  Reader reader(job.ahead, job.ahead_lines, groups * job.tiles);

  for (std::int64_t g = 0; g < groups; ++g) {
    const std::byte* x = job.x + g * job.group_stride;
    const std::int64_t t = g * job.group;
    float* sums = job.sums + t * kSumFloats;
    const std::int64_t tiles = job.token_tiles - t < job.group ? job.token_tiles - t : job.group;
    if (job.strips == 2) {
      tiles == 1 ? multiply<2, 1>(job, x, sums, reader) : multiply<2, 2>(job, x, sums, reader);
      continue;
    }
    switch (tiles) {
      case 1:
        multiply<1, 1>(job, x, sums, reader);
        break;
      case 2:
        multiply<1, 2>(job, x, sums, reader);
        break;
      case 3:
        multiply<1, 3>(job, x, sums, reader);
        break;
      default:
        multiply<1, 4>(job, x, sums, reader);
    }
  }
}

void store_bf16_amx(const SumRows& job) {
  store_rows<Bf16Rows>(job);
}
void store_f32_amx(const SumRows& job) {
  store_rows<F32Rows>(job);
}

void store_sample_bf16_amx(const SampleRows& job) {
  store_sample<Bf16Rows>(job);
}
void store_sample_f16_amx(const SampleRows& job) {
  store_sample<F16Rows>(job);
}
void store_sample_f32_amx(const SampleRows& job) {
  store_sample<F32Rows>(job);
}

}  // namespace rarefy::block_cpu
