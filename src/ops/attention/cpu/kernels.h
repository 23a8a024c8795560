// Attention of one block of rows over a range of keys, one kernel an instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rarefy::attention_kernels {

/// Keys and values are taken in blocks of this many positions, at absolute multiples of it, so that
/// a row's sums do not depend on how the prompt was cut in chunks.
inline constexpr std::int64_t kKeyBlock = 64;

enum class KvType : std::uint8_t { kF32, kF16, kBF16 };

/// Some tokens × the `group` query heads that share one kv head. Row r is token r / group, head
/// r % group. Strides count elements from one token to the next.
struct Block {
  const float* q = nullptr;  ///< First token, first head of the group; heads lie head_dim apart.
  std::int64_t q_stride = 0;
  const void* k = nullptr;  ///< Position 0, this kv head.
  const void* v = nullptr;
  std::int64_t k_stride = 0, v_stride = 0;
  KvType kv_type = KvType::kF32;
  std::int64_t tokens = 0, group = 0, head_dim = 0;
  std::int64_t first_position = 0;          ///< Of the first token.
  std::int64_t window = 0;                  ///< 0: none.
  std::int64_t key_begin = 0, key_end = 0;  ///< Positions to look at, before masking.
  float scale = 1.0F;

  float* out = nullptr;  ///< As q. Null: the block leaves an unfinished part instead.
  std::int64_t out_stride = 0;
  float* part = nullptr;  ///< rows × (head_dim + 2): Σ p·v, the maximum, Σ p.

  float* scratch = nullptr;  ///< scratch_floats() of this shape, 64-byte aligned.
};

/// Floats of scratch that a block of `rows` = tokens·group needs, for any instruction set.
std::size_t scratch_floats(std::int64_t rows, std::int64_t head_dim);

using Kernel = void (*)(const Block&);

void attend_portable(const Block& block);
#if defined(__x86_64__)
void attend_avx2(const Block& block);
void attend_avx512(const Block& block);
#endif

}  // namespace rarefy::attention_kernels
