// SpMM for several tokens on any sparse format: rows are decoded to lists of columns and values, a
// chunk at a time, and the CSR loops multiply the lists while they lie in L2. Decoding costs a
// chunk once what its values cost for each 16 tokens again, so that every format profits from
// sparsity.
#include <algorithm>
#include <bit>
#include <vector>

#include "formats/panels.h"
#include "ops/spmm/cpu/csr_panels.h"
#include "rarefy/matrix.h"

namespace rarefy {
namespace {

/// Columns and values of a chunk stay in L2, beside sums and a range of the activations.
constexpr double kChunkBytes = 512 << 10;
constexpr std::int64_t kMostRows = 256;
/// Rows decoded to dense values at once on the way.
constexpr std::int64_t kDenseRows = 4;

/// The lists of a chunk of rows, in memory of this thread.
class Lists {
 public:
  Lists(const Matrix& a, std::int64_t rows)
      : a_(a),
        index_bits_(a.cols() <= 65536 ? 16 : 32),
        offsets_(static_cast<std::size_t>(rows + 1)),
        next_(static_cast<std::size_t>(rows)),
        masks_(static_cast<std::size_t>(a.cols() / 64 + 1)),
        dense_(static_cast<std::size_t>(kDenseRows * a.cols()) * size_of(a.dtype())),
        columns_(static_cast<std::size_t>(rows * a.cols() * index_bits_ / 8)),
        values_(static_cast<std::size_t>(rows * a.cols()) * size_of(a.dtype())) {}

  void decode(std::int64_t begin, std::int64_t end) {
    std::int64_t at = 0;
    for (std::int64_t r = begin; r < end; r += kDenseRows) {
      const std::int64_t stop = std::min(end, r + kDenseRows);
      a_.read_rows(r, stop, dense_.as<void>());
      for (std::int64_t row = r; row < stop; ++row) {
        offsets_[static_cast<std::size_t>(row - begin)] = at;
        next_[static_cast<std::size_t>(row - begin)] = at;
        at = append(row - r, at);
      }
    }
    offsets_[static_cast<std::size_t>(end - begin)] = at;
  }
  /// For each list, the first entry not yet multiplied.
  void rewind() { std::copy(offsets_.begin(), offsets_.end() - 1, next_.begin()); }

  [[nodiscard]] int index_bits() const { return index_bits_; }
  [[nodiscard]] csr::Job job(std::int64_t rows) {
    return {.row_offsets = offsets_.data(),
            .columns = columns_.as<void>(),
            .values = values_.as<void>(),
            .row_begin = 0,
            .row_end = rows,
            .next = next_.data()};
  }

 private:
  std::int64_t append(std::int64_t dense_row, std::int64_t at) {
    return dispatch_bits(a_.dtype(), [&](auto zero) {
      using Bits = decltype(zero);
      const Bits* from = dense_.as<Bits>() + dense_row * a_.cols();
      if (index_bits_ == 16) return append_row(from, columns_.as<std::uint16_t>(), at);
      return append_row(from, columns_.as<std::uint32_t>(), at);
    });
  }
  template <class Bits, class Index>
  std::int64_t append_row(const Bits* from, Index* columns, std::int64_t at) {
    Bits* values = values_.as<Bits>();
    nonzero_mask(from, a_.dtype(), a_.cols(), masks_.data());
    for (std::int64_t base = 0; base < a_.cols(); base += 64) {
      for_each_bit(masks_[static_cast<std::size_t>(base / 64)], [&](int bit) {
        columns[at] = static_cast<Index>(base + bit);
        values[at++] = from[base + bit];
      });
    }
    return at;
  }

  const Matrix& a_;
  int index_bits_;
  std::vector<std::int64_t> offsets_, next_;
  std::vector<std::uint64_t> masks_;
  Scratch dense_, columns_, values_;
};

class ListsKernel final : public SpmmKernel {
 public:
  ListsKernel(const char* name, const csr::Level& level) : name_(name), level_(level) {}
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] Isa isa() const override { return level_.isa; }

  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    if (spec.format == Format::kDense || spec.format == Format::kCsr)
      return Support::no("is for sparse formats other than CSR, which needs no decoding");
    if (p.n < 2) return Support::no("is for N from 2 on");
    return needs_isa(level_.isa);
  }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    // Clearing, reading masks: an estimated third of a cycle a position; 5 to scatter a value and
    // collect it again.
    const auto nnz = static_cast<double>(pattern.nnz);
    const double positions = static_cast<double>(p.m) * static_cast<double>(p.k);
    SpmmCost cost = csr::panel_cost(spec, pattern, p, nnz, level_);
    cost.cycles += positions / 3 + 5 * nnz;
    return cost;
  }

  void run(const Matrix& a, const SpmmArgs& args, ThreadPool& pool) const override {
    const int vectors = csr::panel_vectors(args.b.rows);
    const auto tiles = strip::TokenTiles::of(args.b.rows, std::int64_t{16} * vectors);
    const strip::FmaActivations x(args.b, tiles, a.cols(), pool);
    const Epilogue epilogue(args);
    const csr::PanelWalk walk{x.get(), epilogue, args.b.rows, a.cols(),
                              csr::range_columns(a.density(), vectors)};
    const double row_bytes = a.density() * static_cast<double>(a.cols()) *
                             (2.0 + static_cast<double>(size_of(a.dtype())));
    const auto fitting = static_cast<std::int64_t>(kChunkBytes / std::max(row_bytes, 1.0));
    const std::int64_t fair = a.rows() / (4 * pool.size());
    const std::int64_t rows =
        std::clamp<std::int64_t>(std::min(fair, fitting), kDenseRows, kMostRows);
    pool.parallel_dynamic((a.rows() + rows - 1) / rows, 1, [&](std::int64_t i, std::int64_t) {
      Lists lists(a, rows);
      const std::int64_t begin = i * rows;
      const std::int64_t count = std::min(rows, a.rows() - begin);
      lists.decode(begin, begin + count);
      walk.run(
          begin, begin + count, [&](std::int64_t, std::int64_t) { lists.rewind(); },
          [&](std::int64_t r0, std::int64_t r1, std::int64_t, std::int64_t k_end,
              const float* panel, float* sums, bool add) {
            csr::Job job = lists.job(count);
            job.row_begin = r0 - begin;
            job.row_end = r1 - begin;
            job.next += r0 - begin;
            job.k_end = k_end;
            job.panel = panel;
            job.sums = sums;
            job.add = add;
            level_.run(job, vectors, lists.index_bits(), a.dtype());
          });
    });
  }

 private:
  std::string_view name_;
  const csr::Level& level_;
};

}  // namespace

std::span<const SpmmKernel* const> lists_kernels() {
  static const ListsKernel avx512("lists.avx512", csr::kLevels[0]);
  static const ListsKernel avx2("lists.avx2", csr::kLevels[1]);
  static const ListsKernel portable("lists.portable", csr::kLevels[2]);
  static const SpmmKernel* const kernels[] = {&avx512, &avx2, &portable};
  return kernels;
}

}  // namespace rarefy
