// AVX-512 VBMI2: 32 elements of 2 bytes or 16 of 4 a step. Compiled for that instruction set alone,
// so nothing here may instantiate code that portable files share.
#include <immintrin.h>

#include "io/bitmask_kernels.h"

namespace rarefy::io {
namespace {

std::uint32_t load_mask32(const std::uint8_t* bits, std::size_t cols) {
  std::uint32_t mask = 0;
  if (cols >= 32) {
    __builtin_memcpy(&mask, bits, 4);
    return mask;
  }
  for (std::size_t i = 0; i < (cols + 7) / 8; ++i) {
    mask |= static_cast<std::uint32_t>(bits[i]) << (8 * i);
  }
  return mask;
}

void store_mask32(std::uint8_t* bits, std::size_t cols, std::uint32_t mask) {
  if (cols >= 32) {
    __builtin_memcpy(bits, &mask, 4);
    return;
  }
  for (std::size_t i = 0; i < (cols + 7) / 8; ++i) {
    bits[i] = static_cast<std::uint8_t>(mask >> (8 * i));
  }
}

std::size_t ones(std::uint32_t mask) {
  return static_cast<std::size_t>(__builtin_popcount(mask));
}

/// Lanes below `n`, all when n >= 32.
std::uint32_t first(std::size_t n) {
  return n >= 32 ? ~0U : (1U << n) - 1;
}

void expand16(const void* values, std::size_t available, const std::uint8_t* bits, std::size_t cols,
              void* out) {
  const auto* from = static_cast<const std::uint16_t*>(values);
  auto* to = static_cast<std::uint16_t*>(out);
  for (std::size_t c = 0; c < cols; c += 32) {
    const std::uint32_t mask = load_mask32(bits + c / 8, cols - c);
    const std::size_t stored = ones(mask);
    // A whole vector where the file still has one: the masked load is slower.
    const __m512i packed =
        available >= 32 ? _mm512_loadu_si512(from) : _mm512_maskz_loadu_epi16(first(stored), from);
    const __m512i dense = _mm512_maskz_expand_epi16(mask, packed);
    if (cols - c >= 32) {
      _mm512_storeu_si512(to + c, dense);
    } else {
      _mm512_mask_storeu_epi16(to + c, first(cols - c), dense);
    }
    from += stored;
    available -= stored;
  }
}

void expand32(const void* values, std::size_t available, const std::uint8_t* bits, std::size_t cols,
              void* out) {
  const auto* from = static_cast<const std::uint32_t*>(values);
  auto* to = static_cast<std::uint32_t*>(out);
  for (std::size_t c = 0; c < cols; c += 16) {
    const std::size_t left = cols - c < 16 ? cols - c : 16;
    const auto mask = static_cast<__mmask16>(load_mask32(bits + c / 8, left) & 0xFFFFU);
    const std::size_t stored = ones(mask);
    const __m512i packed =
        available >= 16 ? _mm512_loadu_si512(from)
                        : _mm512_maskz_loadu_epi32(static_cast<__mmask16>(first(stored)), from);
    const __m512i dense = _mm512_maskz_expand_epi32(mask, packed);
    _mm512_mask_storeu_epi32(to + c, static_cast<__mmask16>(first(left)), dense);
    from += stored;
    available -= stored;
  }
}

std::size_t compress16(const void* dense, std::size_t cols, void* values, std::uint8_t* bits) {
  const auto* from = static_cast<const std::uint16_t*>(dense);
  auto* to = static_cast<std::uint16_t*>(values);
  const __m512i magnitude = _mm512_set1_epi16(0x7FFF);
  std::size_t stored = 0;
  for (std::size_t c = 0; c < cols; c += 32) {
    const __m512i row = cols - c >= 32 ? _mm512_loadu_si512(from + c)
                                       : _mm512_maskz_loadu_epi16(first(cols - c), from + c);
    const std::uint32_t mask = _mm512_test_epi16_mask(row, magnitude);
    store_mask32(bits + c / 8, cols - c, mask);
    const std::size_t kept = ones(mask);
    // Through a register and a masked store: the compressing store is microcoded on some CPUs.
    _mm512_mask_storeu_epi16(to + stored, first(kept), _mm512_maskz_compress_epi16(mask, row));
    stored += kept;
  }
  return stored;
}

std::size_t compress32(const void* dense, std::size_t cols, void* values, std::uint8_t* bits) {
  const auto* from = static_cast<const std::uint32_t*>(dense);
  auto* to = static_cast<std::uint32_t*>(values);
  const __m512i magnitude = _mm512_set1_epi32(0x7FFFFFFF);
  std::size_t stored = 0;
  for (std::size_t c = 0; c < cols; c += 16) {
    const std::size_t left = cols - c < 16 ? cols - c : 16;
    const __m512i row = _mm512_maskz_loadu_epi32(static_cast<__mmask16>(first(left)), from + c);
    const __mmask16 mask = _mm512_test_epi32_mask(row, magnitude);
    store_mask32(bits + c / 8, left, mask);
    const std::size_t kept = ones(mask);
    _mm512_mask_storeu_epi32(to + stored, static_cast<__mmask16>(first(kept)),
                             _mm512_maskz_compress_epi32(mask, row));
    stored += kept;
  }
  return stored;
}

std::uint64_t count(const std::uint8_t* bits, std::size_t bytes) {
  __m512i total = _mm512_setzero_si512();
  std::size_t i = 0;
  for (; i + 64 <= bytes; i += 64) {
    total = _mm512_add_epi64(total, _mm512_popcnt_epi64(_mm512_loadu_si512(bits + i)));
  }
  const __mmask64 rest = (std::uint64_t{1} << (bytes - i)) - 1;
  total = _mm512_add_epi64(total, _mm512_popcnt_epi64(_mm512_maskz_loadu_epi8(rest, bits + i)));
  // By hand: GCC 12 warns about its own _mm512_reduce_add_epi64.
  std::uint64_t lanes[8];
  _mm512_storeu_si512(lanes, total);
  std::uint64_t sum = 0;
  for (const std::uint64_t lane : lanes) sum += lane;
  return sum;
}

}  // namespace

const BitmaskKernels kAvx512Bitmask = {expand16, expand32, compress16, compress32, count};

}  // namespace rarefy::io
