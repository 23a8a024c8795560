// Activations repacked for the strip kernels, by all threads.
#pragma once

#include "ops/spmm/cpu/strip_engine.h"
#include "ops/spmm/scratch.h"
#include "rarefy/spmm.h"
#include "rarefy/threads.h"

namespace rarefy::strip {

/// bf16 parts that activations need: two where 16 bits of mantissa are asked of wider types.
int amx_parts(DType activations, Precision precision);

/// How n tokens are cut into tiles of `tokens`; the last may have fewer.
struct TokenTiles {
  std::int32_t count, tokens;
  /// As few tiles of at most `most` tokens as can be, filled evenly.
  static TokenTiles even(std::int64_t n, std::int64_t most);
  /// Tiles of exactly `tokens`.
  static TokenTiles of(std::int64_t n, std::int64_t tokens);
};

/// Bytes to ask of Scratch for something that is read again and again from L2: from 256 KiB on as
/// much as makes Buffer take huge pages, so that a range of a megabyte does not lose lines to
/// others of the same set as 4 KiB pages placed at random do. Alone it made no difference that we
/// measured.
std::size_t huge_page_bytes(std::size_t bytes);

/// Tokens of each turn of n where at most `most`, a multiple of 16, are multiplied at once: turns
/// are equal but for whole token tiles, because each reads the weight.
std::int64_t turn_tokens(std::int64_t n, std::int64_t most);

/// Bytes of the activations of a range of K: they stay in L2 while all strips go past. With more
/// than 16 token tiles a range is so short that the weights of two strips stay in L1 while all
/// tokens go past.
std::int64_t range_bytes(std::int64_t token_tiles, std::int64_t parts);

/// The part of a multiplication that makes tokens [begin, end).
SpmmArgs tokens_of(const SpmmArgs& args, std::int64_t begin, std::int64_t end);

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

/// Packs b for multiply-adds: f32, column after column, the tokens of a tile side by side.
class FmaActivations {
 public:
  FmaActivations(const ConstMatrixRef& b, TokenTiles tiles, std::int64_t padded_k,
                 ThreadPool& pool);
  [[nodiscard]] const Activations& get() const { return x_; }

 private:
  Activations x_;
  Scratch storage_;
};

}  // namespace rarefy::strip
