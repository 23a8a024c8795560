// The operators of a decoder beside SpMM. Activations are f32, row-major, one row a token; sums in
// f32 in a fixed order, the same for any number of threads. Shapes and dtypes that do not fit throw
// `Error` (kInvalidArgument) before anything is written. Every operator that computes has a plain
// double version in namespace `reference` with the same arguments.
#pragma once

#include <cstdint>
#include <span>

#include "rarefy/dtype.h"
#include "rarefy/tensor.h"
#include "rarefy/threads.h"

namespace rarefy {

/// y[t] = x[t] / sqrt(mean(x[t]²) + eps) ⊙ weight (Zhang & Sennrich 2019). x, y: T×D f32, y may be
/// x; weight: D.
void rms_norm(ConstMatrixRef x, std::span<const float> weight, float eps, MatrixRef y,
              ThreadPool& pool = default_pool());

/// Angles of rotary embeddings: cos and sin of position · inv_freq, for positions 0…positions-1.
class RopeTable {
 public:
  /// @param inv_freq head_dim/2 frequencies (rope scaling already applied).
  RopeTable(std::span<const double> inv_freq, std::int64_t positions);
  [[nodiscard]] std::int64_t head_dim() const { return head_dim_; }
  [[nodiscard]] std::int64_t positions() const { return positions_; }
  [[nodiscard]] const float* cos(std::int64_t position) const {
    return cos_.as<float>() + position * head_dim_ / 2;
  }
  [[nodiscard]] const float* sin(std::int64_t position) const {
    return sin_.as<float>() + position * head_dim_ / 2;
  }

 private:
  std::int64_t head_dim_, positions_;
  Buffer cos_, sin_;
};

/// Rotates each head of each token in place (Su et al. 2021; the half-split form of Hugging Face):
/// with h = head_dim/2, (x[i], x[i+h]) ← (x[i]·cos - x[i+h]·sin, x[i+h]·cos + x[i]·sin). x:
/// T×(heads·head_dim); token t has position first_position + t.
void rope(MatrixRef x, std::int64_t heads, const RopeTable& table, std::int64_t first_position,
          ThreadPool& pool = default_pool());

/// y = silu(gate) ⊙ up (Shazeer 2020). All T×F; y may be gate or up.
void swiglu(ConstMatrixRef gate, ConstMatrixRef up, MatrixRef y, ThreadPool& pool = default_pool());

/// y[t] = exp(x[t] - max) / Σ. y may be x. A row of -inf alone gives zeros.
void softmax(ConstMatrixRef x, MatrixRef y, ThreadPool& pool = default_pool());

/// y[t] = table row ids[t], converted to f32. Throws `Error` for an id outside the table.
void embedding(const RowSource& table, std::span<const std::int32_t> ids, MatrixRef y,
               ThreadPool& pool = default_pool());

/// Causal attention with grouped keys and values (Ainslie et al. 2023): head h of T new tokens
/// attends, through kv head h / (heads / kv_heads), to positions 0…first_position + t; `window` > 0
/// keeps the last `window` of them only.
struct AttentionArgs {
  ConstMatrixRef q;     ///< T×(heads·head_dim), f32
  ConstMatrixRef k, v;  ///< S×(kv_heads·head_dim), S ≥ first_position + T; f32, f16 or bf16
  MatrixRef out;        ///< T×(heads·head_dim), f32
  std::int64_t heads = 0, kv_heads = 0, head_dim = 0;
  std::int64_t first_position = 0;
  std::int64_t window = 0;
  float scale = 1.0F;  ///< usually 1/sqrt(head_dim)
};
void attention(const AttentionArgs& args, ThreadPool& pool = default_pool());

namespace reference {
void rms_norm(ConstMatrixRef x, std::span<const float> weight, float eps, MatrixRef y);
void rope(MatrixRef x, std::int64_t heads, const RopeTable& table, std::int64_t first_position);
void swiglu(ConstMatrixRef gate, ConstMatrixRef up, MatrixRef y);
void softmax(ConstMatrixRef x, MatrixRef y);
void attention(const AttentionArgs& args);
}  // namespace reference

}  // namespace rarefy
