#include "rarefy/checkpoint.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "io/bitmask_source.h"
#include "io/checkpoint_arrays.h"
#include "io/natural_order.h"
#include "io/safetensors_header.h"
#include "io/shards.h"

namespace rarefy {
namespace {

/// Dense rows in a mapping, kept alive by it.
class MappedSource final : public RowSource {
 public:
  MappedSource(io::StoredArray array, std::int64_t rows, std::int64_t cols)
      : array_(std::move(array)), rows_(rows), cols_(cols) {}
  [[nodiscard]] std::int64_t rows() const override { return rows_; }
  [[nodiscard]] std::int64_t cols() const override { return cols_; }
  [[nodiscard]] DType dtype() const override { return array_.info->dtype; }

  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override {
    const std::size_t row_bytes = static_cast<std::size_t>(cols_) * size_of(dtype());
    const std::size_t bytes = static_cast<std::size_t>(end - begin) * row_bytes;
    if (bytes != 0) {
      std::memcpy(out, array_.data() + static_cast<std::size_t>(begin) * row_bytes, bytes);
    }
  }

  [[nodiscard]] const void* dense_data() const override {
    // The format allows any offset; elements that lie across their size are read by copying.
    const auto address = reinterpret_cast<std::uintptr_t>(array_.data());
    return address % size_of(dtype()) == 0 ? array_.data() : nullptr;
  }

 private:
  io::StoredArray array_;
  std::int64_t rows_, cols_;
};

std::string what(const io::StoredArray& array) {
  return fmt::format("{}: tensor '{}'", array.file->path().string(), array.info->name);
}

}  // namespace

const char* to_string(Storage storage) {
  switch (storage) {
    case Storage::kDense:
      return "dense";
    case Storage::kSparseBitmask:
      return "sparse-bitmask";
    case Storage::kSparse24Bitmask:
      return "sparse-24-bitmask";
  }
  return "?";
}

struct Checkpoint::Impl {
  using Make = std::function<std::shared_ptr<const RowSource>(const std::string&)>;

  explicit Impl(const std::filesystem::path& path) : shards(io::open_shards(path)) {
    arrays = io::group_arrays(shards.arrays);
    for (const auto& [name, stored] : arrays) tensors.push_back(describe(name, stored));
    sort_tensors();
  }
  Impl(std::string name, std::vector<CheckpointTensor> given, Make source)
      : tensors(std::move(given)), make(std::move(source)) {
    shards.directory = std::move(name);
    sort_tensors();
  }

  void sort_tensors() {
    std::sort(tensors.begin(), tensors.end(),
              [](const CheckpointTensor& a, const CheckpointTensor& b) {
                return io::natural_less(a.name, b.name);
              });
  }

  /// The rows of a tensor that lies in no file.
  std::shared_ptr<const RowSource> made(const std::string& name) const {
    const bool known = std::any_of(tensors.begin(), tensors.end(),
                                   [&](const CheckpointTensor& t) { return t.name == name; });
    if (!known) {
      fail(ErrorKind::kCorrupt, "{}: expected a tensor '{}', found none", shards.directory.string(),
           name);
    }
    return make(name);
  }

  static CheckpointTensor describe(const std::string& name, const io::LogicalTensor& stored) {
    CheckpointTensor tensor;
    tensor.name = name;
    tensor.dtype = stored.values().info->dtype;
    if (stored.bitmask) {
      tensor.shape = io::check_bitmask_arrays(*stored.bitmask);
      tensor.storage = stored.bitmask->storage();
      tensor.bytes = stored.bitmask->bytes();
      tensor.dense_bytes = io::checked_bytes(tensor.dtype, tensor.shape, what(stored.values()));
    } else {
      tensor.shape = stored.dense.info->shape;
      tensor.bytes = tensor.dense_bytes = stored.dense.info->bytes();
    }
    return tensor;
  }

  /// The stored form of `name`; throws when there is none.
  const io::LogicalTensor& get(const std::string& name) const {
    if (const auto found = arrays.find(name); found != arrays.end()) return found->second;
    for (const char* suffix : {"_packed", "_scale", "_zero_point"}) {
      if (shards.arrays.contains(name + suffix)) {
        fail(ErrorKind::kUnsupported,
             "{}: tensor '{}': expected a dense or bitmask weight, found "
             "a quantised one ('{}{}')",
             shards.directory.string(), name, name, suffix);
      }
    }
    fail(ErrorKind::kCorrupt, "{}: expected a tensor '{}', found none", shards.directory.string(),
         name);
  }

