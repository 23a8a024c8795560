#include <algorithm>
#include <cmath>
#include <limits>

#include "ops/attention/cpu/kernels.h"
#include "ops/check_rows.h"
#include "rarefy/cpu.h"
#include "rarefy/transformer_ops.h"

namespace rarefy {
namespace attention_kernels {

std::size_t scratch_floats(std::int64_t rows, std::int64_t head_dim) {
  constexpr std::int64_t kWidestVector = 16;
  const std::int64_t width = (head_dim + kWidestVector - 1) / kWidestVector * kWidestVector;
  return static_cast<std::size_t>(2 * rows * width + 2 * kKeyBlock * width + rows * kKeyBlock +
                                  2 * rows);
}

}  // namespace attention_kernels

namespace {

using attention_kernels::Block;
using attention_kernels::KvType;

/// Rows (tokens × heads of a group) that one item of work carries: enough to pay for packing the
/// keys (64·head_dim shuffles against rows·64·head_dim/16 products), few enough for the L2 cache.
constexpr std::int64_t kRowsPerItem = 128;
/// Few rows over many keys are also cut along the keys, so that every thread has work; a multiple
/// of kKeyBlock.
constexpr std::int64_t kKeysPerPart = 512;
constexpr std::int64_t kFewTokens = 8;

attention_kernels::Kernel block_kernel() {
#if defined(__x86_64__)
  if (active_isa() >= Isa::kAvx512) return attention_kernels::attend_avx512;
  if (active_isa() >= Isa::kAvx2) return attention_kernels::attend_avx2;
#endif
  return attention_kernels::attend_portable;
}

void check_cache(const AttentionArgs& a, const ConstMatrixRef& kv, const char* name) {
  require(is_compute_dtype(kv.dtype) && kv.dtype == a.k.dtype,
          "attention: {}: expected f32, f16 or bf16, the same for k and v, got {}", name,
          to_string(kv.dtype));
  const std::int64_t positions = a.first_position + a.q.rows;
  require(kv.cols == a.kv_heads * a.head_dim && kv.row_stride >= kv.cols && kv.rows >= positions &&
              (kv.data != nullptr || positions == 0),
          "attention: {}: expected at least {} rows of {}, got {} of {} with stride {}", name,
          positions, a.kv_heads * a.head_dim, kv.rows, kv.cols, kv.row_stride);
}

void check(const AttentionArgs& a) {
  require(a.heads > 0 && a.kv_heads > 0 && a.head_dim > 0 && a.heads % a.kv_heads == 0,
          "attention: heads: expected positive, heads a multiple of kv_heads, got {} over {} of {}",
          a.heads, a.kv_heads, a.head_dim);
  const std::int64_t tokens = a.q.rows;
  ops::require_f32("attention", "q", a.q, tokens, a.heads * a.head_dim);
  ops::require_f32("attention", "out", a.out, tokens, a.heads * a.head_dim);
  require(a.first_position >= 0 && a.window >= 0,
          "attention: first_position, window: expected >= 0, got {}, {}", a.first_position,
          a.window);
  check_cache(a, a.k, "k");
  check_cache(a, a.v, "v");
}

KvType kv_type(DType dtype) {
  if (dtype == DType::kF32) return KvType::kF32;
  return dtype == DType::kF16 ? KvType::kF16 : KvType::kBF16;
}

const void* advance(ConstMatrixRef ref, std::int64_t elements) {
  return static_cast<const std::byte*>(ref.data) +
         static_cast<std::size_t>(elements) * size_of(ref.dtype);
}

/// Each thread keeps its scratch from one call to the next: a few hundred KiB.
float* thread_scratch(std::size_t floats) {
  thread_local Buffer buffer;
  if (buffer.size() < floats * sizeof(float)) buffer = Buffer(floats * sizeof(float));
  return buffer.as<float>();
}

/// How the work is cut; depends on the shape alone, never on the threads.
struct Cut {
  std::int64_t group, tokens_per_item, token_blocks, first_part, parts;

