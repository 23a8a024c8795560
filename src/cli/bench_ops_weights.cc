#include "cli/bench_ops_weights.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <optional>
#include <vector>

#include "base/check.h"
#include "base/skewed_shares.h"
#include "rarefy/sparse_files.h"

namespace rarefy::bench {
namespace {

/// splitmix64 of a counter: position (r, c) has its own number, whoever draws it.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}
double unit(std::uint64_t bits) {
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

/// Streams of random numbers that do not meet: positions, blocks, rows.
enum Stream : std::uint64_t { kPositions = 0, kBlocks = 1, kRows = 2 };

std::uint64_t draw(std::uint64_t seed, Stream stream, std::uint64_t counter) {
  return mix(mix(seed * 8 + stream) ^ counter);
}

/// Whether position (r, c) keeps its value, given its random bits.
using Keep = std::function<bool(std::int64_t r, std::int64_t c, std::uint64_t bits)>;

Keep keep_uniform(double sparsity) {
  return [=](std::int64_t, std::int64_t, std::uint64_t bits) { return unit(bits) >= sparsity; };
}

Keep keep_blockskew(const WeightSpec& spec) {
  constexpr std::int64_t kBlock = 64;
  const std::int64_t grid = (spec.k + kBlock - 1) / kBlock;
  return [=, seed = spec.seed, overall = spec.sparsity](std::int64_t r, std::int64_t c,
                                                        std::uint64_t bits) {
    const auto block = static_cast<std::uint64_t>(r / kBlock * grid + c / kBlock);
    return unit(bits) >= skewed_block_zeros(overall, unit(draw(seed, kBlocks, block)));
  };
}

/// One of every two neighbouring 64x64 blocks is empty, positions of the others equally likely.
Keep keep_blockempty(const WeightSpec& spec) {
  constexpr std::int64_t kBlock = 64;
  require(spec.sparsity >= 0.5, "--sparsity: expected at least 0.5 for blockempty, got {}",
          spec.sparsity);
  const std::int64_t grid = (spec.k + kBlock - 1) / kBlock;
  return [=, seed = spec.seed, inside = 2 * spec.sparsity - 1](std::int64_t r, std::int64_t c,
                                                               std::uint64_t bits) {
    const auto block = static_cast<std::uint64_t>(r / kBlock * grid + c / kBlock);
    return block % 2 == draw(seed, kBlocks, block / 2) % 2 && unit(bits) >= inside;
  };
}

Keep keep_rowskew(const WeightSpec& spec) {
  std::vector<double> density =
      skewed_row_densities(static_cast<std::size_t>(spec.m), spec.sparsity,
                           [&](std::size_t i) { return unit(draw(spec.seed, kRows, i)); });
  return [density = std::move(density)](std::int64_t r, std::int64_t, std::uint64_t bits) {
    return unit(bits) < density[static_cast<std::size_t>(r)];
  };
}

Keep keep_blocks(const WeightSpec& spec, std::int64_t rows, std::int64_t cols) {
  const std::int64_t grid = (spec.k + cols - 1) / cols;
  return [=, seed = spec.seed, sparsity = spec.sparsity](std::int64_t r, std::int64_t c,
                                                         std::uint64_t) {
    const auto block = static_cast<std::uint64_t>(r / rows * grid + c / cols);
    return unit(draw(seed, kBlocks, block)) >= sparsity;
  };
}

/// The n positions of a group with the smallest draws stay.
Keep keep_nm(const WeightSpec& spec, std::int64_t n, std::int64_t m) {
  require(n <= m, "--pattern: expected N:M with N <= M, got '{}'", spec.pattern);
  return [=, seed = spec.seed, k = spec.k](std::int64_t r, std::int64_t c, std::uint64_t bits) {
    const std::int64_t begin = c / m * m;
    std::int64_t smaller = 0;
    for (std::int64_t i = begin; i < std::min(begin + m, k); ++i) {
      const std::uint64_t other = draw(seed, kPositions, static_cast<std::uint64_t>(r * k + i));
      if (other < bits || (other == bits && i < c)) ++smaller;
    }
    return smaller < n;
  };
}

/// 64x64 blocks are full, or keep one value in 200; as many are full as `sparsity` asks for.
Keep keep_outliers(const WeightSpec& spec) {
  constexpr std::int64_t kBlock = 64;
  constexpr double kOutliers = 0.005;
  require(spec.sparsity <= 1 - kOutliers, "--sparsity: expected at most {} for outliers, got {}",
          1 - kOutliers, spec.sparsity);
  const std::int64_t grid = (spec.k + kBlock - 1) / kBlock;
  const double full = (1 - spec.sparsity - kOutliers) / (1 - kOutliers);
  return [=, seed = spec.seed](std::int64_t r, std::int64_t c, std::uint64_t bits) {
    const auto block = static_cast<std::uint64_t>(r / kBlock * grid + c / kBlock);
    return unit(draw(seed, kBlocks, block)) < full || unit(bits) < kOutliers;
  };
}

Keep keep_for(const WeightSpec& spec) {
  if (spec.pattern == "uniform") return keep_uniform(spec.sparsity);
  if (spec.pattern == "blockskew") return keep_blockskew(spec);
  if (spec.pattern == "blockempty") return keep_blockempty(spec);
  if (spec.pattern == "outliers") return keep_outliers(spec);
  if (spec.pattern == "rowskew") return keep_rowskew(spec);
  if (const auto block = parse_pair(spec.pattern, 'x'))
    return keep_blocks(spec, block->first, block->second);
  if (const auto group = parse_pair(spec.pattern, ':'))
    return keep_nm(spec, group->first, group->second);
  fail(ErrorKind::kInvalidArgument,
       "--pattern: expected uniform, blockskew, blockempty, outliers, rowskew, a block such as "
       "16x32, a ratio such as 2:4 or a file .smtx or .mtx, got '{}'",
       spec.pattern);
}

bool is_file(const std::string& pattern) {
  return pattern.ends_with(".smtx") || pattern.ends_with(".mtx");
}

double share_of_zeros(const BenchWeight& weight) {
  const auto count = static_cast<std::size_t>(weight.m * weight.k);
  std::size_t zeros = 0;
  if (weight.dtype == DType::kF32) {
    for (float x : weight.values.span<float>().first(count)) zeros += x == 0 ? 1 : 0;
  } else {
    for (std::uint16_t x : weight.values.span<std::uint16_t>().first(count))
      zeros += (x & 0x7FFF) == 0 ? 1 : 0;
  }
  return count > 0 ? static_cast<double>(zeros) / static_cast<double>(count) : 0.0;
}

}  // namespace

std::optional<std::pair<std::int64_t, std::int64_t>> parse_pair(std::string_view text, char mark) {
  std::int64_t a = 0;
  std::int64_t b = 0;
  const char* end = text.data() + text.size();
  const auto [middle, e1] = std::from_chars(text.data(), end, a);
  if (e1 != std::errc{} || middle == end || *middle != mark) return std::nullopt;
  const auto [stop, e2] = std::from_chars(middle + 1, end, b);
  if (e2 != std::errc{} || stop != end || a <= 0 || b <= 0) return std::nullopt;
  return std::pair{a, b};
}

BenchWeight make_weight(const WeightSpec& spec, ThreadPool& pool) {
  BenchWeight weight{.m = spec.m, .k = spec.k, .dtype = spec.dtype};
  if (is_file(spec.pattern)) {
    const SparseTextSource file(read_sparse_text(spec.pattern), spec.dtype, spec.seed);
    weight.m = file.rows();
    weight.k = file.cols();
    weight.values = Buffer(static_cast<std::size_t>(weight.m * weight.k) * size_of(spec.dtype));
    file.read_rows(0, weight.m, weight.values.data());
    weight.sparsity = share_of_zeros(weight);
    return weight;
  }
  require(spec.m > 0 && spec.k > 0, "--shape: expected MxK with positive M and K, got {}x{}",
          spec.m, spec.k);
  require(spec.sparsity >= 0 && spec.sparsity <= 1,
          "--sparsity: expected a share of zeros from 0 to 1, got {}", spec.sparsity);
  const Keep keep = keep_for(spec);
  const std::size_t element = size_of(spec.dtype);
  weight.values = Buffer(static_cast<std::size_t>(spec.m * spec.k) * element);
  pool.parallel_dynamic(spec.m, 16, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> row(static_cast<std::size_t>(spec.k));
    for (std::int64_t r = begin; r < end; ++r) {
      for (std::int64_t c = 0; c < spec.k; ++c) {
        const std::uint64_t bits =
            draw(spec.seed, kPositions, static_cast<std::uint64_t>(r * spec.k + c));
        // ±[0.25, 1]: never zero after rounding, so that the pattern alone decides the zeros. The
        // low bits, so that the value does not depend on what was kept.
        const double magnitude = 0.25 + 0.75 * static_cast<double>(bits & 0x3FF) / 1023.0;
        const double value = (bits & 0x400) != 0 ? -magnitude : magnitude;
        row[static_cast<std::size_t>(c)] = keep(r, c, bits) ? static_cast<float>(value) : 0.0F;
      }
      convert_elements(row.data(), DType::kF32,
                       weight.values.data() + static_cast<std::size_t>(r * spec.k) * element,
                       spec.dtype, row.size());
    }
  });
  weight.sparsity = share_of_zeros(weight);
  return weight;
}

}  // namespace rarefy::bench
