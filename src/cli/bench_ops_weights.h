// Weights to time operators on: real shapes with patterns that pruning makes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "rarefy/tensor.h"
#include "rarefy/threads.h"

namespace rarefy::bench {

/// "16x32" with the mark 'x', "2:4" with ':': two positive numbers, and nothing else.
std::optional<std::pair<std::int64_t, std::int64_t>> parse_pair(std::string_view text, char mark);

/// A weight that somebody asked for on the command line.
struct WeightSpec {
  std::int64_t m = 0, k = 0;
  double sparsity = 0.5;
  DType dtype = DType::kBF16;
  /// - "uniform": every position on its own, kept with probability 1 - sparsity.
  /// - "blockskew": 64x64 blocks whose sparsity lies between 30 % and 99 %, `sparsity` over all.
  /// - "blockempty": half of the 64x64 blocks are empty, the others uniform, `sparsity` over all.
  /// - "outliers": some 64x64 blocks are full, the others keep one value in 200.
  /// - "rowskew": row densities spread lognormally (sigma 0.8), `sparsity` over all.
  /// - "RxC", such as "16x32": whole blocks absent with probability `sparsity`, the others full.
  /// - "N:M", such as "2:4": N random positions of every M kept; sparsity follows.
  /// - a file .smtx or .mtx: its pattern and shape; m, k and sparsity follow.
  std::string pattern = "uniform";
  std::uint64_t seed = 1;
};

/// The dense form of a generated weight.
struct BenchWeight {
  std::int64_t m = 0, k = 0;
  DType dtype = DType::kBF16;
  Buffer values;        ///< m × k, row-major
  double sparsity = 0;  ///< As it came out.
  [[nodiscard]] DenseSource source() const { return DenseSource({values.data(), dtype, m, k, k}); }
};

/// The same for the same spec on every machine and for any number of threads. Throws `Error` for a
/// pattern that is none of the above or does not fit the shape.
BenchWeight make_weight(const WeightSpec& spec, ThreadPool& pool = default_pool());

}  // namespace rarefy::bench
