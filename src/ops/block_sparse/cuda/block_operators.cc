#include "ops/block_sparse/cuda/block_operators.h"

#include <span>

#include "base/check.h"
#include "cuda/tensor_map.h"

namespace rarefy::gpu {
namespace {

template <class T>
cuda::DeviceBuffer upload_all(const cuda::Stream& stream, const std::vector<T>& values) {
  if (values.empty()) return cuda::DeviceBuffer(stream, sizeof(T));
  return cuda::upload(stream, std::span<const T>(values));
}

void require_rows(const char* op, const char* name, cuda::abi::CUdeviceptr address,
                  std::int64_t stride, std::int64_t columns, unsigned bytes) {
  require(address != 0, "{}: {}: address is null", op, name);
  require(stride >= columns, "{}: {}: expected a row stride of at least {}, got {}", op, name,
          columns, stride);
  require(
      address % bytes == 0 && stride * 2 % bytes == 0,
      "{}: {}: expected rows at multiples of {} bytes, got address {:#x} and a row stride of {} "
      "bytes",
      op, name, bytes, address, stride * 2);
}

constexpr unsigned kRowBytes = 16, kPairBytes = 4;  // What copies, and stores, move at once.

/// A matrix of the copy engine; one element where there is nothing to copy.
cuda::TensorMap map_of(cuda::abi::CUdeviceptr address, std::int64_t rows, std::int64_t columns,
                       std::int64_t stride, int box_rows, int box_columns) {
  return cuda::map_rows({.address = address, .rows = rows, .columns = columns, .stride = stride},
                        box_rows, box_columns);
}

}  // namespace

BlockProducts::BlockProducts(const BlockProblem& problem, const BlockConfig& config,
                             const BlockPattern& pattern, const cuda::Stream& stream)
    : problem_(problem), config_(config), blocks_(pattern.blocks()) {
  BlockColumns columns;
  BlockPattern both_ways = pattern;
  if (problem.transposed() && pattern.col_offsets.empty()) {
    columns = block_columns(pattern);
    both_ways.col_offsets = columns.offsets;
    both_ways.row_indices = columns.row_indices;
    both_ways.order = columns.order;
  }
  steps_ = make_steps(both_ways, config.steps(problem));
  kernel_ = cuda::Kernel(stream.device(), config.source(problem), config.kernel(problem));
  kernel_.allow_shared(static_cast<std::size_t>(config.shared_bytes(problem)));
  step_list_ = upload_all(stream, steps_.steps);
  step_begin_ = upload_all(stream, steps_.step_begin);
  pieces_ = upload_all(stream, steps_.pieces);
  strips_ = upload_all(stream, steps_.strips);
  stream.synchronize();
  if (config.way != BlockWay::kMma) workers_ = stream.device().facts().multiprocessors;
  steps_ = {.costs = std::move(steps_.costs)};
}

const BlockProducts::Lists& BlockProducts::lists_for(const cuda::Stream& stream,
                                                     std::int64_t tokens) const {
  const std::int64_t count = tiles(tokens);
  const auto known = lists_.find(count);
  if (known != lists_.end()) return known->second;
  const TileLists lists = hand_out_tiles(steps_, count, workers_);
  Lists made{upload_all(stream, lists.tiles), upload_all(stream, lists.begin)};
  stream.synchronize();
  return lists_.emplace(count, std::move(made)).first->second;
}

void BlockProducts::prepare(const cuda::Stream& stream, std::int64_t tokens) const {
  if (tokens > 0) lists_for(stream, tokens);
}

void BlockProducts::enqueue(const cuda::Stream& stream, const BlockProductOperands& o) const {
  const char* op = problem_.transposed() ? "block_linear_transposed" : "block_linear";
  const std::int64_t outputs = problem_.transposed() ? problem_.cols : problem_.rows;
  const std::int64_t inputs = problem_.transposed() ? problem_.rows : problem_.cols;
  require(o.tokens >= 0 && o.tokens < (std::int64_t{1} << 31) - config_.tokens,
          "{}: expected 0 to 2^31 tokens, got {}", op, o.tokens);
  if (o.tokens == 0 || outputs == 0) return;
  require_rows(op, "b", o.b, o.b_stride, inputs, kRowBytes);
  require_rows(op, "c", o.c, o.c_stride, outputs, kPairBytes);
  require(blocks_ == 0 || (o.values != 0 && o.values % kRowBytes == 0),
          "{}: values: expected an address at a multiple of 16 bytes, got {:#x}", op, o.values);
  require(!problem_.bias || o.bias != 0, "{}: bias: address is null", op);
  if (problem_.residual)
    require_rows(op, "residual", o.residual, o.residual_stride, outputs, kPairBytes);
  const Lists& lists = lists_for(stream, o.tokens);
  const int tokens = static_cast<int>(o.tokens);
  cuda::Launch how{.threads = config_.threads(),
                   .shared_bytes = static_cast<std::size_t>(config_.shared_bytes(problem_))};
  if (config_.way == BlockWay::kMma) {
    how.grid.x = static_cast<unsigned>(lists.tiles.size() / sizeof(Tile));
    kernel_.launch(stream, how, o.values, o.b, o.b_stride, static_cast<int>(inputs),
                   step_list_.address(), step_begin_.address(), pieces_.address(),
                   strips_.address(), lists.tiles.address(), o.c, o.c_stride, o.bias, o.residual,
                   o.residual_stride, tokens);
    return;
  }
  const PieceShape piece = problem_.piece();
  how.grid.x = static_cast<unsigned>(workers_);
  const cuda::TensorMap x_map = map_of(o.b, o.tokens, inputs, o.b_stride, config_.tokens, kSlab);
  const cuda::TensorMap value_map =
      blocks_ == 0 ? x_map
                   : map_of(o.values, blocks_ * problem_.block_rows, problem_.block_cols,
                            problem_.block_cols, problem_.transposed() ? piece.in : piece.out,
                            problem_.transposed() ? piece.out : piece.in);
  kernel_.launch(stream, how, x_map, value_map, step_list_.address(), step_begin_.address(),
                 pieces_.address(), strips_.address(), lists.tiles.address(), lists.begin.address(),
                 o.c, o.c_stride, o.bias, o.residual, o.residual_stride, tokens);
}

std::size_t BlockProducts::bytes() const {
  return step_list_.size() + step_begin_.size() + pieces_.size() + strips_.size();
}

BlockSamples::BlockSamples(const BlockProblem& problem, const BlockConfig& config,
                           const BlockPattern& pattern, const cuda::Stream& stream)
    : problem_(problem), config_(config), blocks_(pattern.blocks()) {
  kernel_ = cuda::Kernel(stream.device(), config.source(problem), config.kernel(problem));
  kernel_.allow_shared(static_cast<std::size_t>(config.shared_bytes(problem)));
  const auto upload = [&](const auto& lists, const auto& pieces) {
    tasks_ = std::ssize(lists.tasks);
    task_list_ = upload_all(stream, lists.tasks);
    pieces_ = upload_all(stream, pieces);
    strips_ = upload_all(stream, lists.strips);
    stream.synchronize();
  };
  if (config.way == BlockWay::kMma) {
    const SampleTasks tasks = make_tasks(pattern, config.task);
    upload(tasks, tasks.pieces);
  } else {
    const SampleGrids grids =
        make_grids(pattern, config.grid(), stream.device().facts().multiprocessors);
    upload(grids, grids.places);
  }
}

void BlockSamples::enqueue(const cuda::Stream& stream, const BlockSampleOperands& o) const {
  constexpr const char* kOp = "block_sddmm";
  if (blocks_ == 0) return;
  require(o.out != 0 && o.out % kRowBytes == 0,
          "{}: out: expected an address at a multiple of 16 bytes, got {:#x}", kOp, o.out);
  require(o.tokens >= 0 && o.tokens < (std::int64_t{1} << 31) - 64,
          "{}: expected 0 to 2^31 tokens, got {}", kOp, o.tokens);
  const std::int64_t values = blocks_ * problem_.block_rows * problem_.block_cols;
  if (o.tokens == 0) {
    cuda::fill_bytes(stream, o.out, 0, static_cast<std::size_t>(values) * 2);
    return;
  }
  require_rows(kOp, "p", o.p, o.p_stride, problem_.rows, kRowBytes);
  require_rows(kOp, "q", o.q, o.q_stride, problem_.cols, kRowBytes);
  const int tokens = static_cast<int>(o.tokens);
  cuda::Launch how{.grid = {static_cast<unsigned>(tasks_), 1, 1},
                   .threads = config_.threads(),
                   .shared_bytes = static_cast<std::size_t>(config_.shared_bytes(problem_))};
  if (config_.way == BlockWay::kMma) {
    kernel_.launch(stream, how, o.p, o.p_stride, o.q, o.q_stride, task_list_.address(),
                   pieces_.address(), strips_.address(), o.out, tokens);
    return;
  }
  const cuda::TensorMap p_map =
      map_of(o.p, o.tokens, problem_.rows, o.p_stride, config_.stage_tokens, kSampleHeight);
  const cuda::TensorMap q_map =
      map_of(o.q, o.tokens, problem_.cols, o.q_stride, config_.stage_tokens, config_.strip);
  how.grid.x = static_cast<unsigned>(
      std::min<std::int64_t>(tasks_, stream.device().facts().multiprocessors));
  kernel_.launch(stream, how, p_map, q_map, task_list_.address(), static_cast<int>(tasks_),
                 pieces_.address(), strips_.address(), o.out, tokens);
}

std::size_t BlockSamples::bytes() const {
  return task_list_.size() + pieces_.size() + strips_.size();
}

}  // namespace rarefy::gpu
