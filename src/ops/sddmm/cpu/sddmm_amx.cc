// Two by two tiles of sums in registers: as many tile loads as products. A region of 32×32 sums
// takes what the vector kernel takes for 20 to 40 of its places.
#include "ops/sddmm/cpu/sddmm_amx.h"

#include "ops/spmm/cpu/strip_amx_tiles.h"
#include "ops/spmm/cpu/transpose16_avx512.h"

namespace rarefy::sddmm_cpu {
namespace {

constexpr std::int64_t kStepBytes = 2 * kTileBytes;  ///< Two halves.

void store_tile(__m512i* lines, TileOrder order, std::byte* to) {
  if (order == TileOrder::kRows) transpose16(lines);
  for (int i = 0; i < 16; ++i) _mm512_store_si512(to + 64 * i, lines[i]);
}

template <int kRight, int kLeft>
void multiply(const TileProduct& p) {
  using R = strip::Registers<kRight, kLeft>;
  strip::unrolled<kRight>([&](auto r) {
    strip::unrolled<kLeft>([&](auto l) {
      if (p.add) {
        strip::load<R::sum(r, l)>(p.sums + (r * kLeft + l) * kTileSums);
      } else {
        strip::zero<R::sum(r, l)>();
      }
    });
  });
  for (std::int64_t i = 0; i < p.step_tiles; ++i)
    strip::step<kRight, kLeft, 1>(p.right + i * kStepBytes, kTileBytes, p.left + i * kStepBytes);
  strip::unrolled<kRight>([&](auto r) {
    strip::unrolled<kLeft>(
        [&](auto l) { strip::store<R::sum(r, l)>(p.sums + (r * kLeft + l) * kTileSums); });
  });
}

__mmask16 low_lanes(int count) {
  return static_cast<__mmask16>((1U << count) - 1);
}

/// The places of 16 columns to `to`, close together; returns where the next ones go.
float* store_places(__m512 sums, std::uint32_t mask, bool add, float* to) {
  const int count = _mm_popcnt_u32(mask);
  const __mmask16 lanes = low_lanes(count);
  __m512 v = _mm512_maskz_compress_ps(static_cast<__mmask16>(mask), sums);
  if (add) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(lanes, to));
  _mm512_mask_storeu_ps(to, lanes, v);
  return to + count;
}

/// Line `column` of a tile of sums as it is to be stored: x + 0 turns -0 into +0.
__m512 live_line(const StripStore& job, int column) {
  const __mmask16 lanes = column < job.live_columns ? low_lanes(job.live_rows) : __mmask16{0};
  return _mm512_maskz_add_ps(lanes, _mm512_load_ps(job.sums + 16 * column), _mm512_setzero_ps());
}

}  // namespace

void pack_tiles_amx(const TilePack& job) {
  alignas(64) std::uint16_t low_index[32];
  alignas(64) std::uint16_t high_index[32];
  for (int i = 0; i < 32; ++i) {
    low_index[i] = static_cast<std::uint16_t>(i / 2 + i % 2 * 32);
    high_index[i] = static_cast<std::uint16_t>(16 + i / 2 + i % 2 * 32);
  }
  const __m512i low = _mm512_load_si512(low_index);
  const __m512i high = _mm512_load_si512(high_index);
  const std::int64_t step_tiles = (job.steps + kTileSteps - 1) / kTileSteps;
  const auto* from = static_cast<const std::uint16_t*>(job.from);
  for (std::int64_t step = 0; step < step_tiles; ++step) {
    const std::int64_t t = step * kTileSteps;
    for (std::int64_t g = 0; g < job.groups; ++g) {
      const std::int64_t c = g * kGroupColumns;
      const std::int64_t live = job.columns - c;
      const __mmask32 lanes = live >= 32  ? ~__mmask32{0}
                              : live <= 0 ? __mmask32{0}
                                          : (__mmask32{1} << live) - 1;
      const auto row = [&](std::int64_t i) {
        return t + i < job.steps
                   ? _mm512_maskz_loadu_epi16(lanes, from + (t + i) * job.row_stride + c)
                   : _mm512_setzero_si512();
      };
      __m512i near[16];
      __m512i far[16];
      for (int p = 0; p < 16; ++p) {
        const __m512i even = row(2 * p);
        const __m512i odd = row(2 * p + 1);
        near[p] = _mm512_permutex2var_epi16(even, low, odd);
        far[p] = _mm512_permutex2var_epi16(even, high, odd);
      }
      std::byte* to = job.to + (g * step_tiles + step) * kStepBytes;
      store_tile(near, job.order, to);
      store_tile(far, job.order, to + kTileBytes);
    }
  }
}

