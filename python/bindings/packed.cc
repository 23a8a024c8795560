#include "packed.h"

#include <algorithm>
#include <random>
#include <unordered_map>
#include <vector>

#include "base/check.h"

namespace rarefy::python {
namespace {

struct Registry {
  std::mutex mutex;
  std::unordered_map<std::int64_t, std::weak_ptr<Packed>> weights;
  std::int64_t next = 1;
  /// Tells handles of this process from those that a file or another process brought.
  std::int64_t process = [] {
    std::random_device random;
    return static_cast<std::int64_t>((std::uint64_t{random()} << 31U) ^ random());
  }();
};

/// Never destroyed: tensors may outlive the module.
Registry& registry() {
  static auto* instance = new Registry;
  return *instance;
}

/// A dense copy of `source`, turned.
Buffer dense_transpose(const RowSource& source, ThreadPool& pool) {
  const std::int64_t rows = source.rows();
  const std::int64_t cols = source.cols();
  const auto size = size_of(source.dtype());
  Buffer out(static_cast<std::size_t>(rows * cols) * size);
  constexpr std::int64_t kPanel = 64;
  const auto turn = [&]<class T>(T* to, std::int64_t begin, std::int64_t end) {
    std::vector<T> panel(static_cast<std::size_t>((end - begin) * cols));
    source.read_rows(begin, end, panel.data());
    for (std::int64_t c = 0; c < cols; ++c) {
      for (std::int64_t r = begin; r < end; ++r)
        to[c * rows + r] = panel[static_cast<std::size_t>((r - begin) * cols + c)];
    }
  };
  pool.parallel_dynamic((rows + kPanel - 1) / kPanel, 1,
                        [&](std::int64_t first, std::int64_t last) {
                          for (std::int64_t panel = first; panel < last; ++panel) {
                            const std::int64_t begin = panel * kPanel;
                            const std::int64_t end = std::min(rows, begin + kPanel);
                            if (size == sizeof(float)) {
                              turn(out.as<std::uint32_t>(), begin, end);
                            } else {
                              turn(out.as<std::uint16_t>(), begin, end);
                            }
                          }
                        });
  return out;
}

FormatSpec transposed_spec(const FormatSpec& spec, std::int64_t rows, std::int64_t cols,
                           DType dtype) {
  FormatSpec turned = spec;
  if (spec.format == Format::kBsr) std::swap(turned.block_rows, turned.block_cols);
  // N of every M along rows says nothing about columns.
  if (spec.format == Format::kNm) turned = format::kBitmap;
  for (const FormatSpec& choice : {turned, format::kBitmap, format::kCsr32}) {
    if (can_pack(choice, rows, cols, dtype)) return choice;
  }
  return format::kDense;
}

}  // namespace

Packed::Packed(MatrixPtr matrix, Plan plan)
    : matrix_(std::move(matrix)), linear_(matrix_, std::move(plan)) {}

std::shared_ptr<Packed> Packed::make(MatrixPtr matrix) {
  Plan plan;
  plan.format = matrix->spec();
  return make(std::move(matrix), std::move(plan));
}

std::shared_ptr<Packed> Packed::make(MatrixPtr matrix, Plan plan) {
  std::shared_ptr<Packed> made(new Packed(std::move(matrix), std::move(plan)));
  Registry& all = registry();
  const std::scoped_lock lock(all.mutex);
  made->handle_ = {all.process, all.next++};
  all.weights.emplace(made->handle_[1], made);
  return made;
}

Packed::~Packed() {
  Registry& all = registry();
  const std::scoped_lock lock(all.mutex);
  all.weights.erase(handle_[1]);
}

std::shared_ptr<Packed> Packed::find(const Handle& handle, const char* argument) {
  Registry& all = registry();
  const std::scoped_lock lock(all.mutex);
  require(
      handle[0] == all.process,
      "{}: expected the handle of a weight that was packed in this process, got one of another; "
      "pack the weight again after loading",
      argument);
  const auto found = all.weights.find(handle[1]);
  std::shared_ptr<Packed> weight = found != all.weights.end() ? found->second.lock() : nullptr;
  require(weight != nullptr,
          "{}: expected the handle of a packed weight, got one whose weight is gone (a copy of a "
          "handle does not keep it)",
          argument);
  return weight;
}

std::shared_ptr<Packed> Packed::transposed(ThreadPool& pool) {
  const std::scoped_lock lock(transposing_);
  if (transposed_ == nullptr) {
    const Buffer dense = dense_transpose(*matrix_, pool);
    const std::int64_t rows = matrix_->cols();
    const std::int64_t cols = matrix_->rows();
    const DenseSource source({dense.data(), matrix_->dtype(), rows, cols, cols});
    transposed_ =
        make(pack(source, transposed_spec(matrix_->spec(), rows, cols, matrix_->dtype()), pool));
  }
  return transposed_;
}

void Packed::place_on_device(const DeviceLinearOptions& options, ThreadPool& pool) {
  const std::scoped_lock lock(placing_);
  if (on_device(options.device) != nullptr) return;
  DeviceLinearOptions own = options;
  own.dtype = matrix_->dtype();
  std::unique_ptr<DeviceLinear> placed = pack_on_device(*matrix_, own, pool);
  const std::scoped_lock places(places_mutex_);
  places_.emplace_back(options.device, std::move(placed));
}

const DeviceLinear* Packed::on_device(int device) const {
  const std::scoped_lock lock(places_mutex_);
  for (const auto& [index, weight] : places_) {
    if (index == device) return weight.get();
  }
  return nullptr;
}

}  // namespace rarefy::python
