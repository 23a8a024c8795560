// Intermediate activations of a layer, kept from one layer and one token to the next.
#pragma once

#include <algorithm>
#include <cstdint>

#include "rarefy/config.h"
#include "rarefy/tensor.h"

namespace rarefy::model {

class Workspace {
 public:
  explicit Workspace(const ModelConfig& config)
      : hidden_(config.hidden_size),
        q_(config.heads * config.head_dim),
        kv_(config.kv_heads * config.head_dim),
        ffn_(config.intermediate_size) {}

  /// Makes room for `tokens` rows; what was there is lost.
  void reserve(std::int64_t tokens) {
    if (tokens <= tokens_) return;
    memory_ = Buffer(static_cast<std::size_t>(tokens * floats_per_token()) * sizeof(float));
    tokens_ = tokens;
  }

  MatrixRef hidden(std::int64_t tokens) { return part(tokens, 0, hidden_); }
  MatrixRef normed(std::int64_t tokens) { return part(tokens, hidden_, hidden_); }
  MatrixRef q(std::int64_t tokens) { return part(tokens, 2 * hidden_, q_); }
  MatrixRef k(std::int64_t tokens) { return part(tokens, 2 * hidden_ + q_, kv_); }
  MatrixRef v(std::int64_t tokens) { return part(tokens, 2 * hidden_ + q_ + kv_, kv_); }
  MatrixRef attended(std::int64_t tokens) { return part(tokens, 2 * hidden_ + q_ + 2 * kv_, q_); }
  /// The feed-forward network runs when attention is done, and takes its place.
  MatrixRef gate(std::int64_t tokens) { return part(tokens, 2 * hidden_, ffn_); }
  MatrixRef up(std::int64_t tokens) { return part(tokens, 2 * hidden_ + ffn_, ffn_); }

 private:
  [[nodiscard]] std::int64_t floats_per_token() const {
    return 2 * hidden_ + std::max(2 * q_ + 2 * kv_, 2 * ffn_);
  }
  /// Each part begins at `offset` columns × the reserved tokens.
  MatrixRef part(std::int64_t tokens, std::int64_t offset, std::int64_t width) {
    return matrix_ref(memory_.as<float>() + offset * tokens_, tokens, width);
  }

  std::int64_t hidden_, q_, kv_, ffn_, tokens_ = 0;
  Buffer memory_;
};

}  // namespace rarefy::model
