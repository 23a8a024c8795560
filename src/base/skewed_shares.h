// Zeros that are spread unevenly, as real pruning leaves them: the shapes of benchmarks' weights.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

namespace rarefy {

/// Share of zeros of one block of many: 0.30 + 0.69·u^g with u uniform in [0, 1); the mean
/// 0.30 + 0.69 / (1 + g) gives g (the shape that CROSS, HPCA 2025, reports for Llama-2-7B). For
/// overall shares below 0.31 from 0 to twice as many, from 0.989 on all the same.
double skewed_block_zeros(double overall, double u);

/// Densities of rows, exp(0.8 z) with z standard normal (Box-Muller), scaled so that their mean,
/// cut at 1, is 1 - `zeros`.
/// @param uniform the i-th of 2·rows independent numbers in [0, 1)
std::vector<double> skewed_row_densities(std::size_t rows, double zeros,
                                         const std::function<double(std::size_t i)>& uniform);

}  // namespace rarefy
