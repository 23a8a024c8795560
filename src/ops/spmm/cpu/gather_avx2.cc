// SpMV over row lists with AVX2: 8 entries a step. Delta codes become columns eight at a time. In
// rows with few escapes, the eights that hold one go code by code; in others a shuffle from a table
// closes the gaps that escapes leave, so that no branch depends on where they are.
#include <immintrin.h>

#include "ops/spmm/cpu/gather_inner.h"

namespace rarefy {
namespace {

constexpr std::int64_t kPrefetchBytes = 1024;

void prefetch(const void* p) {
  _mm_prefetch(static_cast<const char*>(p) + kPrefetchBytes, _MM_HINT_T0);
}

struct Bf16 {
  using Bits = std::uint16_t;
  static __m256 load(const Bits* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  static float one(Bits bits) {
    return _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(static_cast<int>(bits) << 16)));
  }
};

struct F16 {
  using Bits = std::uint16_t;
  static __m256 load(const Bits* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static float one(Bits bits) { return _cvtsh_ss(bits); }
};

struct F32 {
  using Bits = float;
  static __m256 load(const Bits* p) { return _mm256_loadu_ps(p); }
  static float one(Bits value) { return value; }
};

float reduce(__m256 sum) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

__m256i widen(const std::uint16_t* columns) {
  return _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(columns)));
}
__m256i widen(const std::uint32_t* columns) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(columns));
}

template <class W, class Index>
float csr_row(const GatherJob& job, std::int64_t row) {
  const std::int64_t begin = job.list_offsets[row];
  const std::int64_t count = job.list_offsets[row + 1] - begin;
  const Index* columns = static_cast<const Index*>(job.columns) + begin;
  const auto* values = static_cast<const typename W::Bits*>(job.values) + begin;
  __m256 sum = _mm256_setzero_ps();
  std::int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    prefetch(columns + i);
    prefetch(values + i);
    sum = _mm256_fmadd_ps(W::load(values + i), _mm256_i32gather_ps(job.x, widen(columns + i), 4),
                          sum);
  }
  float rest = 0;
  for (; i < count; ++i) rest += W::one(values[i]) * job.x[columns[i]];
  return reduce(sum) + rest;
}

/// Eight codes as bytes, from 8 or 4 bytes.
struct Eight {
  static __m128i load8(const std::uint8_t* p) {
    return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  }
  static __m128i load4(const std::uint8_t* p) {
    const __m128i pairs = _mm_cvtepu8_epi16(_mm_loadu_si32(p));
    const __m128i both = _mm_or_si128(pairs, _mm_slli_epi16(pairs, 4));
    return _mm_and_si128(both, _mm_set1_epi8(0x0F));
  }
};

/// For each set of live lanes of eight words, the shuffle that moves them to the front.
struct Compaction {
  alignas(16) std::uint8_t bytes[256][16];
  constexpr Compaction() : bytes{} {
    for (int live = 0; live < 256; ++live) {
      int to = 0;
      for (int lane = 0; lane < 8; ++lane) {
        if ((live >> lane & 1) == 0) continue;
        bytes[live][to++] = static_cast<std::uint8_t>(2 * lane);
        bytes[live][to++] = static_cast<std::uint8_t>(2 * lane + 1);
      }
    }
  }
};
constexpr Compaction kCompaction;

template <int bits>
__m128i load_codes(const std::uint8_t* codes) {
  return bits == 8 ? Eight::load8(codes) : Eight::load4(codes);
}

/// Columns wait here until there are enough for long runs of gathers.
constexpr int kWaiting = 256;

/// A delta row: its codes and values.
template <class W>
struct DeltaRow {
  const std::uint8_t *codes, *stop;
  const typename W::Bits* values;
  DeltaRow(const GatherJob& job, std::int64_t row)
      : codes(static_cast<const std::uint8_t*>(job.columns) + 32 * job.list_offsets[row]),
        stop(static_cast<const std::uint8_t*>(job.columns) + 32 * job.list_offsets[row + 1]),
        values(static_cast<const typename W::Bits*>(job.values) + job.value_offsets[row]) {}
};

/// Words 0 … 7 become the sums of words 0 … i.
__m128i prefix_sums(__m128i words) {
  words = _mm_add_epi16(words, _mm_slli_si128(words, 2));
  words = _mm_add_epi16(words, _mm_slli_si128(words, 4));
  return _mm_add_epi16(words, _mm_slli_si128(words, 8));
}

