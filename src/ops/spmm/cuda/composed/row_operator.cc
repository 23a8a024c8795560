#include "ops/spmm/cuda/composed/row_operator.h"

#include <algorithm>

#include "cuda/kernel.h"
#include "cuda/memory.h"
#include "ops/spmm/cuda/composed/pack.h"

namespace rarefy::gpu {
namespace {

/// Everything of the weight that lies on the device.
struct ComposedBuffers {
  cuda::DeviceBuffer begin, target, columns, values, rows, first, row_of_piece;

  [[nodiscard]] std::size_t bytes() const {
    return begin.size() + target.size() + columns.size() + values.size() + rows.size() +
           first.size() + row_of_piece.size();
  }
};

/// The kernel's argument of that name (pieces.cuh).
struct Pieces {
  cuda::abi::CUdeviceptr row_of_piece, rows, first, sums, arrived;
};

class RowOperator final : public Operator {
 public:
  RowOperator(const ComposedConfig& config, const Problem& problem, const Weight& weight,
              const cuda::Stream& stream)
      : config_(config), problem_(problem), device_(&stream.device()) {
    const auto& csr = dynamic_cast<const CsrMatrix&>(*weight.csr);
    const ComposedArrays arrays =
        pack_composed(csr, {.format = {.vec = config.vec,
                                       .index_bits = config.index_bits,
                                       .swizzled = config.swizzled(problem)},
                            .longest_item = longest_item(config, row_stats(*weight.pattern)),
                            .neighbours = neighbours(config),
                            .head = wants_heads() ? config.group * config.unroll : 0});
    items_ = arrays.items();
    heads_ = arrays.heads;
    cut_rows_ = static_cast<std::int64_t>(arrays.rows.size());
    pieces_ = arrays.first.empty() ? 0 : arrays.first.back();
    buffers_.begin = cuda::upload<std::uint32_t>(stream, arrays.begin);
    buffers_.target = cuda::upload<std::uint32_t>(stream, arrays.target);
    buffers_.columns = cuda::upload<std::byte>(stream, arrays.columns);
    buffers_.values = cuda::upload<std::byte>(stream, arrays.values);
    buffers_.rows = cuda::upload<std::uint32_t>(stream, arrays.rows);
    buffers_.first = cuda::upload<std::uint32_t>(stream, arrays.first);
    buffers_.row_of_piece = cuda::upload<std::uint32_t>(stream, arrays.row_of_piece);
    stream.synchronize();  // The arrays go away.
    const cuda::Cubin cubin = cuda::compile(config.source(problem), device_->facts().arch());
    kernel_ = cuda::Kernel(*device_, cubin, "spmm_composed");
    kernel_.allow_shared(config.shared_bytes(problem));
    reserve_scratch(stream, problem.n);
  }

  void enqueue(const cuda::Stream& stream, const Operands& o) const override {
    const std::int64_t tiles = (o.n + config_.n_tile - 1) / config_.n_tile;
    if (items_ == 0 || tiles == 0) return;
    reserve_scratch(stream, o.n);
    const std::int64_t groups = config_.threads / (config_.group * config_.n_lanes);
    const std::int64_t resident =
        std::max<std::int64_t>(1, device_->facts().multiprocessors * config_.blocks / tiles);
    const std::int64_t needed = (items_ + groups - 1) / groups;
    // With B in shared memory a block is worth keeping for many rounds.
    const std::int64_t blocks = config_.staged ? std::min(resident, needed) : needed;
    const Pieces pieces{.row_of_piece = buffers_.row_of_piece.address(),
                        .rows = buffers_.rows.address(),
                        .first = buffers_.first.address(),
                        .sums = sums_.address(),
                        .arrived = arrived_.address()};
    kernel_.launch(stream,
                   {.grid = {static_cast<unsigned>(blocks), static_cast<unsigned>(tiles)},
                    .threads = static_cast<unsigned>(config_.threads),
                    .shared_bytes = config_.shared_bytes(problem_),
                    .overlaps_previous = device_->overlaps_kernels()},
                   buffers_.begin.address(), buffers_.target.address(), buffers_.columns.address(),
                   buffers_.values.address(), o.b, static_cast<long long>(o.b_stride), o.c,
                   static_cast<long long>(o.c_stride), o.bias, o.residual,
                   static_cast<long long>(o.residual_stride), pieces, static_cast<int>(items_),
                   static_cast<int>(heads_), static_cast<int>(problem_.k), static_cast<int>(o.n));
  }

  [[nodiscard]] std::size_t bytes() const override {
    return buffers_.bytes() + sums_.size() + arrived_.size();
  }
  [[nodiscard]] std::int64_t tokens_a_pass() const override { return config_.n_tile; }
  [[nodiscard]] bool expands() const override { return true; }

