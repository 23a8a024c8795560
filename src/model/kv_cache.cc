#include <algorithm>

#include "base/check.h"
#include "rarefy/model.h"

namespace rarefy {

KvCache::KvCache(const ModelConfig& config, std::int64_t capacity, DType dtype)
    : layers_(config.layers),
      capacity_(capacity),
      width_(config.kv_heads * config.head_dim),
      dtype_(dtype) {
  require(capacity >= 0, "kv cache: capacity: expected >= 0 positions, got {}", capacity);
  require(is_compute_dtype(dtype), "kv cache: dtype: expected f32, f16 or bf16, got {}",
          to_string(dtype));
}

std::size_t KvCache::bytes() const {
  return 2 * static_cast<std::size_t>(layers_ * capacity_ * width_) * size_of(dtype_);
}

void KvCache::allocate() {
  if (!keys_.empty()) return;
  const std::size_t bytes = static_cast<std::size_t>(capacity_ * width_) * size_of(dtype_);
  for (std::int64_t layer = 0; layer < layers_; ++layer) {
    keys_.emplace_back(bytes);
    values_.emplace_back(bytes);
  }
}

void KvCache::truncate(std::int64_t size) {
  require(size >= 0 && size <= size_, "kv cache: truncate: expected 0…{}, got {}", size_, size);
  size_ = size;
}

void KvCache::append(std::int64_t tokens) {
  require(tokens >= 0 && size_ + tokens <= capacity_,
          "kv cache: append: expected at most {} more positions, got {}", capacity_ - size_,
          tokens);
  size_ += tokens;
}

MatrixRef KvCache::keys(std::int64_t layer) {
  allocate();
  return {keys_[static_cast<std::size_t>(layer)].data(), dtype_, capacity_, width_, width_};
}

MatrixRef KvCache::values(std::int64_t layer) {
  allocate();
  return {values_[static_cast<std::size_t>(layer)].data(), dtype_, capacity_, width_, width_};
}

}  // namespace rarefy
