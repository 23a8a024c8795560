// SpMV over row lists with AVX2: 8 entries a step. Without an expand instruction, delta codes that
// hold an escape among eight go one by one.
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

template <class W, int bits>
float delta_row(const GatherJob& job, std::int64_t row) {
  constexpr int kReach = (1 << bits) - 1;
  const auto* codes = static_cast<const std::uint8_t*>(job.columns) + 32 * job.list_offsets[row];
  const std::uint8_t* stop =
      static_cast<const std::uint8_t*>(job.columns) + 32 * job.list_offsets[row + 1];
  const auto* values = static_cast<const typename W::Bits*>(job.values) + job.value_offsets[row];
  const __m128i zero = _mm_setzero_si128();
  __m256 sum = _mm256_setzero_ps();
  float rest = 0;
  std::int64_t last = -1;
  for (; codes != stop; codes += bits) {
    prefetch(codes);
    prefetch(values);
    const __m128i eight = bits == 8 ? Eight::load8(codes) : Eight::load4(codes);
    const unsigned escapes =
        static_cast<unsigned>(_mm_movemask_epi8(_mm_cmpeq_epi8(eight, zero))) & 0xFFU;
    if (escapes == 0) {
      __m128i places = _mm_cvtepu8_epi16(eight);
      places = _mm_add_epi16(places, _mm_slli_si128(places, 2));
      places = _mm_add_epi16(places, _mm_slli_si128(places, 4));
      places = _mm_add_epi16(places, _mm_slli_si128(places, 8));
      const __m256i columns = _mm256_add_epi32(_mm256_cvtepu16_epi32(places),
                                               _mm256_set1_epi32(static_cast<int>(last)));
      sum = _mm256_fmadd_ps(W::load(values), _mm256_i32gather_ps(job.x, columns, 4), sum);
      last += _mm_extract_epi16(places, 7);
      values += 8;
      continue;
    }
    alignas(16) std::uint8_t code[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(code), eight);
    for (int i = 0; i < 8; ++i) {
      last += code[i] == 0 ? kReach : code[i];
      if (code[i] != 0) rest += W::one(*values++) * job.x[last];
    }
  }
  return reduce(sum) + rest;
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
const GatherInners kDelta8Avx2 = {all_rows<delta_row<Bf16, 8>>, all_rows<delta_row<F16, 8>>,
                                  all_rows<delta_row<F32, 8>>};
const GatherInners kDelta4Avx2 = {all_rows<delta_row<Bf16, 4>>, all_rows<delta_row<F16, 4>>,
                                  all_rows<delta_row<F32, 4>>};

}  // namespace rarefy