  void expand(const cuda::Stream& stream, cuda::abi::CUdeviceptr dense) const override {
    if (items_ == 0 || problem_.k == 0) return;
    if (!expand_rows_) {
      const cuda::Cubin cubin =
          cuda::compile(config_.expand_source(problem_), device_->facts().arch());
      expand_rows_ = cuda::Kernel(*device_, cubin, "expand_rows");
      if (cut_rows_ > 0) expand_clear_ = cuda::Kernel(*device_, cubin, "expand_clear");
      if (cut_rows_ > 0) expand_pieces_ = cuda::Kernel(*device_, cubin, "expand_pieces");
    }
    const auto launch = [](std::int64_t blocks) {
      return cuda::Launch{.grid = {static_cast<unsigned>(blocks)}, .threads = 256};
    };
    const int k = static_cast<int>(problem_.k);
    const int heads = static_cast<int>(heads_);
    const int head = config_.group * config_.unroll;
    expand_rows_.launch(stream, launch(items_), buffers_.begin.address(), buffers_.target.address(),
                        buffers_.columns.address(), buffers_.values.address(), heads, head, dense,
                        k);
    if (cut_rows_ == 0) return;
    expand_clear_.launch(stream, launch(cut_rows_), buffers_.rows.address(), dense, k);
    expand_pieces_.launch(stream, launch(items_), buffers_.begin.address(),
                          buffers_.target.address(), buffers_.columns.address(),
                          buffers_.values.address(), heads, head, buffers_.rows.address(),
                          buffers_.row_of_piece.address(), dense, k);
  }

  [[nodiscard]] std::unique_ptr<Operator> copy(const cuda::Stream& stream) const override {
    return std::unique_ptr<Operator>(new RowOperator(*this, stream));
  }

 private:
  RowOperator(const RowOperator& from, const cuda::Stream& stream)
      : config_(from.config_),
        problem_(from.problem_),
        device_(from.device_),
        kernel_(from.kernel_),
        expand_rows_(from.expand_rows_),
        expand_clear_(from.expand_clear_),
        expand_pieces_(from.expand_pieces_),
        items_(from.items_),
        heads_(from.heads_),
        cut_rows_(from.cut_rows_),
        pieces_(from.pieces_) {
    buffers_.begin = cuda::copy_on_device(stream, from.buffers_.begin);
    buffers_.target = cuda::copy_on_device(stream, from.buffers_.target);
    buffers_.columns = cuda::copy_on_device(stream, from.buffers_.columns);
    buffers_.values = cuda::copy_on_device(stream, from.buffers_.values);
    buffers_.rows = cuda::copy_on_device(stream, from.buffers_.rows);
    buffers_.first = cuda::copy_on_device(stream, from.buffers_.first);
    buffers_.row_of_piece = cuda::copy_on_device(stream, from.buffers_.row_of_piece);
    reserve_scratch(stream, problem_.n);
  }

  /// Heads save the first load's wait, and cost where the rest of each item begins within a line:
  /// they pay where all items are begun at once (f32, 28672x8192, 99 %, two rounds: 7.10 us
  /// without, 7.28 with; f16, 14336x4096, 95 %, one round: 5.42 and 4.96).
  [[nodiscard]] bool wants_heads() const {
    if (config_.item_vectors > 0) return false;  // Every item is where it must be.
    const std::int64_t tiles = (problem_.n + config_.n_tile - 1) / config_.n_tile;
    const std::int64_t groups = std::int64_t{device_->facts().multiprocessors} * config_.blocks *
                                config_.threads / (config_.group * config_.n_lanes);
    return problem_.m * tiles <= groups;
  }

  /// Grows the scratch for n columns; a graph that was recorded before keeps to fewer.
  void reserve_scratch(const cuda::Stream& stream, std::int64_t n) const {
    if (cut_rows_ == 0) return;
    const std::int64_t tiles = (n + config_.n_tile - 1) / config_.n_tile;
    const std::int64_t sums = (config_.any_order ? cut_rows_ : pieces_) * tiles * config_.n_tile;
    if (static_cast<std::size_t>(sums) * sizeof(float) <= sums_.size()) return;
    const auto zeros = [&](std::int64_t count) {
      cuda::DeviceBuffer buffer(stream, static_cast<std::size_t>(count) * sizeof(float));
      cuda::fill_bytes(stream, buffer.address(), 0, buffer.size());
      return buffer;
    };
    sums_ = zeros(sums);
    arrived_ = zeros(cut_rows_ * tiles);
  }

  ComposedConfig config_;
  Problem problem_;
  const cuda::Device* device_;
  ComposedBuffers buffers_;
  mutable cuda::DeviceBuffer sums_, arrived_;  ///< Of pieces; zeros between runs (pieces.cuh).
  cuda::Kernel kernel_;
  mutable cuda::Kernel expand_rows_, expand_clear_, expand_pieces_;  ///< Once they are needed.
  std::int64_t items_ = 0, heads_ = 0, cut_rows_ = 0, pieces_ = 0;
};

}  // namespace

std::unique_ptr<Operator> make_row_operator(const ComposedConfig& config, const Problem& problem,
                                            const Weight& weight, const cuda::Stream& stream) {
  return std::make_unique<RowOperator>(config, problem, weight, stream);
}

}  // namespace rarefy::gpu
