// SpMV over N:M rows with AVX-512: 16 slots of four rows a step. Where 16 slots reach at most 32
// (or 64) columns, their activations come out of registers by permutation: for 2:4 a step of a row
// is two loads, two shifts, a permutation and an FMA, about 3 cycles for 36 bytes.
#include "ops/simd/vec_avx512.h"
// The loops below are written over this Vec.
#include "ops/spmm/cpu/nm_engine.h"

namespace rarefy {
namespace {

/// Places of 2 bits: 16 of them in one dword.
class TwoBitPlaces {
 public:
  explicit TwoBitPlaces(int) {}
  [[nodiscard]] __m512i at(const std::uint8_t* p, const std::int32_t* columns) const {
    std::uint32_t word;
    __builtin_memcpy(&word, p, 4);
    const __m512i shifted = _mm512_srlv_epi32(_mm512_set1_epi32(static_cast<int>(word)), shifts_);
    return _mm512_add_epi32(_mm512_and_si512(shifted, _mm512_set1_epi32(3)),
                            _mm512_loadu_si512(columns));
  }

 private:
  __m512i shifts_ = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
};

/// Places of any width up to 5 bits: 8 of them in `width` bytes.
class Places {
 public:
  explicit Places(int width)
      : halves_(_mm_add_epi8(_mm_set_epi8(7, 6, 5, 4, 3, 2, 1, 0, 7, 6, 5, 4, 3, 2, 1, 0),
                             _mm_set_epi64x(0x0101010101010101LL * width, 0))),
        shifts_(_mm_set1_epi64x(0x0001020304050607LL)),
        low_bits_(_mm_set1_epi8(static_cast<char>((1 << width) - 1))) {
    std::uint8_t shifts[16];
    for (int i = 0; i < 16; ++i) shifts[i] = static_cast<std::uint8_t>(i % 8 * width);
    shifts_ = _mm_loadu_si128(reinterpret_cast<const __m128i*>(shifts));
  }
  [[nodiscard]] __m512i at(const std::uint8_t* p, const std::int32_t* columns) const {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    const __m128i fields = _mm_multishift_epi64_epi8(shifts_, _mm_shuffle_epi8(bytes, halves_));
    return _mm512_add_epi32(_mm512_cvtepu8_epi32(_mm_and_si128(fields, low_bits_)),
                            _mm512_loadu_si512(columns));
  }

 private:
  __m128i halves_, shifts_, low_bits_;
};

/// Where a step's 16 activations come from. `lane_columns` are relative to the step's first column.
struct FromThirtyTwo {
  __m512 low, high;
  explicit FromThirtyTwo(const float* x) : low(_mm512_loadu_ps(x)), high(_mm512_loadu_ps(x + 16)) {}
  [[nodiscard]] Vec pick(__m512i columns) const {
    return {_mm512_permutex2var_ps(low, columns, high)};
  }
};
struct FromSixtyFour {
  FromThirtyTwo first, second;
  explicit FromSixtyFour(const float* x) : first(x), second(x + 32) {}
  [[nodiscard]] Vec pick(__m512i columns) const {
    const __mmask16 beyond = _mm512_test_epi32_mask(columns, _mm512_set1_epi32(32));
    return {_mm512_mask_mov_ps(first.pick(columns).v, beyond, second.pick(columns).v)};
  }
};
struct FromMemory {
  const float* x;
  explicit FromMemory(const float* from) : x(from) {}
  [[nodiscard]] Vec pick(__m512i columns) const { return {_mm512_i32gather_ps(columns, x, 4)}; }
};

template <class W>
void all_rows(const NmJob& job) {
  const bool two_bits = job.index_width == 2;
  if (job.window != 0 && job.window <= 32)
    return two_bits ? all_rows_from<W, TwoBitPlaces, FromThirtyTwo>(job)
                    : all_rows_from<W, Places, FromThirtyTwo>(job);
  if (job.window != 0 && job.window <= 64)
    return two_bits ? all_rows_from<W, TwoBitPlaces, FromSixtyFour>(job)
                    : all_rows_from<W, Places, FromSixtyFour>(job);
  all_rows_from<W, Places, FromMemory>(job);
}

}  // namespace

const NmInners kNmAvx512 = {all_rows<Bf16Weights>, all_rows<F16Weights>, all_rows<F32Weights>};

}  // namespace rarefy