  explicit Cut(const AttentionArgs& a) {
    const std::int64_t tokens = a.q.rows;
    group = a.heads / a.kv_heads;
    tokens_per_item = std::max<std::int64_t>(1, kRowsPerItem / group);
    token_blocks = (tokens + tokens_per_item - 1) / tokens_per_item;
    const std::int64_t oldest =
        a.window > 0 ? std::max<std::int64_t>(0, a.first_position - a.window + 1) : 0;
    first_part = tokens <= kFewTokens ? oldest / kKeysPerPart : 0;
    parts = tokens <= kFewTokens
                ? (a.first_position + tokens + kKeysPerPart - 1) / kKeysPerPart - first_part
                : 1;
  }
};

Block make_block(const AttentionArgs& a, const Cut& cut, std::int64_t kv_head,
                 std::int64_t token_block) {
  const std::int64_t token = token_block * cut.tokens_per_item;
  const std::int64_t query = kv_head * cut.group * a.head_dim;
  Block b;
  b.q = a.q.row<float>(token) + query;
  b.q_stride = a.q.row_stride;
  b.k = advance(a.k, kv_head * a.head_dim);
  b.v = advance(a.v, kv_head * a.head_dim);
  b.k_stride = a.k.row_stride;
  b.v_stride = a.v.row_stride;
  b.kv_type = kv_type(a.k.dtype);
  b.tokens = std::min(cut.tokens_per_item, a.q.rows - token);
  b.group = cut.group;
  b.head_dim = a.head_dim;
  b.first_position = a.first_position + token;
  b.window = a.window;
  b.key_begin = a.window > 0 ? std::max<std::int64_t>(0, b.first_position - a.window + 1) : 0;
  b.key_end = b.first_position + b.tokens;
  b.scale = a.scale;
  b.out = a.out.row<float>(token) + query;
  b.out_stride = a.out.row_stride;
  return b;
}

/// Joins the parts of one row: Σ over parts of exp(max_part - max)·sums over the same of the
/// totals, in the order of the keys.
void join_parts(const float* parts, std::int64_t count, std::int64_t part_stride,
                std::int64_t head_dim, float* out) {
  float most = -std::numeric_limits<float>::infinity();
  for (std::int64_t i = 0; i < count; ++i) most = std::max(most, parts[i * part_stride + head_dim]);
  float total = 0;
  std::fill(out, out + head_dim, 0.0F);
  for (std::int64_t i = 0; i < count; ++i) {
    const float* part = parts + i * part_stride;
    if (part[head_dim + 1] == 0.0F) continue;  // saw nothing
    const float factor = std::exp(part[head_dim] - most);
    total += part[head_dim + 1] * factor;
    for (std::int64_t d = 0; d < head_dim; ++d) out[d] += part[d] * factor;
  }
  const float inverse = total == 0.0F ? 0.0F : 1.0F / total;
  for (std::int64_t d = 0; d < head_dim; ++d) out[d] *= inverse;
}

void attend_in_parts(const AttentionArgs& a, const Cut& cut, ThreadPool& pool) {
  const auto kernel = block_kernel();
  const std::int64_t rows = a.q.rows * cut.group;
  const std::int64_t row_floats = a.head_dim + 2;
  const std::int64_t part_floats = rows * row_floats;  // of one kv head
  Buffer parts(static_cast<std::size_t>(a.kv_heads * cut.parts * part_floats) * sizeof(float));
  float* all = parts.as<float>();
  pool.parallel_dynamic(a.kv_heads * cut.parts, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      Block b = make_block(a, cut, i / cut.parts, 0);
      const std::int64_t from = (cut.first_part + i % cut.parts) * kKeysPerPart;
      b.key_begin = std::max(b.key_begin, from);
      b.key_end = std::min(b.key_end, from + kKeysPerPart);
      b.out = nullptr;
      b.part = all + i * part_floats;
      b.scratch = thread_scratch(attention_kernels::scratch_floats(rows, a.head_dim));
      kernel(b);
    }
  });
  for (std::int64_t t = 0; t < a.q.rows; ++t) {
    for (std::int64_t h = 0; h < a.heads; ++h) {
      const float* part = all + h / cut.group * cut.parts * part_floats +
                          (t * cut.group + h % cut.group) * row_floats;
      join_parts(part, cut.parts, part_floats, a.head_dim, a.out.row<float>(t) + h * a.head_dim);
    }
  }
}

}  // namespace

void attention(const AttentionArgs& a, ThreadPool& pool) {
  check(a);
  if (a.q.rows == 0) return;
  const Cut cut(a);
  if (cut.parts > 1 && cut.token_blocks == 1) {
    attend_in_parts(a, cut, pool);
    return;
  }
  const auto kernel = block_kernel();
  const std::size_t scratch =
      attention_kernels::scratch_floats(cut.tokens_per_item * cut.group, a.head_dim);
  // Later tokens see more keys: the longest items go first, so that the threads end together.
  pool.parallel_dynamic(
      a.kv_heads * cut.token_blocks, 1, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
          Block b = make_block(a, cut, i % a.kv_heads, cut.token_blocks - 1 - i / a.kv_heads);
          b.scratch = thread_scratch(scratch);
          kernel(b);
        }
      });
}

}  // namespace rarefy
