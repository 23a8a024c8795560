// SpMM on sliced ELL for many tokens.
//
// sell.amx.panels: entries are spread over tiles in L2, a panel of two slices by a range of K at a
// time, each while the one before is multiplied: the weight is stored once, small, and serves
// single tokens and prompts alike. sell.*.panels elsewhere: rows are listed as CSR, a round of rows
// at a time, and run through the loops of csr_engine.h.
#include "ops/spmm/cpu/sell_gemm.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <utility>

#include "base/check.h"
#include "formats/sell.h"
#include "ops/spmm/cpu/csr_panels.h"
#include "ops/spmm/cpu/row_blocks.h"
#include "ops/spmm/cpu/strip_activations.h"
#include "ops/spmm/epilogue.h"
#include "ops/spmm/kernel.h"
#include "ops/spmm/scratch.h"

namespace rarefy {
namespace {

constexpr std::int64_t kTokensAtOnce = 256;
constexpr std::int64_t kTileBytes = 1024;
constexpr std::int64_t kTileK = 32;
/// Activations of a range of K, and the most tiles of k a panel has: what stays in a 2 MiB L2.
constexpr std::int64_t kRangeBytes = 600 << 10;
constexpr std::int64_t kMostTiles = 64;
constexpr std::int64_t kSumBytes = 1 << 20;
constexpr std::int64_t kScope = SellMatrix::kScope;
constexpr std::int64_t kScopeSlices = kScope / SellMatrix::kLanes;

/// Slices of one thread: whole scopes, because the rows of a scope are stored together.
std::pair<std::int64_t, std::int64_t> slices_of(const SellMatrix& a, int worker, int workers) {
  const auto cut = [&](int part) {
    const std::int64_t slice = cut_by_bytes(a.offsets().data(), a.slices(), part, workers);
    return part == workers ? a.slices() : slice / kScopeSlices * kScopeSlices;
  };
  return {cut(worker), cut(worker + 1)};
}

std::int64_t scope_rows(const SellMatrix& a, std::int64_t scope) {
  return std::min(kScope, a.rows() - scope * kScope);
}

/// One thread's slices for a set of tokens.
class Worker {
 public:
  Worker(const SellMatrix& a, const strip::Activations& x, const Epilogue& epilogue, std::int64_t n)
      : a_(a), x_(x), epilogue_(epilogue), n_(n), tiles_((a.cols() + kTileK - 1) / kTileK) {
    const std::int64_t most = std::clamp<std::int64_t>(
        kRangeBytes / (std::int64_t{x.token_tiles} * x.parts * kTileBytes), 1, kMostTiles);
    ranges_ = (tiles_ + most - 1) / most;
    range_tiles_ = (tiles_ + ranges_ - 1) / ranges_;
    ranges_ = (tiles_ + range_tiles_ - 1) / range_tiles_;
    strip_floats_ = std::int64_t{x.token_tiles} * strip::kSumTileFloats;
  }

  void run(std::int64_t begin, std::int64_t end) {
    if (begin == end) return;
    strip::amx_begin(x_.tokens);
    const std::int64_t scope_bytes = kScopeSlices * strip_floats_ * std::int64_t{sizeof(float)};
    const std::int64_t round = std::max<std::int64_t>(1, kSumBytes / scope_bytes) * kScopeSlices;
    for (std::int64_t s = begin; s < end; s += round) run_round(s, std::min(end, s + round));
    strip::amx_end();
  }

