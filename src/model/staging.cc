#include "model/staging.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "base/check.h"

namespace rarefy::model {
namespace {

/// A dense matrix that owns its rows.
class DenseCopy final : public RowSource {
 public:
  DenseCopy(Buffer values, DType dtype, std::int64_t rows, std::int64_t cols)
      : values_(std::move(values)), view_({values_.data(), dtype, rows, cols, cols}) {}
  [[nodiscard]] std::int64_t rows() const override { return view_.rows(); }
  [[nodiscard]] std::int64_t cols() const override { return view_.cols(); }
  [[nodiscard]] DType dtype() const override { return view_.dtype(); }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override {
    view_.read_rows(begin, end, out);
  }
  [[nodiscard]] const void* dense_data() const override { return values_.data(); }

 private:
  Buffer values_;
  DenseSource view_;
};

/// Infinity and NaN are the values whose exponent bits are all set. Written without a branch, so
/// that the compiler makes vectors of it: it runs at the speed of memory.
template <class Bits>
bool any_not_finite(const void* data, std::size_t count, Bits exponent) {
  const auto* values = static_cast<const Bits*>(data);
  Bits found = 0;
  for (std::size_t i = 0; i < count; ++i)
    found |= static_cast<Bits>((values[i] & exponent) == exponent);
  return found != 0;
}

bool any_not_finite(const void* data, DType dtype, std::size_t count) {
  switch (dtype) {
    case DType::kF32:
      return any_not_finite<std::uint32_t>(data, count, 0x7F800000U);
    case DType::kF16:
      return any_not_finite<std::uint16_t>(data, count, 0x7C00U);
    default:
      return any_not_finite<std::uint16_t>(data, count, 0x7F80U);
  }
}

/// Says which value it is: column by column through the row that was found.
[[noreturn]] void fail_not_finite(const Checkpoint& checkpoint, const std::string& name,
                                  const RowSource& source, std::int64_t row) {
  std::vector<std::byte> values(static_cast<std::size_t>(source.cols()) * size_of(source.dtype()));
  std::vector<float> floats(static_cast<std::size_t>(source.cols()));
  source.read_rows(row, row + 1, values.data());
  convert_elements(values.data(), source.dtype(), floats.data(), DType::kF32, floats.size());
  const auto bad =
      std::find_if(floats.begin(), floats.end(), [](float x) { return !std::isfinite(x); });
  fail(ErrorKind::kCorrupt, "{}: {}: expected finite weights, found {} at row {}, column {}",
       checkpoint.directory().string(), name, *bad, row, bad - floats.begin());
}

/// Rows handed out together: about 256 KiB of values.
std::int64_t rows_per_panel(const RowSource& source) {
  const auto row_bytes = source.cols() * static_cast<std::int64_t>(size_of(source.dtype()));
  return std::max<std::int64_t>(1,
                                (std::int64_t{256} << 10) / std::max<std::int64_t>(1, row_bytes));
}

std::shared_ptr<const RowSource> source_of_shape(const Checkpoint& checkpoint,
                                                 const std::string& name, std::int64_t rows,
                                                 std::int64_t cols) {
  std::shared_ptr<const RowSource> source = checkpoint.source(name);
  if (source->rows() != rows || source->cols() != cols) {
    fail(ErrorKind::kCorrupt, "{}: {}: expected shape [{}, {}] from config.json, found [{}, {}]",
         checkpoint.directory().string(), name, rows, cols, source->rows(), source->cols());
  }
  return source;
}

/// A mapping counts as resident, and a weight is a quarter of a layer: pages go as they are read.
class StreamedWeight final : public RowSource {
 public:
  StreamedWeight(std::shared_ptr<const Checkpoint> checkpoint, std::string name,
                 std::shared_ptr<const RowSource> source)
      : checkpoint_(std::move(checkpoint)), name_(std::move(name)), source_(std::move(source)) {}
  ~StreamedWeight() override { checkpoint_->drop_pages(name_); }
  StreamedWeight(const StreamedWeight&) = delete;
  StreamedWeight& operator=(const StreamedWeight&) = delete;
  [[nodiscard]] std::int64_t rows() const override { return source_->rows(); }
  [[nodiscard]] std::int64_t cols() const override { return source_->cols(); }
  [[nodiscard]] DType dtype() const override { return source_->dtype(); }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override {
    constexpr std::size_t kStep = std::size_t{4} << 20;
    source_->read_rows(begin, end, out);
    const std::size_t row_bytes = static_cast<std::size_t>(cols()) * size_of(dtype());
    const auto* values = static_cast<const std::byte*>(out);
    for (std::int64_t r = begin; r < end; ++r, values += row_bytes) {
      if (any_not_finite(values, dtype(), static_cast<std::size_t>(cols())))
        fail_not_finite(*checkpoint_, name_, *source_, r);
    }
    const std::size_t bytes = static_cast<std::size_t>(end - begin) * row_bytes;
    const std::size_t before = read_.fetch_add(bytes, std::memory_order_relaxed);
    if (before / kStep != (before + bytes) / kStep) checkpoint_->drop_pages(name_);
  }