/// 8-bit codes with few escapes.
template <class W>
float delta_row_by_eights(const GatherJob& job, std::int64_t index) {
  DeltaRow<W> row(job, index);
  const __m128i zero = _mm_setzero_si128();
  __m256 sum = _mm256_setzero_ps();
  float rest = 0;
  std::int64_t last = -1;
  for (; row.codes != row.stop; row.codes += 8) {
    prefetch(row.codes);
    prefetch(row.values);
    const __m128i eight = Eight::load8(row.codes);
    if ((_mm_movemask_epi8(_mm_cmpeq_epi8(eight, zero)) & 0xFF) == 0) {
      const __m128i places = prefix_sums(_mm_cvtepu8_epi16(eight));
      const __m256i columns = _mm256_add_epi32(_mm256_cvtepu16_epi32(places),
                                               _mm256_set1_epi32(static_cast<int>(last)));
      sum = _mm256_fmadd_ps(W::load(row.values), _mm256_i32gather_ps(job.x, columns, 4), sum);
      last += _mm_extract_epi16(places, 7);
      row.values += 8;
      continue;
    }
    for (int i = 0; i < 8; ++i) {
      const int code = row.codes[i];
      last += code == 0 ? 255 : code;
      if (code != 0) rest += W::one(*row.values++) * job.x[last];
    }
  }
  return reduce(sum) + rest;
}

/// Codes of either width with any number of escapes.
template <class W, int bits>
float delta_row_compacted(const GatherJob& job, std::int64_t index) {
  constexpr int kReach = (1 << bits) - 1;
  DeltaRow<W> row(job, index);
  const __m128i zero = _mm_setzero_si128();
  __m256 sum = _mm256_setzero_ps();
  __m128i last = _mm_set1_epi16(-1);
  std::uint16_t waiting[kWaiting + 8];
  int count = 0;
  while (row.codes != row.stop) {
    for (; row.codes != row.stop && count < kWaiting; row.codes += bits) {
      prefetch(row.codes);
      const __m128i eight = load_codes<bits>(row.codes);
      const __m128i is_escape = _mm_cmpeq_epi8(eight, zero);
      const unsigned live = ~static_cast<unsigned>(_mm_movemask_epi8(is_escape)) & 0xFFU;
      const __m128i gaps =
          _mm_or_si128(eight, _mm_and_si128(is_escape, _mm_set1_epi8(static_cast<char>(kReach))));
      const __m128i columns = _mm_add_epi16(prefix_sums(_mm_cvtepu8_epi16(gaps)), last);
      last = _mm_shuffle_epi8(columns, _mm_set1_epi16(0x0F0E));
      const __m128i front =
          _mm_load_si128(reinterpret_cast<const __m128i*>(kCompaction.bytes[live]));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(waiting + count),
                       _mm_shuffle_epi8(columns, front));
      count += __builtin_popcount(live);
    }
    int used = 0;
    for (; used + 8 <= count; used += 8, row.values += 8) {
      prefetch(row.values);
      sum = _mm256_fmadd_ps(W::load(row.values),
                            _mm256_i32gather_ps(job.x, widen(waiting + used), 4), sum);
    }
    count -= used;
    _mm_storeu_si128(reinterpret_cast<__m128i*>(waiting),
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(waiting + used)));
  }
  float rest = 0;
  for (int i = 0; i < count; ++i) rest += W::one(row.values[i]) * job.x[waiting[i]];
  return reduce(sum) + rest;
}

/// Escapes (and padding) make at most a 16th of the codes, or they do not.
template <class W>
float delta8_row(const GatherJob& job, std::int64_t row) {
  const std::int64_t codes = 32 * (job.list_offsets[row + 1] - job.list_offsets[row]);
  const std::int64_t values = job.value_offsets[row + 1] - job.value_offsets[row];
  return codes - values <= codes / 16 ? delta_row_by_eights<W>(job, row)
                                      : delta_row_compacted<W, 8>(job, row);
}

template <float row_sum(const GatherJob&, std::int64_t)>
void all_rows(const GatherJob& job) {
  for (std::int64_t i = 0; i < job.rows; ++i) job.sums[i] = row_sum(job, job.row + i);
}

}  // namespace

const GatherInners kCsr32Avx2 = {all_rows<csr_row<Bf16, std::uint32_t>>,
                                 all_rows<csr_row<F16, std::uint32_t>>,
                                 all_rows<csr_row<F32, std::uint32_t>>};
const GatherInners kCsr16Avx2 = {all_rows<csr_row<Bf16, std::uint16_t>>,
                                 all_rows<csr_row<F16, std::uint16_t>>,
                                 all_rows<csr_row<F32, std::uint16_t>>};
const GatherInners kDelta8Avx2 = {all_rows<delta8_row<Bf16>>, all_rows<delta8_row<F16>>,
                                  all_rows<delta8_row<F32>>};
const GatherInners kDelta4Avx2 = {all_rows<delta_row_compacted<Bf16, 4>>,
                                  all_rows<delta_row_compacted<F16, 4>>,
                                  all_rows<delta_row_compacted<F32, 4>>};

}  // namespace rarefy