 private:
  void run_round(std::int64_t begin, std::int64_t end) {
    const std::int64_t strips = end - begin;
    const std::int64_t pairs = (strips + 1) / 2;
    Scratch sums_storage(
        strip::huge_page_bytes(static_cast<std::size_t>(strips * strip_floats_) * sizeof(float)));
    Scratch cursor_storage(static_cast<std::size_t>(strips) * sizeof(strip::SellCursor));
    Scratch tiles(static_cast<std::size_t>(4 * range_tiles_ * kTileBytes));
    auto* sums = sums_storage.as<float>();
    auto* cursors = cursor_storage.as<strip::SellCursor>();
    for (std::int64_t s = 0; s < strips; ++s) {
      const auto slice = static_cast<std::size_t>(begin + s);
      cursors[s] = {a_.stream() + a_.offsets()[slice], a_.stream() + a_.offsets()[slice + 1], {}};
    }

    // Units follow each other pair after pair, range after range; panel u lies in half u % 2.
    const auto panel_of = [&](std::int64_t u) {
      const std::int64_t s = u % pairs * 2;
      const std::int64_t first = u / pairs * range_tiles_;
      return strip::SellPanel{
          .cursors = cursors + s,
          .to = tiles.as<std::byte>() + u % 2 * 2 * range_tiles_ * kTileBytes,
          .strip_stride = range_tiles_ * kTileBytes,
          .tiles = std::min(range_tiles_, tiles_ - first),
          .first_k = first * kTileK,
          .columns_left = (tiles_ - first) * kTileK,
          .strips = static_cast<std::int32_t>(std::min<std::int64_t>(2, strips - s)),
          .gap_bytes = static_cast<std::int32_t>(a_.gap_bytes())};
    };
    const std::int64_t units = pairs * ranges_;
    strip::SellPanel now = panel_of(0);
    strip::spread_sell_amx(now);
    for (std::int64_t u = 0; u < units; ++u) {
      const strip::Unit unit{.values = now.to,
                             .columns = nullptr,
                             .block_stride = 0,
                             .strip_stride = now.strip_stride,
                             .width = now.tiles * kTileK,
                             .first_k = now.first_k,
                             .blocks = 1,
                             .strips = now.strips,
                             .sums = sums + u % pairs * 2 * strip_floats_,
                             .add = u >= pairs};
      // The last unit has nothing left to spread beside it.
      strip::SellPanel next = u + 1 < units ? panel_of(u + 1) : strip::SellPanel{};
      strip::run_sell_amx(unit, x_, next);
      now = next;
    }
    for (std::int64_t s = 0; s < strips; s += kScopeSlices)
      store_scope((begin + s) / kScopeSlices, sums + s * strip_floats_,
                  std::min(kScopeSlices, strips - s));
  }

  /// Results of the rows of a scope, back in their order.
  void store_scope(std::int64_t scope, const float* sums, std::int64_t strips) {
    const std::int64_t first_row = scope * kScope;
    const std::int64_t rows = scope_rows(a_, scope);
    std::int32_t source[kScope] = {};
    for (std::int64_t i = 0; i < strips * SellMatrix::kLanes; ++i) {
      const std::uint32_t row = a_.order()[static_cast<std::size_t>(first_row + i)];
      if (row != SellMatrix::kNoRow)
        source[row - static_cast<std::uint32_t>(first_row)] = static_cast<std::int32_t>(i);
    }
    const bool direct = epilogue_.is_plain_f32() && rows == kScope;
    float sorted[kScope];
    for (std::int64_t t = 0; t < n_; ++t) {
      const float* from =
          sums + t / x_.tokens * strip::kSumTileFloats + t % x_.tokens * strip::kOutputs;
      float* to = direct ? epilogue_.c().row<float>(t) + first_row : sorted;
      strip::unsort_scope_amx(from, strip_floats_, strips, source, to);
      if (!direct) epilogue_.store(t, first_row, sorted, rows);
    }
  }

  const SellMatrix& a_;
  const strip::Activations& x_;
  const Epilogue& epilogue_;
  std::int64_t n_, tiles_, ranges_, range_tiles_, strip_floats_;
};

class SellAmxPanels final : public SpmmKernel {
 public:
  [[nodiscard]] std::string_view name() const override { return "sell.amx.panels"; }
  [[nodiscard]] Isa isa() const override { return Isa::kAmx; }
  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    if (spec.format != Format::kSell) return Support::no("runs sliced ELL weights only");
    if (p.weight != DType::kBF16)
      return Support::no(fmt::format("needs bf16 weights, got {}", to_string(p.weight)));
    if (p.n < 2) return Support::no("is for N from 2 on");
    return needs_isa(Isa::kAmx);
  }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    // A step of 16 entries takes about 20 cycles to spread, clearing a tile about 40; a product
    // takes 57, as with dense tiles. Half of the shorter of the two hides behind the other.
    const double tiles =
        std::ceil(static_cast<double>(p.m) / 16) * std::ceil(static_cast<double>(p.k) / kTileK);
    const double passes = std::ceil(static_cast<double>(p.n) / kTokensAtOnce);
    const double parts = strip::amx_parts(p.activations, p.precision);
    const double products = tiles * std::ceil(static_cast<double>(p.n) / 16) * parts * 57;
    const double bytes = estimated_bytes(spec, pattern, p.weight);
    const double steps = bytes / (SellMatrix::kLanes * (2 + spec.index_bits / 8.0));
    const double spread = passes * (steps * 20 + tiles * 40);
    const auto n = static_cast<double>(p.n);
    return {.bytes = passes * bytes + activation_bytes(p),
            .cycles = std::max(products, spread) + 0.5 * std::min(products, spread) +
                      0.25 * n * static_cast<double>(p.k) * parts +
                      0.3 * n * static_cast<double>(p.m)};
  }

