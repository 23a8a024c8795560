// Block-sparse products by multiply-adds in f32.
//
// A thread takes groups of outputs and walks K in ranges whose activations, as f32 and the tokens
// side by side, stay in L2. Blocks of f32 are read where they lie; 16-bit values go through a
// buffer.
#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "ops/block_sparse/cpu/fma_inner.h"
#include "ops/block_sparse/cut.h"
#include "ops/block_sparse/products.h"
#include "ops/spmm/cpu/strip_activations.h"
#include "ops/spmm/cpu/transpose_floats.h"
#include "ops/spmm/epilogue.h"
#include "ops/spmm/scratch.h"
#include "rarefy/cpu.h"

namespace rarefy {
namespace {

/// Activations of a panel of tokens and a range of inputs.
constexpr std::int64_t kRangeBytes = 768 << 10;
/// Values that are converted at once.
constexpr std::int64_t kConverted = 16 << 10;

std::size_t floats(std::int64_t count) {
  return static_cast<std::size_t>(count) * sizeof(float);
}

const block_cpu::FmaKernels& active_kernels() {
  const Isa isa = active_isa();
  if (isa >= Isa::kAvx512) return block_cpu::fma_avx512();
  return isa >= Isa::kAvx2 ? block_cpu::fma_avx2() : block_cpu::fma_portable();
}

/// What a thread does with groups [first, last) of a panel of tokens.
class PanelWorker {
 public:
  PanelWorker(const BlockGroups& groups, const ConstBlockValues& values, const PanelCuts& cuts,
              const block_cpu::FmaKernels& kernels)
      : g_(groups),
        values_(values),
        cuts_(cuts),
        kernels_(kernels),
        converted_(values.dtype == DType::kF32
                       ? 0
                       : floats(std::max(kConverted, groups.block_elements()))) {}

  void run(const SpmmArgs& args, std::int64_t panel, std::int64_t first, std::int64_t last,
           ThreadPool& pool) {
    if (panel != x_panel_) {
      x_.reset();  // Its memory is what the next one takes.
      x_.emplace(args.b, strip::TokenTiles::of(args.b.rows, cuts_.tile_tokens), g_.inputs_total,
                 pool);
      x_panel_ = panel;
    }
    const strip::Activations& x = x_->get();
    const std::int64_t group_floats = x.token_tiles * g_.out * cuts_.tile_tokens;
    const bool waits = cuts_.ranges > 1;
    Scratch sums(floats(group_floats * (waits ? last - first : 1)));
    std::vector<std::int32_t> next(g_.offsets + first, g_.offsets + last);
    for (std::int64_t r = 0; r < cuts_.ranges; ++r) {
      for (std::int64_t group = first; group < last; ++group) {
        float* to = sums.as<float>() + (waits ? group - first : 0) * group_floats;
        std::int32_t& begin = next[static_cast<std::size_t>(group - first)];
        std::int32_t end = begin;
        while (end < g_.offsets[group + 1] && g_.inputs[end] < (r + 1) * cuts_.range) ++end;
        multiply(x, begin, end, r > 0, to);
        begin = end;
        if (r + 1 == cuts_.ranges) store(args, x, group, to);
      }
    }
  }

 private:
  void multiply(const strip::Activations& x, std::int32_t begin, std::int32_t end, bool add,
                float* sums) {
    block_cpu::ProductJob job{.in = g_.in,
                              .out = g_.out,
                              .in_stride = g_.in_stride,
                              .out_stride = g_.out_stride,
                              .x = static_cast<const float*>(x.data),
                              .first_input = 0,
                              .tile_stride = x.padded_k * cuts_.tile_tokens,
                              .token_tiles = x.token_tiles,
                              .vectors = static_cast<int>(cuts_.tile_tokens / kernels_.lanes),
                              .sums = sums,
                              .add = add};
    const bool in_place = values_.dtype == DType::kF32;
    const std::int64_t at_once =
        in_place ? end - begin : std::max<std::int64_t>(1, kConverted / g_.block_elements());
    if (begin == end && !add) kernels_.multiply(job);  // Writes zeros.
    for (std::int64_t b = begin; b < end; b += at_once) {
      job.blocks = std::min(at_once, end - b);
      job.inputs = g_.inputs + b;
      if (in_place) {
        job.order = g_.order != nullptr ? g_.order + b : nullptr;
        job.values = static_cast<const float*>(values_.data) +
                     (g_.order != nullptr ? 0 : b * g_.block_elements());
      } else {
        convert_blocks(b, job.blocks);
        job.values = converted_.as<float>();
      }
      kernels_.multiply(job);
      job.add = true;
    }
  }