void multiply_tiles_amx(const TileProduct& job) {
  switch (job.right_halves * 2 + job.left_halves) {
    case 3:
      return multiply<1, 1>(job);
    case 4:
      return multiply<1, 2>(job);
    case 5:
      return multiply<2, 1>(job);
    default:
      return multiply<2, 2>(job);
  }
}

void sample_region_amx(const RegionSample& job) {
  for (int r = 0; r < 32; ++r) {
    const std::uint32_t mask = job.masks[r];
    if (mask == 0) continue;
    const float* sums = job.sums + r / 16 * kTileSums + r % 16 * 16;
    float* to = job.values + job.next[r];
    to = store_places(_mm512_load_ps(sums), mask & 0xffff, job.add, to);
    to = store_places(_mm512_load_ps(sums + 2 * kTileSums), mask >> 16, job.add, to);
    job.next[r] = to - job.values;
  }
}

int store_strip_bf16_amx(const StripStore& job) {
  // Pairs of columns side by side: word 2r + j is row r of column j.
  alignas(64) std::uint16_t index[32];
  for (int i = 0; i < 32; ++i) index[i] = static_cast<std::uint16_t>(i / 2 + i % 2 * 16);
  const __m512i interleave = _mm512_load_si512(index);
  auto* to = static_cast<std::uint16_t*>(job.strip);
  int nonzeros = 0;
  for (int column = 0; column < 16; column += 2) {
    const auto pair = reinterpret_cast<__m512i>(
        _mm512_cvtne2ps_pbh(live_line(job, column + 1), live_line(job, column)));
    const __m512i words = _mm512_permutexvar_epi16(interleave, pair);
    // A small negative sum rounds to -0.
    const __mmask32 kept =
        _mm512_test_epi16_mask(words, _mm512_set1_epi16(static_cast<short>(0x7fff)));
    _mm512_storeu_si512(to + column * 16, _mm512_maskz_mov_epi16(kept, words));
    nonzeros += static_cast<int>(_mm_popcnt_u32(kept));
  }
  return nonzeros;
}

int store_strip_f16_amx(const StripStore& job) {
  auto* to = static_cast<std::uint16_t*>(job.strip);
  int nonzeros = 0;
  for (int column = 0; column < 16; ++column) {
    const __m256i words = _mm512_cvtps_ph(live_line(job, column), _MM_FROUND_TO_NEAREST_INT);
    const __mmask16 kept = _mm256_test_epi16_mask(words, _mm256_set1_epi16(0x7fff));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + column * 16),
                        _mm256_maskz_mov_epi16(kept, words));
    nonzeros += static_cast<int>(_mm_popcnt_u32(kept));
  }
  return nonzeros;
}

int store_strip_f32_amx(const StripStore& job) {
  auto* to = static_cast<float*>(job.strip);
  int nonzeros = 0;
  for (int column = 0; column < 16; ++column) {
    const __m512 line = live_line(job, column);
    _mm512_storeu_ps(to + column * 16, line);
    nonzeros += static_cast<int>(
        _mm_popcnt_u32(_mm512_cmp_ps_mask(line, _mm512_setzero_ps(), _CMP_NEQ_UQ)));
  }
  return nonzeros;
}

}  // namespace rarefy::sddmm_cpu