  void run(const Matrix& matrix, const SpmmArgs& args, ThreadPool& pool) const override {
    const auto& a = dynamic_cast<const SellMatrix&>(matrix);
    const std::int64_t padded_k = (a.cols() + kTileK - 1) / kTileK * kTileK;
    for (std::int64_t t = 0; t < args.b.rows; t += kTokensAtOnce) {
      const SpmmArgs part = strip::tokens_of(args, t, std::min(args.b.rows, t + kTokensAtOnce));
      const strip::AmxActivations x(part.b, args.precision, padded_k, pool);
      const Epilogue epilogue(part);
      pool.run([&](int worker) {
        const auto [begin, end] = slices_of(a, worker, pool.size());
        Worker(a, x.get(), epilogue, part.b.rows).run(begin, end);
      });
    }
  }
};

/// Lists the entries of one scope row by row: columns (u16 or u32) and values behind each other.
template <class Value, class Gap, class Column>
void list_scope(const SellMatrix& a, std::int64_t scope, std::int64_t* row_offsets, Column* columns,
                Value* values) {
  constexpr std::int64_t kLanes = SellMatrix::kLanes;
  constexpr std::int64_t kStep = kLanes * std::int64_t{sizeof(Gap) + sizeof(Value)};
  const std::int64_t first_row = scope * kScope;
  const std::int64_t rows = scope_rows(a, scope);
  std::int64_t lane_of[kScope] = {};
  for (std::int64_t i = 0; i < (rows + kLanes - 1) / kLanes * kLanes; ++i) {
    const std::uint32_t row = a.order()[static_cast<std::size_t>(first_row + i)];
    if (row != SellMatrix::kNoRow) lane_of[row - static_cast<std::uint32_t>(first_row)] = i;
  }
  std::int64_t count = row_offsets[0];
  for (std::int64_t r = 0; r < rows; ++r) {
    const auto slice = static_cast<std::size_t>((first_row + lane_of[r]) / kLanes);
    const std::int64_t lane = lane_of[r] % kLanes;
    const std::byte* step = a.stream() + a.offsets()[slice];
    const std::byte* end = a.stream() + a.offsets()[slice + 1];
    std::uint32_t column = 0;
    for (; step < end; step += kStep) {
      column += reinterpret_cast<const Gap*>(step)[lane];
      // Entries that only pad are zero: the next one overwrites them.
      const Value value = reinterpret_cast<const Value*>(step + kLanes * sizeof(Gap))[lane];
      columns[count] = static_cast<Column>(column);
      values[count] = value;
      count += value != 0 ? 1 : 0;
    }
    row_offsets[r + 1] = count;
  }
}

/// Rows [begin, end) of a thread as CSR, where begin is the first of a scope.
class ListedRows {
 public:
  explicit ListedRows(const SellMatrix& a) : a_(a) {}

  void list(std::int64_t begin, std::int64_t end) {
    if (begin == begin_) return;  // The next panel of tokens takes the same rows.
    begin_ = begin;
    const std::int64_t first = begin / kScope;
    const std::int64_t scopes = (end - begin + kScope - 1) / kScope;
    const auto slice = [&](std::int64_t scope) {
      return static_cast<std::size_t>(std::min(a_.slices(), scope * kScopeSlices));
    };
    const std::size_t entries = (a_.offsets()[slice(first + scopes)] - a_.offsets()[slice(first)]) /
                                a_.step_bytes() * SellMatrix::kLanes;
    // An entry that pads is written behind the last and not counted.
    row_offsets_.emplace(static_cast<std::size_t>(scopes * kScope + 1) * sizeof(std::int64_t));
    columns_.emplace((entries + 1) * (index_bits() / 8));
    values_.emplace((entries + 1) * size_of(a_.dtype()));
    row_offsets()[0] = 0;
    for (std::int64_t s = 0; s < scopes; ++s) {
      std::int64_t* offsets = row_offsets_->as<std::int64_t>() + s * kScope;
      if (size_of(a_.dtype()) == 4) {
        list_values<std::uint32_t>(first + s, offsets);
      } else {
        list_values<std::uint16_t>(first + s, offsets);
      }
    }
  }
  [[nodiscard]] std::int64_t* row_offsets() { return row_offsets_->as<std::int64_t>(); }
  [[nodiscard]] const void* columns() { return columns_->as<void>(); }
  [[nodiscard]] const void* values() { return values_->as<void>(); }
  [[nodiscard]] int index_bits() const { return a_.cols() <= 65536 ? 16 : 32; }

