// Activations repacked for the strip kernels, by all threads.
#pragma once

#include "ops/spmm/cpu/strip_engine.h"
#include "ops/spmm/scratch.h"
#include "rarefy/spmm.h"
#include "rarefy/threads.h"

namespace rarefy::strip {

/// bf16 parts that activations need: two where 16 bits of mantissa are asked of wider types.
int amx_parts(DType activations, Precision precision);

/// Token tiles of `tokens` rows each, none of them empty and the last as full as can be.
struct TokenTiles {
  std::int32_t count, tokens;
  TokenTiles(std::int64_t n, std::int64_t most)
      : count(static_cast<std::int32_t>((n + most - 1) / most)),
        tokens(static_cast<std::int32_t>((n + count - 1) / count)) {}
};

/// Packs b (n tokens × K) for AMX: tiles of 16 × 32 bf16.
class AmxActivations {
 public:
  AmxActivations(const ConstMatrixRef& b, Precision precision, std::int64_t padded_k,
                 ThreadPool& pool);
  [[nodiscard]] const Activations& get() const { return x_; }

 private:
  Activations x_;
  Scratch storage_;
};

/// Packs b for multiply-adds: f32, column after column, up to `most_tokens` tokens side by side.
class FmaActivations {
 public:
  FmaActivations(const ConstMatrixRef& b, std::int32_t most_tokens, std::int64_t padded_k,
                 ThreadPool& pool);
  [[nodiscard]] const Activations& get() const { return x_; }

 private:
  Activations x_;
  Scratch storage_;
};

}  // namespace rarefy::strip