  void convert_blocks(std::int64_t first, std::int64_t count) {
    const std::int64_t elements = g_.block_elements();
    const std::size_t size = size_of(values_.dtype);
    for (std::int64_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(g_.place(first + i) * elements);
      convert_elements(static_cast<const std::byte*>(values_.data) + at * size, values_.dtype,
                       converted_.as<float>() + i * elements, DType::kF32,
                       static_cast<std::size_t>(elements));
    }
  }

  /// From [output][token] to rows of c.
  void store(const SpmmArgs& args, const strip::Activations& x, std::int64_t group,
             const float* sums) {
    constexpr std::int64_t kOutputs = 32;
    float turned[block_cpu::kMostVectors * block_cpu::kWidestVector * kOutputs];
    const Epilogue epilogue(args);
    const std::int64_t tokens = cuts_.tile_tokens;
    for (std::int64_t t = 0; t < x.token_tiles; ++t, sums += g_.out * tokens) {
      const std::int64_t live = std::min(tokens, args.c.rows - t * tokens);
      for (std::int64_t o = 0; o < g_.out; o += kOutputs) {
        const std::int64_t count = std::min(kOutputs, g_.out - o);
        const std::int64_t row = group * g_.out + o;
        if (epilogue.is_plain_f32()) {
          transpose_floats(sums + o * tokens, tokens, count, live,
                           args.c.row<float>(t * tokens) + row, args.c.row_stride);
          continue;
        }
        transpose_floats(sums + o * tokens, tokens, count, live, turned, kOutputs);
        for (std::int64_t i = 0; i < live; ++i)
          epilogue.store(t * tokens + i, row, turned + i * kOutputs, count);
      }
    }
  }

  const BlockGroups& g_;
  const ConstBlockValues& values_;
  const PanelCuts& cuts_;
  const block_cpu::FmaKernels& kernels_;
  Scratch converted_;
  std::optional<strip::FmaActivations> x_;
  std::int64_t x_panel_ = -1;  ///< Whose activations x_ holds.
};

/// Both operands of a sampled product as f32, a range of steps at a time.
class SampleOperands {
 public:
  SampleOperands(const BlockPattern& pattern, const ConstMatrixRef& q, std::int64_t steps,
                 int lanes)
      : pattern_(pattern),
        q_(q),
        stride_(ceil_div(pattern.block_cols, lanes) * lanes),
        steps_(steps),
        storage_(floats(pattern.cols / pattern.block_cols * stride_ * steps)) {}

  /// Steps [begin, end) of Q, by columns of blocks.
  void pack_columns(std::int64_t begin, std::int64_t end, ThreadPool& pool) {
    const std::int64_t columns = pattern_.cols / pattern_.block_cols;
    pool.parallel_for(end - begin, [&](std::int64_t first, std::int64_t last) {
      Scratch row(floats(pattern_.cols));
      for (std::int64_t t = first; t < last; ++t) {
        convert_elements(element(q_, begin + t, 0), q_.dtype, row.as<float>(), DType::kF32,
                         static_cast<std::size_t>(pattern_.cols));
        for (std::int64_t c = 0; c < columns; ++c) {
          float* to = storage_.as<float>() + c * column_floats() + t * stride_;
          const float* from = row.as<float>() + c * pattern_.block_cols;
          std::copy(from, from + pattern_.block_cols, to);
          std::fill(to + pattern_.block_cols, to + stride_, 0.0F);
        }
      }
    });
  }
  const float* column(std::int64_t c) { return storage_.as<float>() + c * column_floats(); }
  [[nodiscard]] std::int64_t stride() const { return stride_; }

  /// Steps [begin, end) of P for one row of blocks, to [step][row].
  static void pack_row(const ConstMatrixRef& p, std::int64_t begin, std::int64_t end,
                       std::int64_t first, std::int64_t rows, float* to) {
    for (std::int64_t t = begin; t < end; ++t, to += rows)
      convert_elements(element(p, t, first), p.dtype, to, DType::kF32,
                       static_cast<std::size_t>(rows));
  }