 private:
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::string name_;
  std::shared_ptr<const RowSource> source_;
  mutable std::atomic<std::size_t> read_{0};
};

}  // namespace

std::shared_ptr<const RowSource> stream_weight(std::shared_ptr<const Checkpoint> checkpoint,
                                               const std::string& name, std::int64_t rows,
                                               std::int64_t cols) {
  auto source = source_of_shape(*checkpoint, name, rows, cols);
  return std::make_shared<StreamedWeight>(std::move(checkpoint), name, std::move(source));
}

std::shared_ptr<const RowSource> stage_weight(const Checkpoint& checkpoint, const std::string& name,
                                              std::int64_t rows, std::int64_t cols,
                                              ThreadPool& pool) {
  std::shared_ptr<const RowSource> source = source_of_shape(checkpoint, name, rows, cols);
  const std::size_t row_bytes = static_cast<std::size_t>(cols) * size_of(source->dtype());
  const auto* mapped = static_cast<const std::byte*>(source->dense_data());
  Buffer decoded(mapped == nullptr ? static_cast<std::size_t>(rows) * row_bytes : 0);

  std::atomic<std::int64_t> bad_row{std::numeric_limits<std::int64_t>::max()};
  const std::int64_t panel = rows_per_panel(*source);
  pool.parallel_dynamic(rows, panel, [&](std::int64_t begin, std::int64_t end) {
    const std::byte* values = mapped;
    if (mapped == nullptr) {
      source->read_rows(begin, end, decoded.data() + static_cast<std::size_t>(begin) * row_bytes);
      values = decoded.data();
    }
    for (std::int64_t r = begin; r < end; ++r) {
      if (!any_not_finite(values + static_cast<std::size_t>(r) * row_bytes, source->dtype(),
                          static_cast<std::size_t>(cols)))
        continue;
      std::int64_t seen = bad_row.load();
      while (r < seen && !bad_row.compare_exchange_weak(seen, r)) {
      }
      return;
    }
  });
  if (bad_row.load() < rows) fail_not_finite(checkpoint, name, *source, bad_row.load());
  if (mapped != nullptr) return source;
  return std::make_shared<DenseCopy>(std::move(decoded), source->dtype(), rows, cols);
}

std::vector<float> stage_vector(const Checkpoint& checkpoint, const std::string& name,
                                std::int64_t count) {
  std::vector<float> values = checkpoint.floats(name);
  if (static_cast<std::int64_t>(values.size()) != count) {
    fail(ErrorKind::kCorrupt, "{}: {}: expected {} values from config.json, found {}",
         checkpoint.directory().string(), name, count, values.size());
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i]))
      fail(ErrorKind::kCorrupt, "{}: {}: expected finite weights, found {} at {}",
           checkpoint.directory().string(), name, values[i], i);
  }
  return values;
}

}  // namespace rarefy::model
