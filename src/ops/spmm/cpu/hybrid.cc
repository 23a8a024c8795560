// SpMM on hybrid weights for more than 16 tokens: hybrid.amx. The sparse part is multiplied one
// nonzero after the other, the tiles on the matrix unit, and the sums of both meet in f32 where
// results are stored.
//
// Both parts are cut between threads by what they take, so that all threads finish either part
// together. A core's two kinds of units do not gain from working at the same time: both wait for
// lines of activations from L2.
#include "formats/hybrid.h"

#include <algorithm>
#include <optional>

#include "base/check.h"
#include "formats/hybrid_shares.h"
#include "ops/spmm/cpu/bitmap_panels.h"
#include "ops/spmm/cpu/row_blocks.h"

namespace rarefy {
namespace {

using strip::kOutputs;
using strip::kStripsAStore;

const SpmmKernel& sparse_kernel() {
  static const SpmmKernel* const kernel = find_spmm_kernel("csb.avx512");
  return *kernel;
}

/// b with the columns in the order of the weight's.
class SortedColumns {
 public:
  SortedColumns(const ConstMatrixRef& b, const std::int32_t* order, ThreadPool& pool) : b_(b) {
    if (order == nullptr) return;
    storage_.emplace(static_cast<std::size_t>(b.rows * b.cols) * size_of(b.dtype));
    b_.data = storage_->as<std::byte>();
    b_.row_stride = b.cols;
    pool.parallel_for(b.rows, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        if (b.dtype == DType::kF32) {
          sort(b.row<std::uint32_t>(t), order, storage_->as<std::uint32_t>() + t * b.cols);
        } else {
          sort(b.row<std::uint16_t>(t), order, storage_->as<std::uint16_t>() + t * b.cols);
        }
      }
    });
  }
  [[nodiscard]] const ConstMatrixRef& get() const { return b_; }

 private:
  template <class T>
  void sort(const T* from, const std::int32_t* order, T* to) const {
    for (std::int64_t c = 0; c < b_.cols; ++c) to[c] = from[order[c]];
  }

  std::optional<Scratch> storage_;
  ConstMatrixRef b_;
};

/// Where the sums of tiles and those of the sparse part meet, and sorted rows return to their
/// places.
class Meeting {
 public:
  Meeting(const HybridMatrix& a, const SpmmArgs& args, const float* sparse_sums)
      : a_(a), epilogue_(args), n_(args.b.rows), sparse_sums_(sparse_sums) {}

  /// Sums of strips [begin, end).
  void store(std::int64_t begin, std::int64_t end, const float* sums,
             const strip::Activations& x) const {
    if (sparse_sums_ == nullptr && a_.row_order() == nullptr)
      return strip::store_all_sums(epilogue_, sums, begin, end, x, n_, a_.rows());
    for (std::int64_t s = begin; s < end;
         s += kStripsAStore, sums += kStripsAStore * strip_floats(x))
      store_scope(s, std::min(kStripsAStore, end - s), sums, x);
  }

 private:
  static_assert(HybridMatrix::kScope == kStripsAStore * kOutputs);

  /// Strips of one scope, within which rows are sorted.
  void store_scope(std::int64_t s, std::int64_t strips, const float* sums,
                   const strip::Activations& x) const {
    const std::int64_t first = s * kOutputs;
    const std::int64_t rows = std::min(a_.rows() - first, strips * kOutputs);
    float stored[HybridMatrix::kScope];
    float sorted[HybridMatrix::kScope];
    for (std::int64_t t = 0; t < n_; ++t) {
      const float* from = sums + t / x.tokens * strip::kSumTileFloats + t % x.tokens * kOutputs;
      for (std::int64_t i = 0; i < strips; ++i)
        std::copy_n(from + i * strip_floats(x), kOutputs, stored + i * kOutputs);
      if (sparse_sums_ != nullptr) {
        const float* other = sparse_sums_ + t * a_.rows() + first;
        for (std::int64_t r = 0; r < rows; ++r) stored[r] += other[r];
      }
      if (a_.row_order() == nullptr) {
        epilogue_.store(t, first, stored, rows);
        continue;
      }
      for (std::int64_t r = 0; r < rows; ++r) sorted[a_.row_order()[first + r] - first] = stored[r];
      epilogue_.store(t, first, sorted, rows);
    }
  }

  const HybridMatrix& a_;
  Epilogue epilogue_;
  std::int64_t n_;
  const float* sparse_sums_;
};