 private:
  static const std::byte* element(const ConstMatrixRef& x, std::int64_t r, std::int64_t c) {
    return static_cast<const std::byte*>(x.data) +
           static_cast<std::size_t>(r * x.row_stride + c) * size_of(x.dtype);
  }
  [[nodiscard]] std::int64_t column_floats() const { return steps_ * stride_; }

  const BlockPattern& pattern_;
  ConstMatrixRef q_;
  std::int64_t stride_, steps_;
  Scratch storage_;
};

}  // namespace

void multiply_blocks_fma(const BlockGroups& groups, const ConstBlockValues& values,
                         const SpmmArgs& args, ThreadPool& pool) {
  const block_cpu::FmaKernels& kernels = active_kernels();
  const std::int64_t tokens = args.b.rows;
  const std::int64_t vectors =
      std::min<std::int64_t>(block_cpu::kMostVectors, ceil_div(tokens, kernels.lanes));
  const PanelCuts cuts(groups, tokens, vectors * kernels.lanes,
                       {.activation_bytes = sizeof(float),
                        .range_bytes = kRangeBytes,
                        .least_tiles = 4,
                        .range_unit = 1});
  hand_out(pool, groups.offsets, groups.groups, cuts.panels, cuts.ranges, [&] {
    return [&, worker = std::make_unique<PanelWorker>(groups, values, cuts, kernels)](
               std::int64_t panel, std::int64_t first, std::int64_t last) {
      worker->run(strip::tokens_of(args, panel * cuts.panel_tokens(),
                                   std::min(tokens, (panel + 1) * cuts.panel_tokens())),
                  panel, first, last, pool);
    };
  });
}

void sample_blocks_fma(const BlockPattern& pattern, const ConstMatrixRef& p,
                       const ConstMatrixRef& q, const BlockValues& out, ThreadPool& pool) {
  constexpr std::int64_t kSteps = 512;
  const block_cpu::FmaKernels& kernels = active_kernels();
  const std::int64_t steps_at_once = std::min(kSteps, p.rows);
  const std::int64_t elements = std::int64_t{pattern.block_rows} * pattern.block_cols;
  const std::int64_t groups = pattern.rows / pattern.block_rows;
  const bool in_place = out.dtype == DType::kF32;
  SampleOperands operands(pattern, q, steps_at_once, kernels.lanes);
  Scratch waiting(in_place ? 0 : floats(out.count));
  float* sums = in_place ? static_cast<float*>(out.data) : waiting.as<float>();
  for (std::int64_t begin = 0; begin < p.rows; begin += steps_at_once) {
    const std::int64_t end = std::min(p.rows, begin + steps_at_once);
    operands.pack_columns(begin, end, pool);
    hand_out(pool, pattern.row_offsets.data(), groups, 1, 1, [&] {
      return [&, row = std::make_unique<Scratch>(floats(steps_at_once * pattern.block_rows))](
                 std::int64_t, std::int64_t first, std::int64_t last) {
        for (std::int64_t r = first; r < last; ++r) {
          const std::int32_t first_block = pattern.row_offsets[static_cast<std::size_t>(r)];
          const std::int32_t last_block = pattern.row_offsets[static_cast<std::size_t>(r) + 1];
          if (first_block == last_block) continue;
          SampleOperands::pack_row(p, begin, end, r * pattern.block_rows, pattern.block_rows,
                                   row->as<float>());
          for (std::int32_t b = first_block; b < last_block; ++b)
            kernels.sample({.p = row->as<float>(),
                            .q = operands.column(pattern.col_indices[static_cast<std::size_t>(b)]),
                            .steps = end - begin,
                            .rows = pattern.block_rows,
                            .cols = pattern.block_cols,
                            .q_stride = operands.stride(),
                            .sums = sums + b * elements,
                            .add = begin > 0});
          if (end < p.rows || in_place) continue;
          const std::int64_t from = first_block * elements;
          convert_elements(sums + from, DType::kF32,
                           static_cast<std::byte*>(out.data) +
                               static_cast<std::size_t>(from) * size_of(out.dtype),
                           out.dtype,
                           static_cast<std::size_t>((last_block - first_block) * elements));
        }
      };
    });
  }
}

}  // namespace rarefy
