#include "ops/decoder/cuda/kernels.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "base/check.h"
#include "cuda/device_text.h"
#include "ops/spmm/cuda/epilogue.h"

namespace rarefy::gpu {
namespace {

constexpr unsigned kRopeWarps = 4;
constexpr unsigned kSwigluThreads = 128;
constexpr unsigned kArgmaxThreads = 1024;
constexpr unsigned kDecodeThreads = 256;
constexpr std::int64_t kPrefillTile = 64;  ///< Queries, and keys, of either kernel.
/// Query heads that share keys in one block: more would not fit in its registers.
constexpr std::int64_t kMostGrouped = 8;
constexpr std::int64_t kMostSplits = 64;

unsigned blocks(std::int64_t items, std::int64_t per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

/// Threads for a row of `width` in fours: whole warps, at most 1024.
unsigned row_threads(std::int64_t width) {
  return static_cast<unsigned>(std::clamp<std::int64_t>((width / 4 + 31) / 32 * 32, 32, 1024));
}

/// The largest divisor of the query heads of a kv head that one block can hold.
std::int64_t group_of(const DecoderShape& shape) {
  const std::int64_t ratio = shape.heads / shape.kv_heads;
  // Each query of a wide head takes twice the registers.
  std::int64_t group = std::min(ratio, shape.head_dim > 128 ? kMostGrouped / 2 : kMostGrouped);
  while (ratio % group != 0) --group;
  return group;
}

/// Whether prefill_mma.cu takes these heads; if not, prefill.cu does.
bool prefill_on_tensor_cores(const DecoderShape& shape, DType dtype, DType kv) {
  constexpr std::int64_t kWidest = 128;
  return size_of(dtype) == 2 && kv == dtype && shape.head_dim % 16 == 0 &&
         shape.head_dim <= kWidest;
}

unsigned prefill_threads(const DecoderShape& shape, DType dtype, DType kv) {
  return prefill_on_tensor_cores(shape, dtype, kv) ? 128 : 256;
}

/// Bytes of `Shared` in prefill_mma.cu or prefill.cu.
std::size_t prefill_shared(const DecoderShape& shape, DType dtype, DType kv) {
  const std::int64_t head_dim = shape.head_dim;
  if (prefill_on_tensor_cores(shape, dtype, kv))
    return static_cast<std::size_t>(4 * kPrefillTile * (head_dim + 8)) * 2;
  return static_cast<std::size_t>(2 * 16 * (64 + 4) + 64 * 65 + 64 * ((head_dim + 3) / 4 * 4)) *
         sizeof(float);
}

std::string text_of(const char* file) {
  return std::string(cuda::device_text(file));
}

cuda::Source embedding_source(const DecoderShape& shape, DType dtype) {
  return {.name = fmt::format("embedding.{}.{}", shape.hidden, to_string(dtype)),
          .text = text_of("ops/embedding/cuda/embedding.cu"),
          .defines = {fmt::format("WIDTH={}", shape.hidden),
                      fmt::format("THREADS={}", row_threads(shape.hidden)),
                      fmt::format("X={}", cuda::device_type(dtype))}};
}

cuda::Source add_norm_source(const DecoderShape& shape, DType dtype) {
  return {.name = fmt::format("add_norm.{}.{}", shape.hidden, to_string(dtype)),
          .text = text_of("ops/norm/cuda/add_norm.cu"),
          .defines = {fmt::format("WIDTH={}", shape.hidden),
                      fmt::format("THREADS={}", row_threads(shape.hidden)),
                      fmt::format("X={}", cuda::device_type(dtype))}};
}

cuda::Source swiglu_source(const DecoderShape& shape, DType dtype) {
  return {.name = fmt::format("swiglu.{}.{}", shape.ffn, to_string(dtype)),
          .text = text_of("ops/activation/cuda/swiglu.cu"),
          .defines = {fmt::format("WIDTH={}", shape.ffn), fmt::format("THREADS={}", kSwigluThreads),
                      fmt::format("X={}", cuda::device_type(dtype))}};
}

cuda::Source argmax_source() {
  return {.name = "argmax",
          .text = text_of("ops/sampling/cuda/argmax.cu"),
          .defines = {fmt::format("THREADS={}", kArgmaxThreads)}};
}

/// `file` with what the three kernels around the cache share.
cuda::Source cache_source(const char* what, const char* file, const DecoderShape& shape,
                          DType dtype, DType kv) {
  return {
      .name = fmt::format("{}.{}x{}x{}{}.{}.{}", what, shape.heads, shape.kv_heads, shape.head_dim,
                          shape.head_norm ? ".norm" : "", to_string(dtype), to_string(kv)),
      .text = text_of(file),
      .defines = {fmt::format("HEADS={}", shape.heads), fmt::format("KV_HEADS={}", shape.kv_heads),
                  fmt::format("HEAD_DIM={}", shape.head_dim),
                  fmt::format("X={}", cuda::device_type(dtype)),
                  fmt::format("KV={}", cuda::device_type(kv))}};
}

cuda::Source rope_source(const DecoderShape& shape, DType dtype, DType kv) {
  cuda::Source source = cache_source("rope_store", "ops/rope/cuda/rope_store.cu", shape, dtype, kv);
  source.defines.push_back(fmt::format("WARPS={}", kRopeWarps));
  source.defines.push_back(fmt::format("HEAD_NORM={}", shape.head_norm ? 1 : 0));
  return source;
}

cuda::Source prefill_source(const DecoderShape& shape, DType dtype, DType kv) {
  return cache_source("attend_prefill",
                      prefill_on_tensor_cores(shape, dtype, kv)
                          ? "ops/attention/cuda/prefill_mma.cu"
                          : "ops/attention/cuda/prefill.cu",
                      shape, dtype, kv);
}

cuda::Source decode_source(const DecoderShape& shape, DType dtype, DType kv) {
  cuda::Source source =
      cache_source("attend_decode", "ops/attention/cuda/decode.cu", shape, dtype, kv);
  source.defines.push_back(fmt::format("GROUP={}", group_of(shape)));
  source.defines.push_back(fmt::format("MOST_SPLITS={}", kMostSplits));
  source.defines.push_back(fmt::format("HEAD_NORM={}", shape.head_norm ? 1 : 0));
  return source;
}

void check_shape(const DecoderShape& s) {
  const auto refuse = [](const char* what, const char* expected, std::int64_t found) {
    fail(ErrorKind::kUnsupported, "GPU: {}: expected {}, got {}", what, expected, found);
  };
  if (s.hidden % 8 != 0) refuse("hidden size", "a multiple of 8", s.hidden);
  if (s.ffn % 8 != 0) refuse("intermediate size", "a multiple of 8", s.ffn);
  if (s.head_dim % 2 != 0 || s.head_dim > 256)
    refuse("head_dim", "an even number up to 256", s.head_dim);
  if (s.kv_heads <= 0 || s.heads % s.kv_heads != 0)
    refuse("kv heads", "a divisor of the heads", s.kv_heads);
}

}  // namespace

DecoderKernels::DecoderKernels(const cuda::Device& device, const DecoderShape& shape, DType dtype)
    : device_(device), shape_(shape), dtype_(dtype) {
  check_shape(shape);
  embedding_ = cuda::Kernel(device, embedding_source(shape, dtype), "embedding");
  add_norm_ = cuda::Kernel(device, add_norm_source(shape, dtype), "add_norm");
  swiglu_ = cuda::Kernel(device, swiglu_source(shape, dtype), "swiglu");
  argmax_ = cuda::Kernel(device, argmax_source(), "argmax");
}

const DecoderKernels::ForCache& DecoderKernels::for_cache(DType kv) {
  const auto found = for_cache_.find(kv);
  if (found != for_cache_.end()) return found->second;
  ForCache made;
  made.rope_store = cuda::Kernel(device_, rope_source(shape_, dtype_, kv), "rope_store");
  made.prefill = cuda::Kernel(device_, prefill_source(shape_, dtype_, kv), "attend_prefill");
  made.prefill.allow_shared(prefill_shared(shape_, dtype_, kv));
  made.decode = cuda::Kernel(device_, decode_source(shape_, dtype_, kv), "attend_decode");
  return for_cache_.emplace(kv, std::move(made)).first->second;
}

int DecoderKernels::window(int layer) const {
  return layer >= shape_.window_first_layer ? static_cast<int>(shape_.window) : 0;
}

std::int64_t DecoderKernels::groups() const {
  return shape_.heads / group_of(shape_);
}

cuda::Launch DecoderKernels::shaped(cuda::Grid grid, unsigned threads,
                                    std::size_t shared_bytes) const {
  return {.grid = grid,
          .threads = threads,
          .shared_bytes = shared_bytes,
          .overlaps_previous = device_.overlaps_kernels()};
}

void DecoderKernels::embedding(const cuda::Stream& stream, Address table, Address places,
                               Address hidden, std::int64_t rows) const {
  embedding_.launch(stream, shaped({static_cast<unsigned>(rows)}, row_threads(shape_.hidden)),
                    table, places, hidden);
}

void DecoderKernels::add_norm(const cuda::Stream& stream, Address hidden, Address delta,
                              Address bias, Address weight, Address normed,
                              std::int64_t rows) const {
  add_norm_.launch(stream, shaped({static_cast<unsigned>(rows)}, row_threads(shape_.hidden)),
                   hidden, delta, bias, weight, shape_.eps, normed);
}

void DecoderKernels::rope_store(const cuda::Stream& stream, const Attention& at, const Rope& rope) {
  const unsigned heads = blocks(shape_.heads + 2 * shape_.kv_heads, kRopeWarps);
  for_cache(at.kv).rope_store.launch(
      stream, shaped({heads, static_cast<unsigned>(at.rows)}, kRopeWarps * 32), at.qkv, rope.bias,
      rope.q_norm, rope.k_norm, shape_.eps, rope.cosine, rope.sine, at.places, at.layer);
}

void DecoderKernels::attend_prefill(const cuda::Stream& stream, const Attention& at, Address out) {
  const auto q_stride =
      static_cast<long long>((shape_.heads + 2 * shape_.kv_heads) * shape_.head_dim);
  for_cache(at.kv).prefill.launch(
      stream,
      shaped({blocks(at.rows, kPrefillTile), static_cast<unsigned>(shape_.heads)},
             prefill_threads(shape_, dtype_, at.kv), prefill_shared(shape_, dtype_, at.kv)),
      at.qkv, q_stride, at.places, at.layer, static_cast<int>(at.rows), window(at.layer),
      1.0F / std::sqrt(static_cast<float>(shape_.head_dim)), out);
}

std::int64_t DecoderKernels::splits(std::int64_t rows) const {
  // Four blocks for each multiprocessor keep its loads in flight.
  const std::int64_t others = rows * groups();
  return std::clamp<std::int64_t>((4 * device_.facts().multiprocessors + others - 1) / others, 1,
                                  kMostSplits);
}

std::size_t DecoderKernels::decode_scratch(std::int64_t rows) const {
  const std::int64_t parts = rows * shape_.heads * splits(rows);
  return static_cast<std::size_t>(parts * (shape_.head_dim + 2) + rows * groups()) * sizeof(float);
}

void DecoderKernels::attend_decode(const cuda::Stream& stream, const Attention& at,
                                   const Rope& rope, Address scratch, Address out) {
  const std::int64_t count = splits(at.rows);
  const auto parts = static_cast<Address>(at.rows * shape_.heads * count);
  const Address stats = scratch + parts * static_cast<Address>(shape_.head_dim) * sizeof(float);
  const Address arrived = stats + parts * 2 * sizeof(float);
  for_cache(at.kv).decode.launch(
      stream,
      shaped({static_cast<unsigned>(groups()), static_cast<unsigned>(count),
              static_cast<unsigned>(at.rows)},
             kDecodeThreads),
      at.qkv, rope.bias, rope.q_norm, rope.k_norm, shape_.eps, rope.cosine, rope.sine, at.places,
      at.layer, window(at.layer), 1.0F / std::sqrt(static_cast<float>(shape_.head_dim)), scratch,
      stats, arrived, out);
}

void DecoderKernels::swiglu(const cuda::Stream& stream, Address both, Address bias, Address y,
                            std::int64_t rows) const {
  swiglu_.launch(
      stream,
      shaped({blocks(shape_.ffn, std::int64_t{kSwigluThreads} * 4), static_cast<unsigned>(rows)},
             kSwigluThreads),
      both, bias, y);
}

void DecoderKernels::argmax(const cuda::Stream& stream, Address logits, Address ids,
                            std::int64_t rows) const {
  argmax_.launch(stream, {.grid = {static_cast<unsigned>(rows)}, .threads = kArgmaxThreads}, logits,
                 static_cast<int>(shape_.vocab), ids);
}

std::vector<cuda::Source> decoder_kernel_sources() {
  const auto shape = [](std::int64_t hidden, std::int64_t ffn, std::int64_t heads,
                        std::int64_t kv_heads, std::int64_t head_dim, bool head_norm) {
    DecoderShape s;
    s.hidden = hidden;
    s.ffn = ffn;
    s.heads = heads;
    s.kv_heads = kv_heads;
    s.head_dim = head_dim;
    s.head_norm = head_norm;
    return s;
  };
  const DecoderShape shapes[] = {
      shape(192, 512, 3, 1, 64, false),        // tiny-lm
      shape(4096, 11008, 32, 32, 128, false),  // Llama 2 7B
      shape(4096, 14336, 32, 8, 128, true),    // Llama 3 8B, Qwen3 8B
      shape(3584, 18944, 28, 4, 128, false),   // Qwen2 7B: groups of 7
      shape(8192, 28672, 64, 8, 80, false),    // A head that is no power of two
      shape(32, 40, 4, 2, 10, false),          // A head without pieces of 16 bytes
      shape(32, 48, 4, 2, 8, false),           // One piece of 16 bytes a head
      shape(5120, 13824, 32, 2, 256, false),   // The widest head, the largest group
  };
  constexpr DType kDtypes[] = {DType::kF32, DType::kF16, DType::kBF16};
  std::vector<cuda::Source> all{argmax_source()};
  for (const DecoderShape& s : shapes) {
    for (const DType dtype : kDtypes) {
      all.push_back(embedding_source(s, dtype));
      all.push_back(add_norm_source(s, dtype));
      all.push_back(swiglu_source(s, dtype));
      for (const DType kv : {dtype, DType::kF32}) {
        all.push_back(rope_source(s, dtype, kv));
        all.push_back(prefill_source(s, dtype, kv));
        all.push_back(decode_source(s, dtype, kv));
      }
    }
  }
  std::set<std::string> seen;
  std::erase_if(all, [&](const cuda::Source& s) { return !seen.insert(s.name).second; });
  return all;
}

}  // namespace rarefy::gpu
