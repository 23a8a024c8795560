#include "ops/spmm/calibration/calibrate_blocks.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <string>
#include <vector>

#include "base/check.h"

namespace rarefy {
namespace {

std::string today() {
  const std::time_t now = std::time(nullptr);
  char text[16];
  std::tm utc{};
  std::strftime(text, sizeof text, "%Y-%m-%d", gmtime_r(&now, &utc));
  return text;
}

std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15ULL;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

}  // namespace

void Checkerboard::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  std::vector<float> row(static_cast<std::size_t>(cols_));
  const auto limit = static_cast<std::uint64_t>(density_ * 0x1p53);
  auto* to = static_cast<std::byte*>(out);
  for (std::int64_t r = begin; r < end; ++r) {
    for (std::int64_t c = 0; c < cols_; ++c) {
      const std::uint64_t bits = mix(static_cast<std::uint64_t>(r * cols_ + c));
      const bool kept = has_block(r, c) && (bits >> 11) < limit;
      row[static_cast<std::size_t>(c)] = kept ? ((bits & 1) != 0 ? 0.5F : -0.75F) : 0.0F;
    }
    convert_elements(row.data(), DType::kF32, to, dtype_, row.size());
    to += row.size() * size_of(dtype_);
  }
}

double Checkerboard::positions() const {
  double sum = 0;
  for (std::int64_t r = 0; r < rows_; r += block_.first) {
    for (std::int64_t c = 0; c < cols_; c += block_.second) {
      if (has_block(r, c))
        sum += static_cast<double>(std::min<std::int64_t>(block_.first, rows_ - r) *
                                   std::min<std::int64_t>(block_.second, cols_ - c));
    }
  }
  return sum;
}

void check_calibration(const CalibrateOptions& options, std::initializer_list<DType> dtypes) {
  require(!options.dtypes.empty() && !options.ns.empty() && !options.sparsities.empty() &&
              !options.blocks.empty(),
          "calibrate: expected dtypes, n, sparsities and blocks, got none of one");
  std::string known;
  for (const DType dtype : dtypes)
    known += (known.empty() ? "" : " or ") + std::string(to_string(dtype));
  for (const DType dtype : options.dtypes)
    require(std::ranges::find(dtypes, dtype) != dtypes.end(),
            "calibrate: dtypes: expected {}, got {}", known, to_string(dtype));
  for (const std::int64_t n : options.ns)
    require(n > 16, "calibrate: n: expected at least 17, got {}", n);
  for (const double s : options.sparsities)
    require(s >= 0 && s < 1, "calibrate: sparsities: expected 0 to below 1, got {}", s);
  for (const auto& [rows, cols] : options.blocks)
    require(rows > 0 && cols > 0 && rows % 32 == 0 && cols % 32 == 0,
            "calibrate: blocks: expected multiples of 32x32, got {}x{}", rows, cols);
  require(options.rows > 0 && options.cols > 0 && options.rounds > 0,
          "calibrate: rows, cols, rounds: expected at least 1, got {}, {}, {}", options.rows,
          options.cols, options.rounds);
}

BlockCalibration calibrate_blocks(const CalibrateOptions& options, const CalibrationKey& key,
                                  SideTimer& timer, Progress& progress) {
  BlockCalibration found{.device = key.device, .build = key.build, .date = today()};
  const auto total = std::ssize(options.dtypes) * std::ssize(options.ns) *
                     std::ssize(options.blocks) * std::ssize(options.sparsities);
  const double all = static_cast<double>(options.rows) * static_cast<double>(options.cols);
  for (const DType dtype : options.dtypes) {
    for (const auto& block : options.blocks) {
      for (const double sparsity : options.sparsities) {
        const Checkerboard weight(options, dtype, block, 1 - sparsity);
        const double unit = weight.positions() / 1024;
        if (unit <= 0) continue;
        timer.take(weight);
        for (const std::int64_t n : options.ns) {
          progress.update("calibrate", std::ssize(found.timings), total,
                          fmt::format("{} blocks {}x{}, {:.1f} % zeros, N={}", to_string(dtype),
                                      block.first, block.second, 100 * sparsity, n));
          const SideTimes us = timer.time(n);
          found.timings.push_back({.dtype = dtype,
                                   .n = n,
                                   .block_rows = block.first,
                                   .block_cols = block.second,
                                   .density = 1 - sparsity,
                                   .dense_ns = std::max(us.dense_us, 0.0) * 1e3 / unit,
                                   .sparse_ns = us.sparse_us * 1e3 / unit,
                                   .call_us = us.call_us,
                                   .whole_ns = us.whole_us * 1e3 * 1024 / all});
        }
      }
    }
  }
  progress.update("calibrate", total, total, "");
  found.curves = fit_curves(found.timings);
  return found;
}

}  // namespace rarefy