  io::Shards shards;
  std::map<std::string, io::LogicalTensor> arrays;
  std::vector<CheckpointTensor> tensors;
  Make make;  ///< Of tensors that lie in no file; otherwise empty.
};

namespace {

/// All rows, one after the other, as f32.
std::vector<float> all_floats(const RowSource& rows) {
  const auto count = static_cast<std::size_t>(rows.rows() * rows.cols());
  Buffer values(count * size_of(rows.dtype()));
  rows.read_rows(0, rows.rows(), values.data());
  std::vector<float> out(count);
  convert_elements(values.data(), rows.dtype(), out.data(), DType::kF32, count);
  return out;
}

}  // namespace

Checkpoint::Checkpoint(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Checkpoint::~Checkpoint() = default;

std::shared_ptr<const Checkpoint> Checkpoint::open(const std::filesystem::path& path) {
  return std::shared_ptr<const Checkpoint>(new Checkpoint(std::make_unique<Impl>(path)));
}

std::shared_ptr<const Checkpoint> Checkpoint::of(
    std::string name, std::vector<CheckpointTensor> tensors,
    std::function<std::shared_ptr<const RowSource>(const std::string&)> source) {
  return std::shared_ptr<const Checkpoint>(new Checkpoint(
      std::make_unique<Impl>(std::move(name), std::move(tensors), std::move(source))));
}

const std::filesystem::path& Checkpoint::directory() const {
  return impl_->shards.directory;
}

const std::vector<CheckpointTensor>& Checkpoint::tensors() const {
  return impl_->tensors;
}

const CheckpointTensor* Checkpoint::find(const std::string& name) const {
  const auto& tensors = impl_->tensors;
  const auto at = std::lower_bound(
      tensors.begin(), tensors.end(), name,
      [](const CheckpointTensor& t, const std::string& n) { return io::natural_less(t.name, n); });
  return at != tensors.end() && at->name == name ? &*at : nullptr;
}

std::shared_ptr<const RowSource> Checkpoint::source(const std::string& name) const {
  if (impl_->make) return impl_->made(name);
  const io::LogicalTensor& stored = impl_->get(name);
  if (stored.bitmask) return io::make_bitmask_source(*stored.bitmask);
  const TensorInfo& info = *stored.dense.info;
  if (!is_compute_dtype(info.dtype)) {
    fail(ErrorKind::kUnsupported, "{}: expected F32, F16 or BF16, found {}", what(stored.dense),
         safetensors_name(info.dtype));
  }
  if (info.shape.empty() || info.shape.size() > 2) {
    fail(ErrorKind::kCorrupt, "{}: expected 1 or 2 dimensions, found shape {}", what(stored.dense),
         to_string(info.shape));
  }
  const std::int64_t rows = info.shape.size() == 1 ? 1 : info.shape[0];
  return std::make_shared<MappedSource>(stored.dense, rows, info.shape.back());
}

std::vector<float> Checkpoint::floats(const std::string& name) const {
  if (impl_->make) return all_floats(*impl_->made(name));
  const io::LogicalTensor& stored = impl_->get(name);
  return stored.bitmask ? all_floats(*io::make_bitmask_source(*stored.bitmask))
                        : io::dense_floats(stored.dense);
}

std::span<const std::byte> Checkpoint::bytes(const std::string& name) const {
  if (impl_->make) {
    fail(ErrorKind::kUnsupported, "{}: tensor '{}': expected one in a file",
         impl_->shards.directory.string(), name);
  }
  const io::LogicalTensor& stored = impl_->get(name);
  if (stored.bitmask) {
    fail(ErrorKind::kInvalidArgument, "{}: expected dense storage, found {}", what(stored.values()),
         to_string(stored.bitmask->storage()));
  }
  return {stored.dense.data(), stored.dense.info->bytes()};
}

void Checkpoint::drop_pages(const std::string& name) const {
  if (impl_->make) return;
  for (const io::StoredArray& array : impl_->get(name).arrays()) {
    array.file->drop_pages(*array.info);
  }
}

}  // namespace rarefy