/// The first strip of a part, where a scope begins: parts have equal shares of the tiles and of
/// what else a scope takes.
std::int64_t cut(const HybridMatrix& a, std::int64_t part, std::int64_t parts) {
  constexpr std::int64_t kScopePairs = HybridMatrix::kScope / HybridMatrix::kPairRows;
  constexpr std::int64_t kStoring =
      32;  ///< Storing a scope takes as long as so many pairs of tiles.
  const std::int64_t scopes = (a.pairs() + kScopePairs - 1) / kScopePairs;
  const auto before = [&](std::int64_t scope) {
    return a.pair_offsets()[std::min(a.pairs(), scope * kScopePairs)] + scope * kStoring;
  };
  const std::int64_t target = before(scopes) * part / parts;
  // The cut nearest to the share.
  std::int64_t scope = 0;
  while (scope < scopes && before(scope + 1) + before(scope) <= 2 * target) ++scope;
  return std::min(a.strips(), scope * kStripsAStore);
}

class HybridAmx final : public SpmmKernel {
 public:
  [[nodiscard]] std::string_view name() const override { return "hybrid.amx"; }
  [[nodiscard]] Isa isa() const override { return Isa::kAmx; }
  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    if (spec.format != Format::kHybrid) return Support::no("runs hybrid weights only");
    if (p.weight != DType::kBF16)
      return Support::no(fmt::format("needs bf16 weights, got {}", to_string(p.weight)));
    if (p.n <= 16) return Support::no("is for N from 17 on");
    return needs_isa(Isa::kAmx);
  }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    const HybridShares shares = hybrid_shares(spec, pattern);
    const strip::PanelCounts whole(p, strip::kManyPanelTokens);
    const double products =
        whole.products * shares.tiles / whole.tiles * strip::PanelCounts::kProductCycles;
    const double decode = shares.tiles * whole.turns * 16 * 3.7;
    double cycles = std::max(products, decode) + 0.5 * std::min(products, decode) + whole.around;
    const auto outputs = static_cast<double>(p.n) * static_cast<double>(p.m);
    if (shares.sparse_nonzeros > 0) {
      PatternStats sparse;
      sparse.rows = pattern.rows;
      sparse.cols = pattern.cols;
      sparse.nnz = static_cast<std::int64_t>(shares.sparse_nonzeros);
      cycles += sparse_kernel().cost(format::kCsb, sparse, p).cycles + 0.5 * outputs;
    }
    if (spec.sort_rows) cycles += outputs;
    if (spec.sort_cols) cycles += 3 * static_cast<double>(p.n) * static_cast<double>(p.k);
    return {.bytes = whole.turns * estimated_bytes(spec, pattern, p.weight) + activation_bytes(p),
            .cycles = cycles};
  }

  void run(const Matrix& matrix, const SpmmArgs& args, ThreadPool& pool) const override {
    const auto& a = dynamic_cast<const HybridMatrix&>(matrix);
    const SortedColumns b(args.b, a.col_order(), pool);
    SpmmArgs sorted = args;
    sorted.b = b.get();
    const std::int64_t turn = strip::turn_tokens(args.b.rows, strip::kManyPanelTokens);
    for (std::int64_t t = 0; t < args.b.rows; t += turn)
      run_turn(a, strip::tokens_of(sorted, t, std::min(args.b.rows, t + turn)), pool);
  }

 private:
  static void run_turn(const HybridMatrix& a, const SpmmArgs& args, ThreadPool& pool) {
    const auto outputs = static_cast<std::size_t>(args.b.rows * a.rows());
    std::optional<Scratch> sparse_sums;
    if (a.sparse() != nullptr) {
      sparse_sums.emplace(outputs * sizeof(float));
      SpmmArgs sparse;
      sparse.b = args.b;
      sparse.c = {sparse_sums->as<float>(), DType::kF32, args.b.rows, a.rows(), a.rows()};
      sparse.precision = args.precision;
      sparse_kernel().run(*a.sparse(), sparse, pool);
    }
    const strip::AmxActivations x(args.b, args.precision, a.tiles_per_strip() * strip::kTileK,
                                  pool);
    const strip::TileStrips strips{a.arrays().stream.data(),
                                   a.arrays().strip_offsets.as<std::uint64_t>(),
                                   a.tiles_per_strip(), a.pair_offsets(), a.columns()};
    const Meeting meeting(a, args, sparse_sums ? sparse_sums->as<float>() : nullptr);
    pool.run([&](int worker) {
      strip::BitmapPanels(strips, x.get())
          .run(cut(a, worker, pool.size()), cut(a, worker + 1, pool.size()),
               [&](std::int64_t first, std::int64_t last, const float* sums) {
                 meeting.store(first, last, sums, x.get());
               });
    });
  }
};

}  // namespace

std::span<const SpmmKernel* const> hybrid_kernels() {
  static const HybridAmx amx;
  static const SpmmKernel* const kernels[] = {&amx};
  return kernels;
}

}  // namespace rarefy
