// SpMV over N:M rows with AVX2: 8 slots of four rows a step. Where 8 slots reach at most 16 columns
// (2:4, 4:8, …) two permutations and a blend pick their activations, otherwise a gather does.
#include <immintrin.h>

#include "ops/spmm/cpu/nm_inner.h"

namespace rarefy {
namespace {

/// Rows walked at once, far apart, so that each runs on into the row that its stream takes next.
constexpr int kRows = 4;
constexpr std::int64_t kPrefetchBytes = 2048;

struct Bf16 {
  using Bits = std::uint16_t;
  static __m256 load(const Bits* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
};
struct F16 {
  using Bits = std::uint16_t;
  static __m256 load(const Bits* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
};
struct F32 {
  using Bits = float;
  static __m256 load(const Bits* p) { return _mm256_loadu_ps(p); }
};

/// Places of up to 5 bits: four of them fit in a dword, eight take `width` bytes.
class Places {
 public:
  explicit Places(int width)
      : width_(width),
        shifts_(_mm256_set_epi32(3 * width, 2 * width, width, 0, 3 * width, 2 * width, width, 0)),
        low_bits_(_mm256_set1_epi32((1 << width) - 1)) {}
  [[nodiscard]] __m256i load(const std::uint8_t* p) const {
    std::uint64_t bits;
    __builtin_memcpy(&bits, p, 8);
    const __m128i low = _mm_set1_epi32(static_cast<int>(bits));
    const __m128i high = _mm_set1_epi32(static_cast<int>(bits >> (4 * width_)));
    return _mm256_and_si256(_mm256_srlv_epi32(_mm256_set_m128i(high, low), shifts_), low_bits_);
  }

 private:
  int width_;
  __m256i shifts_, low_bits_;
};

struct FromSixteen {
  __m256 low, high;
  explicit FromSixteen(const float* x) : low(_mm256_loadu_ps(x)), high(_mm256_loadu_ps(x + 8)) {}
  [[nodiscard]] __m256 pick(__m256i columns) const {
    // Bit 3 of the column, brought to the sign, says which half.
    const __m256 beyond = _mm256_castsi256_ps(_mm256_slli_epi32(columns, 28));
    return _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, columns),
                            _mm256_permutevar8x32_ps(high, columns), beyond);
  }
};
struct FromMemory {
  const float* x;
  explicit FromMemory(const float* from) : x(from) {}
  [[nodiscard]] __m256 pick(__m256i columns) const { return _mm256_i32gather_ps(x, columns, 4); }
};

float reduce(__m256 sum) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps(sum, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

template <class W, class Source, int R>
void rows_at_once(const NmJob& job, std::int64_t row, std::int64_t apart) {
  const Places places(job.index_width);
  const auto* values = static_cast<const typename W::Bits*>(job.values) + row * job.row_slots;
  const std::uint8_t* indices = job.indices + row * job.row_index_bytes;
  __m256 sum[R];
  for (int r = 0; r < R; ++r) sum[r] = _mm256_setzero_ps();
  const float* x = job.x;
  std::int64_t phase = 0;
  for (std::int64_t slot = 0; slot < job.row_slots; slot += 8) {
    const Source source(x);
    const __m256i columns =
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(job.columns + phase));
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const auto* v = values + r * apart * job.row_slots + slot;
      const std::uint8_t* i =
          indices + r * apart * job.row_index_bytes + slot / 8 * job.index_width;
      _mm_prefetch(reinterpret_cast<const char*>(v) + kPrefetchBytes, _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(i) + kPrefetchBytes / 8, _MM_HINT_T0);
      const __m256i place = _mm256_add_epi32(places.load(i), columns);
      sum[r] = _mm256_fmadd_ps(W::load(v), source.pick(place), sum[r]);
    }
    if (job.window != 0) {
      x += job.window;
    } else if (phase += 8; phase == job.period) {
      phase = 0;
      x += job.period_columns;
    }
  }
  for (int r = 0; r < R; ++r) job.sums[row + r * apart] = reduce(sum[r]);
}

template <class W, class Source>
void all_rows_from(const NmJob& job) {
  const std::int64_t apart = job.rows / kRows;
  for (std::int64_t i = 0; i < apart; ++i) rows_at_once<W, Source, kRows>(job, i, apart);
  for (std::int64_t i = apart * kRows; i < job.rows; ++i) rows_at_once<W, Source, 1>(job, i, 0);
}

template <class W>
void all_rows(const NmJob& job) {
  if (job.window != 0 && job.window <= 16) return all_rows_from<W, FromSixteen>(job);
  all_rows_from<W, FromMemory>(job);
}

}  // namespace

const NmInners kNmAvx2 = {all_rows<Bf16>, all_rows<F16>, all_rows<F32>};

}  // namespace rarefy
