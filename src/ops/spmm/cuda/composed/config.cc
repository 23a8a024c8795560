#include "ops/spmm/cuda/composed/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "cuda/device_text.h"
#include "ops/spmm/cuda/epilogue.h"

namespace rarefy::gpu {
namespace {

/// The first KiB of a block's shared memory belongs to the driver.
constexpr std::size_t kReservedShared = 1024;
/// Fewer registers than this make the kernel spill, whatever the configuration.
constexpr int kLeastRegisters = 32;

/// Whether a multiprocessor has room for so many blocks of so much shared memory.
bool fits(std::size_t shared, int blocks, const cuda::DeviceFacts& device) {
  return shared <= device.shared_per_block &&
         (shared + kReservedShared) * static_cast<std::size_t>(blocks) <=
             device.shared_per_multiprocessor;
}

}  // namespace

std::string ComposedConfig::name() const {
  return fmt::format("composed.{}{}.g{}.v{}.u{}.n{}x{}.t{}x{}.{}{}{}", delta() ? "delta" : "csr",
                     index_bits, group, vec, unroll, n_tile, n_lanes, threads, blocks,
                     even     ? "even"
                     : staged ? "staged"
                              : "cached",
                     any_order ? ".anyorder" : "",
                     baked ? (item_vectors > 0 ? ".alike" : ".baked") : "");
}

DType ComposedConfig::staged_type(const Problem& problem) const {
  return n_tile == 1 ? DType::kF32 : problem.activations;
}

cuda::Source ComposedConfig::source(const Problem& problem) const {
  cuda::Source source{
      .name = name() + epilogue_name(problem),
      .text = std::string(cuda::device_text(even ? "ops/spmm/cuda/composed/even.cu"
                                                 : "ops/spmm/cuda/composed/composed.cu")),
      .defines = epilogue_defines(problem),
      .local_bytes = 16};
  const auto define = [&](const char* name, auto value) {
    source.defines.push_back(fmt::format("{}={}", name, value));
  };
  define("VALUE", cuda::device_type(problem.weight));
  define("INDEX", index_bits == 32 ? "u32" : "u16");
  define("DELTA", delta() ? 1 : 0);
  define("B_TYPE", cuda::device_type(problem.activations));
  define("STAGED_TYPE", cuda::device_type(staged_type(problem)));
  define("C_TYPE", cuda::device_type(problem.output));
  define("N_TILE", n_tile);
  define("GROUP", group);
  define("VEC", vec);
  define("UNROLL", unroll);
  define("THREADS", threads);
  define("BLOCKS", blocks);
  define("SWIZZLED", swizzled(problem));
  if (even) return source;
  define("N_LANES", n_lanes);
  define("STAGED", staged);
  define("ANY_ORDER", any_order);
  define("BAKED_K", baked ? problem.k : 0);
  define("BAKED_ITEMS", baked && whole_rows ? problem.m : 0);
  define("ITEM_VECTORS", item_vectors);
  return source;
}

cuda::Source ComposedConfig::expand_source(const Problem& problem) const {
  // 16 KB of a row at a time: eight blocks a multiprocessor.
  const std::size_t window = (std::size_t{16} << 10) / size_of(problem.weight);
  const bool swizzles = swizzled(problem);
  return {
      .name = fmt::format("composed.expand.{}{}.v{}{}", delta() ? "delta" : "csr", index_bits, vec,
                          swizzles ? ".swizzled" : ""),
      .text = std::string(cuda::device_text("ops/spmm/cuda/composed/expand.cu")),
      .defines = {fmt::format("VALUE={}", cuda::device_type(problem.weight)),
                  fmt::format("INDEX={}", index_bits == 32 ? "u32" : "u16"),
                  fmt::format("DELTA={}", delta() ? 1 : 0), fmt::format("VEC={}", vec),
                  fmt::format("SWIZZLED={}", swizzles ? 1 : 0), fmt::format("WINDOW={}", window)}};
}

bool ComposedConfig::swizzled(const Problem& problem) const {
  constexpr std::size_t kConflictBytes = 8;
  const auto per_lane = static_cast<std::size_t>(n_tile / n_lanes);
  return staged && per_lane * size_of(staged_type(problem)) >= kConflictBytes;
}

std::size_t ComposedConfig::shared_bytes(const Problem& problem) const {
  std::size_t bytes = 0;
  if (group * n_lanes > 32)
    bytes += static_cast<std::size_t>(threads * (n_tile / n_lanes)) * sizeof(float);
  if (staged) {
    const std::int64_t places = (problem.k + 7) / 8 * 8;  // The swizzle moves rows within eight.
    bytes += static_cast<std::size_t>(places * n_tile) * size_of(staged_type(problem));
  }
  return bytes;
}

std::size_t ComposedConfig::shared_bytes(const Problem& problem, const EvenShare& share) const {
  constexpr std::int64_t kRowBytes = 12;
  return shared_bytes(problem) +
         static_cast<std::size_t>(share.vectors / group * n_tile) * sizeof(float) +
         static_cast<std::size_t>(share.rows * kRowBytes);
}

Support ComposedConfig::holds(const Problem& problem, const EvenShare& share,
                              const cuda::DeviceFacts& device) const {
  const std::size_t bytes = shared_bytes(problem, share);
  if (fits(bytes, blocks, device)) return Support::yes();
  return Support::no(fmt::format("sums of {} segments and {} rows take {} bytes of shared memory",
                                 share.vectors / group, share.rows, bytes));
}

Support ComposedConfig::legal(const Problem& problem, const cuda::DeviceFacts& device) const {
  if (index_bits != 32 && problem.k > 65536)
    return Support::no(fmt::format("16-bit columns need K <= 65536, got {}", problem.k));
  if (delta() && vec != 8) return Support::no("a delta vector has eight nonzeros");
  if (vec * static_cast<int>(size_of(problem.weight)) > 16)
    return Support::no("more than 16 bytes of values a load");
  if (even && (!staged || n_lanes != 1 || group > 32 || n_tile > 8))
    return Support::no("nonzeros are shared evenly in a warp, with B in shared memory");
  if (n_tile % n_lanes != 0 || threads % (group * n_lanes) != 0)
    return Support::no("groups do not fill a block");
  if (threads * blocks > device.threads_per_multiprocessor)
    return Support::no("more threads than a multiprocessor holds");
  if (device.registers_per_multiprocessor / (threads * blocks) < kLeastRegisters)
    return Support::no("too few registers a thread");
  const std::size_t shared = shared_bytes(problem);
  if (!fits(shared, blocks, device))
    return Support::no(fmt::format("{} bytes of shared memory a block", shared));
  return Support::yes();
}

RowStats row_stats(const PatternStats& pattern) {
  RowStats stats;
  if (!pattern.row_nnz.empty()) stats.shortest = pattern.row_nnz.front();
  for (std::int32_t n : pattern.row_nnz) {
    stats.shortest = std::min<std::int64_t>(stats.shortest, n);
    stats.longest = std::max<std::int64_t>(stats.longest, n);
  }
  stats.mean =
      pattern.rows > 0 ? static_cast<double>(pattern.nnz) / static_cast<double>(pattern.rows) : 0.0;
  return stats;
}

std::int64_t longest_item(const ComposedConfig& config, const RowStats& rows) {
  // Whole batches, and so many deviations that few rows of a uniform pattern are longer.
  constexpr double kDeviations = 3.5;
  const auto batch = static_cast<std::int64_t>(config.group * config.vec * config.unroll);
  const auto wanted = static_cast<std::int64_t>(rows.mean + kDeviations * std::sqrt(rows.mean)) + 1;
  return (wanted + batch - 1) / batch * batch;
}

int neighbours(const ComposedConfig& config) {
  constexpr int kMost = 8;
  return std::clamp(32 / (config.group * config.n_lanes), 1, kMost);
}

int even_blocks(const ComposedConfig& config, const cuda::DeviceFacts& device) {
  return std::max(1, device.multiprocessors * config.blocks);
}

EvenShare even_share(const ComposedConfig& config, const Problem& problem, const RowStats& rows,
                     const cuda::DeviceFacts& device) {
  // The last vector of a row is half full, and so is its last segment.
  const auto vectors_of = [&](double nonzeros) {
    return stored_nonzeros(config, nonzeros, rows, problem.k) / config.vec + 0.5 * config.group;
  };
  const double share = static_cast<double>(problem.m) / even_blocks(config, device);
  const double vectors =
      std::max(share * vectors_of(rows.mean), vectors_of(static_cast<double>(rows.longest)));
  return {.vectors = static_cast<std::int64_t>(std::ceil(vectors)),
          .rows = static_cast<std::int64_t>(std::ceil(share))};
}

double stored_nonzeros(const ComposedConfig& config, double nonzeros, const RowStats& rows,
                       std::int64_t k) {
  const double density =
      std::clamp(rows.mean / std::max<double>(1, static_cast<double>(k)), 1e-6, 1.0);
  return config.delta() ? nonzeros * (1 + 0.875 * std::pow(1 - density, 63)) : nonzeros;
}

int alike_vectors(const ComposedConfig& config, const RowStats& rows) {
  if (config.delta() || rows.longest > longest_item(config, rows)) return 0;
  const std::int64_t most = (rows.longest + config.vec - 1) / config.vec;
  const std::int64_t least = (rows.shortest + config.vec - 1) / config.vec;
  return most == least ? static_cast<int>(most) : 0;
}

}  // namespace rarefy::gpu