 private:
  template <class Value>
  void list_values(std::int64_t scope, std::int64_t* offsets) {
    a_.gap_bytes() == 1 ? list_gaps<Value, std::uint8_t>(scope, offsets)
                        : list_gaps<Value, std::uint16_t>(scope, offsets);
  }
  template <class Value, class Gap>
  void list_gaps(std::int64_t scope, std::int64_t* offsets) {
    index_bits() == 16 ? list_scope<Value, Gap>(a_, scope, offsets, columns_->as<std::uint16_t>(),
                                                values_->as<Value>())
                       : list_scope<Value, Gap>(a_, scope, offsets, columns_->as<std::uint32_t>(),
                                                values_->as<Value>());
  }

  const SellMatrix& a_;
  std::int64_t begin_ = -1;
  std::optional<Scratch> row_offsets_, columns_, values_;
};

class SellPanels final : public SpmmKernel {
 public:
  SellPanels(std::string_view name, const csr::Level& level) : name_(name), level_(level) {}
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] Isa isa() const override { return level_.isa; }
  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    if (spec.format != Format::kSell) return Support::no("runs sliced ELL weights only");
    if (p.n < 2) return Support::no("is for N from 2 on");
    return needs_isa(level_.isa);
  }
  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    const auto entries = static_cast<double>(pattern.nnz);
    SpmmCost cost = csr::panel_cost(spec, pattern, p, entries, level_);
    constexpr double kListCycles = 3;
    cost.cycles += kListCycles * entries;
    return cost;
  }

  void run(const Matrix& matrix, const SpmmArgs& args, ThreadPool& pool) const override {
    const auto& a = dynamic_cast<const SellMatrix&>(matrix);
    const int vectors = csr::panel_vectors(args.b.rows);
    const auto tiles = strip::TokenTiles::of(args.b.rows, std::int64_t{16} * vectors);
    const strip::FmaActivations x(args.b, tiles, a.cols(), pool);
    const Epilogue epilogue(args);
    const csr::PanelWalk walk{x.get(), epilogue, args.b.rows, a.cols(),
                              csr::range_columns(a.density(), vectors)};
    const auto entries_a_row =
        static_cast<std::int64_t>(a.density() * static_cast<double>(walk.range));
    pool.run([&](int worker) {
      const auto [first, last] = slices_of(a, worker, pool.size());
      const std::int64_t begin = first * SellMatrix::kLanes;
      const std::int64_t end = std::min(a.rows(), last * SellMatrix::kLanes);
      if (begin >= end) return;
      ListedRows rows(a);
      Scratch next_storage(static_cast<std::size_t>(end - begin) * sizeof(std::int64_t));
      auto* next = next_storage.as<std::int64_t>();
      walk.run(
          begin, end,
          [&](std::int64_t r0, std::int64_t r1) {
            rows.list(r0, r1);
            std::copy(rows.row_offsets(), rows.row_offsets() + (r1 - r0), next);
          },
          [&](std::int64_t r0, std::int64_t r1, std::int64_t, std::int64_t k_end,
              const float* panel, float* sums, bool add) {
            level_.run({.row_offsets = rows.row_offsets(),
                        .columns = rows.columns(),
                        .values = rows.values(),
                        .row_begin = 0,
                        .row_end = r1 - r0,
                        .k_end = k_end,
                        .entries_a_row = entries_a_row,
                        .next = next,
                        .panel = panel,
                        .sums = sums,
                        .add = add},
                       vectors, rows.index_bits(), a.dtype());
          });
    });
  }

 private:
  std::string_view name_;
  const csr::Level& level_;
};

}  // namespace

std::span<const SpmmKernel* const> sell_panel_kernels() {
  static const SellAmxPanels amx;
  static const SellPanels csr[] = {{"sell.avx512.panels", csr::kLevels[0]},
                                   {"sell.avx2.panels", csr::kLevels[1]},
                                   {"sell.portable.panels", csr::kLevels[2]}};
  static const SpmmKernel* const kernels[] = {&amx, &csr[0], &csr[1], &csr[2]};
  return kernels;
}

}  // namespace rarefy
