// SpMV over N:M rows with AVX2: 8 slots of four rows a step. Where 8 slots reach at most 16 columns
// (2:4, 4:8, …) two permutations and a blend pick their activations, otherwise a gather does.
#include "ops/simd/vec_avx2.h"
// The loops below are written over this Vec.
#include "ops/spmm/cpu/nm_engine.h"

namespace rarefy {
namespace {

/// Places of up to 5 bits: four of them fit in a dword, eight take `width` bytes.
class Places {
 public:
  explicit Places(int width)
      : width_(width),
        shifts_(_mm256_set_epi32(3 * width, 2 * width, width, 0, 3 * width, 2 * width, width, 0)),
        low_bits_(_mm256_set1_epi32((1 << width) - 1)) {}
  [[nodiscard]] __m256i at(const std::uint8_t* p, const std::int32_t* columns) const {
    std::uint64_t bits;
    __builtin_memcpy(&bits, p, 8);
    const __m128i low = _mm_set1_epi32(static_cast<int>(bits));
    const __m128i high = _mm_set1_epi32(static_cast<int>(bits >> (4 * width_)));
    const __m256i fields =
        _mm256_and_si256(_mm256_srlv_epi32(_mm256_set_m128i(high, low), shifts_), low_bits_);
    const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(columns));
    return _mm256_add_epi32(fields, first);
  }

 private:
  int width_;
  __m256i shifts_, low_bits_;
};

struct FromSixteen {
  __m256 low, high;
  explicit FromSixteen(const float* x) : low(_mm256_loadu_ps(x)), high(_mm256_loadu_ps(x + 8)) {}
  [[nodiscard]] Vec pick(__m256i columns) const {
    // Bit 3 of the column, brought to the sign, says which half.
    const __m256 beyond = _mm256_castsi256_ps(_mm256_slli_epi32(columns, 28));
    return {_mm256_blendv_ps(_mm256_permutevar8x32_ps(low, columns),
                             _mm256_permutevar8x32_ps(high, columns), beyond)};
  }
};
struct FromMemory {
  const float* x;
  explicit FromMemory(const float* from) : x(from) {}
  [[nodiscard]] Vec pick(__m256i columns) const { return {_mm256_i32gather_ps(x, columns, 4)}; }
};

template <class W>
void all_rows(const NmJob& job) {
  if (job.window != 0 && job.window <= 16) return all_rows_from<W, Places, FromSixteen>(job);
  all_rows_from<W, Places, FromMemory>(job);
}

}  // namespace

const NmInners kNmAvx2 = {all_rows<Bf16Weights>, all_rows<F16Weights>, all_rows<F32Weights>};

}  // namespace rarefy
