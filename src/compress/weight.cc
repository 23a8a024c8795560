#include "compress/weight.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "base/check.h"

namespace rarefy::compress {
namespace {

/// Rows a thread takes at once: about 1 MiB, so that a copy and its scan share the cache.
std::int64_t rows_per_panel(const RowSource& source) {
  const auto row_bytes =
      static_cast<std::int64_t>(size_of(source.dtype())) * std::max<std::int64_t>(source.cols(), 1);
  return std::max<std::int64_t>(1, (std::int64_t{1} << 20) / row_bytes);
}

}  // namespace

DenseWeight::DenseWeight(std::string name, const RowSource& source, ThreadPool& pool)
    : name_(std::move(name)),
      rows_(source.rows()),
      cols_(source.cols()),
      dtype_(source.dtype()),
      data_(static_cast<std::size_t>(rows_ * cols_) * size_of(dtype_)) {
  std::atomic<std::int64_t> first_bad{rows_ * cols_};
  pool.parallel_dynamic(rows_, rows_per_panel(source), [&](std::int64_t begin, std::int64_t end) {
    source.read_rows(begin, end, at(begin));
    std::vector<float> values(static_cast<std::size_t>(cols_));
    for (std::int64_t row = begin; row < end; ++row) {
      read_floats(row, values.data());
      const auto bad =
          std::find_if_not(values.begin(), values.end(), [](float v) { return std::isfinite(v); });
      if (bad == values.end()) continue;
      const std::int64_t place = row * cols_ + (bad - values.begin());
      std::int64_t seen = first_bad.load();
      while (place < seen && !first_bad.compare_exchange_weak(seen, place)) {
      }
      return;
    }
  });
  if (const std::int64_t place = first_bad.load(); place < rows_ * cols_) {
    std::vector<float> values(static_cast<std::size_t>(cols_));
    read_floats(place / cols_, values.data());
    fail(ErrorKind::kCorrupt, "{}: expected finite weights, found {} at [{}, {}]", name_,
         values[static_cast<std::size_t>(place % cols_)], place / cols_, place % cols_);
  }
}

void DenseWeight::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  if (end > begin)
    std::memcpy(out, at(begin), static_cast<std::size_t>((end - begin) * cols_) * size_of(dtype_));
}

void DenseWeight::read_floats(std::int64_t row, std::int64_t first, std::int64_t count,
                              float* out) const {
  convert_elements(at(row) + static_cast<std::size_t>(first) * size_of(dtype_), dtype_, out,
                   DType::kF32, static_cast<std::size_t>(count));
}

void DenseWeight::write_floats(std::int64_t row, const float* values) {
  convert_elements(values, DType::kF32, at(row), dtype_, static_cast<std::size_t>(cols_));
}

void DenseWeight::apply(const Mask& mask, ThreadPool& pool) {
  const std::int64_t step = mask.row_step();
  pool.parallel_dynamic(rows_ / step, 1, [&](std::int64_t begin, std::int64_t end) {
    const std::int64_t first = begin * step;
    const std::int64_t count = (end - begin) * step * cols_;
    std::vector<std::uint8_t> pruned(static_cast<std::size_t>(count));
    mask.rows(first, end * step, pruned.data());
    const auto clear = [&](auto* values) {
      for (std::size_t i = 0; i < pruned.size(); ++i) {
        if (pruned[i] != 0) values[i] = 0;
      }
    };
    if (dtype_ == DType::kF32) {
      clear(reinterpret_cast<std::uint32_t*>(at(first)));
    } else {
      clear(reinterpret_cast<std::uint16_t*>(at(first)));
    }
  });
}

std::int64_t DenseWeight::nnz(ThreadPool& pool) const {
  std::atomic<std::int64_t> total{0};
  pool.parallel_for(rows_, [&](std::int64_t begin, std::int64_t end) {
    const auto count = [](const auto* values, std::int64_t n, auto magnitude_bits) {
      return std::count_if(values, values + n,
                           [magnitude_bits](auto v) { return (v & magnitude_bits) != 0; });
    };
    const std::int64_t n = (end - begin) * cols_;
    if (dtype_ == DType::kF32) {
      total += count(reinterpret_cast<const std::uint32_t*>(at(begin)), n, 0x7FFFFFFFU);
    } else {
      total += count(reinterpret_cast<const std::uint16_t*>(at(begin)), n, 0x7FFFU);
    }
  });
  return total;
}

ScoreGrid weight_scores(const RowSource& source, const float* scale) {
  const auto fill = [&source, scale](std::int64_t row, float* scores) {
    const auto cols = static_cast<std::size_t>(source.cols());
    if (source.dtype() == DType::kF32) {
      source.read_rows(row, row + 1, scores);
    } else {
      std::vector<std::uint16_t> raw(cols);
      source.read_rows(row, row + 1, raw.data());
      convert_elements(raw.data(), source.dtype(), scores, DType::kF32, cols);
    }
    for (std::size_t j = 0; j < cols; ++j) scores[j] = std::fabs(scores[j]);
    if (scale != nullptr) {
      for (std::size_t j = 0; j < cols; ++j) scores[j] *= scale[j];
    }
  };
  return {source.rows(), source.cols(), fill};
}

double weight_error(const RowSource& before, const RowSource& after, ThreadPool& pool) {
  const auto rows = static_cast<std::size_t>(before.rows());
  std::vector<double> lost(rows);
  std::vector<double> whole(rows);  // A sum a row, added in order: the same for any threads.
  pool.parallel_for(before.rows(), [&](std::int64_t begin, std::int64_t end) {
    const auto cols = static_cast<std::size_t>(before.cols());
    std::vector<float> raw(cols);
    std::vector<float> old_row(cols);
    std::vector<float> new_row(cols);
    for (std::int64_t row = begin; row < end; ++row) {
      before.read_rows(row, row + 1, raw.data());
      convert_elements(raw.data(), before.dtype(), old_row.data(), DType::kF32, cols);
      after.read_rows(row, row + 1, raw.data());
      convert_elements(raw.data(), after.dtype(), new_row.data(), DType::kF32, cols);
      double difference = 0;
      double total = 0;
      for (std::size_t j = 0; j < cols; ++j) {
        const double d = static_cast<double>(old_row[j]) - new_row[j];
        difference += d * d;
        total += static_cast<double>(old_row[j]) * old_row[j];
      }
      lost[static_cast<std::size_t>(row)] = difference;
      whole[static_cast<std::size_t>(row)] = total;
    }
  });
  double difference = 0;
  double total = 0;
  for (std::size_t row = 0; row < rows; ++row) {
    difference += lost[row];
    total += whole[row];
  }
  return total > 0 ? difference / total : 0;
}

}  // namespace rarefy::compress
