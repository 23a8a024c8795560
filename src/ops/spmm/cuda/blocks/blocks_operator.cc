#include "ops/spmm/cuda/blocks/blocks_operator.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <span>

#include "cuda/device_text.h"

namespace rarefy::gpu {
namespace {

constexpr unsigned kExpandThreads = 128;
/// Lists are made beforehand for 1, 2, 4… tiles of tokens: a graph that records a number of them
/// that never ran before is made of these.
constexpr std::int64_t kMostTiles = 16;
constexpr std::size_t kPlaceBytes = 2 * sizeof(std::int32_t);

/// Row and column of each block, counted in blocks.
std::vector<std::int32_t> places_of(const CutBlocks& blocks) {
  std::vector<std::int32_t> places;
  places.reserve(2 * blocks.col_indices.size());
  for (std::size_t row = 0; row + 1 < blocks.row_offsets.size(); ++row) {
    for (std::int32_t b = blocks.row_offsets[row]; b < blocks.row_offsets[row + 1]; ++b) {
      places.push_back(static_cast<std::int32_t>(row));
      places.push_back(blocks.col_indices[static_cast<std::size_t>(b)]);
    }
  }
  return places;
}

}  // namespace

cuda::Source expand_blocks_source(int block_rows, int block_cols) {
  return {.name = fmt::format("blocks.expand.{}x{}", block_rows, block_cols),
          .text = std::string(cuda::device_text("ops/spmm/cuda/blocks/expand_blocks.cu")),
          .defines = {fmt::format("BLOCK_ROWS={}", block_rows),
                      fmt::format("BLOCK_COLUMNS={}", block_cols),
                      fmt::format("THREADS={}", kExpandThreads)}};
}

BlocksOperator::BlocksOperator(const BlockProblem& problem, const BlockConfig& config,
                               const CutBlocks& blocks, const cuda::Stream& stream)
    : problem_(problem),
      tile_(config.tokens),
      home_(cuda::Stream::borrow(stream.device(), stream.handle())),
      products_(std::make_shared<const BlockProducts>(problem, config, blocks.pattern(), stream)) {
  products_->prepare(home_, problem.tokens);
  for (std::int64_t tiles = 1; tiles <= kMostTiles; tiles *= 2)
    products_->prepare(home_, tiles * tile_);
  if (blocks.blocks() == 0) return;
  values_ = cuda::upload(stream, std::span<const std::byte>(blocks.values));
  const std::vector<std::int32_t> places = places_of(blocks);
  places_ = cuda::upload(stream, std::span<const std::int32_t>(places));
}

BlocksOperator::BlocksOperator(const BlocksOperator& from, const cuda::Stream& stream)
    : problem_(from.problem_),
      tile_(from.tile_),
      home_(cuda::Stream::borrow(stream.device(), stream.handle())),
      products_(from.products_),
      expand_(from.expand_) {
  if (from.values_.size() == 0) return;
  values_ = cuda::copy_on_device(stream, from.values_);
  places_ = cuda::copy_on_device(stream, from.places_);
}

void BlocksOperator::enqueue(const cuda::Stream& stream, const Operands& o) const {
  if (!products_->is_ready_for(o.n)) {
    if (stream.recording()) return enqueue_in_parts(stream, o);
    products_->prepare(home_, o.n);
  }
  products_->enqueue(stream, {.values = values_.address(),
                              .b = o.b,
                              .b_stride = o.b_stride,
                              .c = o.c,
                              .c_stride = o.c_stride,
                              .bias = o.bias,
                              .residual = o.residual,
                              .residual_stride = o.residual_stride,
                              .tokens = o.n});
}

void BlocksOperator::enqueue_in_parts(const cuda::Stream& stream, const Operands& o) const {
  for (std::int64_t first = 0; first < o.n;) {
    const auto tiles = static_cast<std::uint64_t>((o.n - first + tile_ - 1) / tile_);
    const std::int64_t at_once =
        std::min(static_cast<std::int64_t>(std::bit_floor(tiles)), kMostTiles) * tile_;
    const std::int64_t count = std::min(at_once, o.n - first);
    enqueue(stream, o.part(problem_.dtype, problem_.dtype, first, count));
    first += count;
  }
}

std::size_t BlocksOperator::bytes() const {
  return values_.size() + places_.size() + products_->bytes();
}

void BlocksOperator::expand(const cuda::Stream& stream, cuda::abi::CUdeviceptr dense) const {
  cuda::fill_bytes(
      stream, dense, 0,
      static_cast<std::size_t>(problem_.rows * problem_.cols) * size_of(problem_.dtype));
  expand_over(stream, dense);
}

void BlocksOperator::expand_over(const cuda::Stream& stream, cuda::abi::CUdeviceptr dense) const {
  if (places_.size() == 0) return;
  if (!expand_)
    expand_ = cuda::Kernel(stream.device(),
                           expand_blocks_source(problem_.block_rows, problem_.block_cols),
                           "expand_blocks");
  constexpr std::int64_t kVector = 8;
  expand_.launch(stream,
                 {.grid = {static_cast<unsigned>(places_.size() / kPlaceBytes), 1, 1},
                  .threads = kExpandThreads},
                 values_.address(), places_.address(), dense,
                 static_cast<long long>(problem_.cols / kVector));
}

std::unique_ptr<Operator> BlocksOperator::copy(const cuda::Stream& stream) const {
  return std::make_unique<BlocksOperator>(*this, stream);
}

}  // namespace rarefy::gpu
