// Block-sparse products for any Vec of ops/simd, which must be included first.
//
// A weight is broadcast and multiplies vectors of tokens, so that blocks are read as they lie,
// whichever of their sides the outputs are: 8 outputs by 3 vectors of tokens (AVX-512) are 24 sums
// in registers and need 11 loads for 24 multiply-adds.
//
// To be included by ISA files only: everything here has internal linkage.
#pragma once

#include <cstdint>

#include "ops/block_sparse/cpu/fma_inner.h"

namespace rarefy::block_cpu {
namespace {

/// Outputs whose sums are in registers together: of 32 (AVX-512) or 16.
constexpr int kOutputs = simd::kLanes == 16 ? 8 : simd::kLanes == 8 ? 4 : 2;

/// Outputs [first, first + kCount) of a group for one token tile.
template <int kVectors, int kCount>
void multiply_outputs(const ProductJob& job, const float* x, std::int64_t first, float* sums_at) {
  constexpr std::int64_t kTokens = kVectors * simd::kLanes;
  simd::Vec sums[kCount][kVectors];
  for (int o = 0; o < kCount; ++o)
    for (int v = 0; v < kVectors; ++v)
      sums[o][v] =
          job.add ? simd::load(sums_at + o * kTokens + v * simd::kLanes) : simd::broadcast(0.0F);
  const std::int64_t in_stride = job.in_stride;
  const std::int64_t out_stride = job.out_stride;
  // The same outputs of the next block: whole rows, or a piece of each.
  const std::int64_t ahead_stride = in_stride == 1 ? kCount : in_stride;
  const auto block = [&](std::int64_t b) {
    return job.values + (job.order != nullptr ? job.order[b] : b) * job.in * job.out +
           first * out_stride;
  };
  for (std::int64_t b = 0; b < job.blocks; ++b) {
    const float* w = block(b);
    const float* ahead = block(b + 1 < job.blocks ? b + 1 : b);
    const float* a = x + (job.inputs[b] * job.in - job.first_input) * kTokens;
    for (std::int64_t i = 0; i < job.in; ++i, w += in_stride, a += kTokens, ahead += ahead_stride) {
      __builtin_prefetch(ahead);
      simd::Vec tokens[kVectors];
      for (int v = 0; v < kVectors; ++v) tokens[v] = simd::load(a + v * simd::kLanes);
      for (int o = 0; o < kCount; ++o) {
        const simd::Vec weight = simd::broadcast(w[o * out_stride]);
        for (int v = 0; v < kVectors; ++v) sums[o][v] = simd::fma(weight, tokens[v], sums[o][v]);
      }
    }
  }
  for (int o = 0; o < kCount; ++o)
    for (int v = 0; v < kVectors; ++v)
      simd::store(sums_at + o * kTokens + v * simd::kLanes, sums[o][v]);
}

/// Dispatches on the number of outputs, 1…kCount.
template <int kVectors, int kCount>
void multiply_up_to(const ProductJob& job, const float* x, std::int64_t first, std::int64_t count,
                    float* sums) {
  if constexpr (kCount > 0) {
    if (count == kCount) return multiply_outputs<kVectors, kCount>(job, x, first, sums);
    multiply_up_to<kVectors, kCount - 1>(job, x, first, count, sums);
  }
}

template <int kVectors>
void multiply_tiles(const ProductJob& job) {
  constexpr std::int64_t kTokens = kVectors * simd::kLanes;
  for (std::int64_t t = 0; t < job.token_tiles; ++t) {
    const float* x = job.x + t * job.tile_stride;
    float* sums = job.sums + t * job.out * kTokens;
    for (std::int64_t o = 0; o < job.out; o += kOutputs)
      multiply_up_to<kVectors, kOutputs>(job, x, o, job.out - o < kOutputs ? job.out - o : kOutputs,
                                         sums + o * kTokens);
  }
}

void multiply(const ProductJob& job) {
  if (job.vectors == 1) return multiply_tiles<1>(job);
  if (job.vectors == 2) return multiply_tiles<2>(job);
  multiply_tiles<3>(job);
}

/// kRows rows by kVectors vectors of columns of a block, the last of which has `last` lanes.
template <int kRows, int kVectors>
void sample_part(const SampleJob& job, std::int64_t row, std::int64_t col, int last) {
  simd::Vec sums[kRows][kVectors];
  for (int r = 0; r < kRows; ++r)
    for (int v = 0; v < kVectors; ++v) sums[r][v] = simd::broadcast(0.0F);
  const float* p = job.p + row;
  const float* q = job.q + col;
  for (std::int64_t t = 0; t < job.steps; ++t, p += job.rows, q += job.q_stride) {
    simd::Vec columns[kVectors];
    for (int v = 0; v < kVectors; ++v) columns[v] = simd::load(q + v * simd::kLanes);
    for (int r = 0; r < kRows; ++r) {
      const simd::Vec x = simd::broadcast(p[r]);
      for (int v = 0; v < kVectors; ++v) sums[r][v] = simd::fma(x, columns[v], sums[r][v]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    float* to = job.sums + (row + r) * job.cols + col;
    for (int v = 0; v < kVectors; ++v, to += simd::kLanes) {
      if (v + 1 < kVectors || last == simd::kLanes) {
        simd::store(to, job.add ? simd::add(simd::load(to), sums[r][v]) : sums[r][v]);
      } else {
        simd::store_first(
            to, job.add ? simd::add(simd::load_first(to, last), sums[r][v]) : sums[r][v], last);
      }
    }
  }
}

template <int kVectors, int kRows>
void sample_up_to(const SampleJob& job, std::int64_t row, std::int64_t rows, std::int64_t col,
                  int last) {
  if constexpr (kRows > 0) {
    if (rows == kRows) return sample_part<kRows, kVectors>(job, row, col, last);
    sample_up_to<kVectors, kRows - 1>(job, row, rows, col, last);
  }
}

void sample(const SampleJob& job) {
  for (std::int64_t row = 0; row < job.rows; row += kOutputs) {
    const std::int64_t rows = job.rows - row < kOutputs ? job.rows - row : kOutputs;
    for (std::int64_t col = 0; col < job.cols;) {
      const std::int64_t left = job.cols - col;
      if (left > simd::kLanes) {
        const int last =
            left < 2 * simd::kLanes ? static_cast<int>(left) - simd::kLanes : simd::kLanes;
        sample_up_to<2, kOutputs>(job, row, rows, col, last);
        col += 2 * simd::kLanes;
      } else {
        sample_up_to<1, kOutputs>(job, row, rows, col, static_cast<int>(left));
        col += simd::kLanes;
      }
    }
  }
}

}  // namespace
}  // namespace rarefy::block_cpu
