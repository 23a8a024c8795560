// SpMM on dense tiles and on blocks in strips: dense_tiles.* and bsr.*.
//
// The activations are repacked once, by all threads. Then each thread takes its strips of 16
// outputs and walks K in ranges whose activations stay in L2 while all its strips go past; sums
// wait in scratch between ranges and are stored after the last.
#include <algorithm>
#include <array>
#include <cmath>

#include "base/check.h"
#include "formats/bsr.h"
#include "ops/spmm/cpu/strip_activations.h"
#include "ops/spmm/cpu/strip_engine.h"
#include "ops/spmm/cpu/strip_sums.h"
#include "ops/spmm/cpu/strip_weights.h"
#include "ops/spmm/epilogue.h"
#include "ops/spmm/kernel.h"
#include "ops/spmm/scratch.h"

namespace rarefy {
namespace {

using strip::Activations;
using strip::kOutputs;
using strip::Unit;

/// Tokens that are multiplied at once; more come in turns, which read the weight again.
constexpr std::int64_t kAmxTokens = 512;
constexpr std::int64_t kFmaTokens = 256;
/// Of a 2 MiB L2, what the activations of a range of K may take: sums and weights pass through the
/// rest.
constexpr std::int64_t kFmaRangeBytes = 384 << 10;
/// Sums of the strips that a thread takes before it begins a new round over K. With short ranges
/// they come and go so often that they are to stay in L2.
constexpr std::int64_t kSumBytes = 1 << 20;
constexpr std::int64_t kManyTokensSumBytes = 512 << 10;
/// One instruction set: kernels of the three dtypes, nullptr where there is none.
struct Level {
  Isa isa;
  std::int32_t most_tokens;
  strip::Run* f32;
  strip::Run* f16;
  strip::Run* bf16;
  double cycles_per_column;  ///< Of a strip column for one token, with many tokens.
  double columns_per_load;   ///< Columns whose weights are loaded (and widened) in a cycle.

  [[nodiscard]] strip::Run* run(DType weight) const {
    return weight == DType::kF32 ? f32 : weight == DType::kF16 ? f16 : bf16;
  }
  [[nodiscard]] bool is_amx() const { return isa == Isa::kAmx; }
};

constexpr Level kLevels[] = {
    {Isa::kAmx, 16, nullptr, nullptr, strip::run_amx, 0, 0},
    {Isa::kAvx512, 16, strip::run_f32_avx512, strip::run_f16_avx512, strip::run_bf16_avx512, 0.6,
     0.8},
    {Isa::kAvx2, 6, strip::run_f32_avx2, strip::run_f16_avx2, strip::run_bf16_avx2, 1.3, 0.4},
    {Isa::kPortable, 2, strip::run_f32_portable, strip::run_f16_portable, strip::run_bf16_portable,
     8.0, 0.05},
};

/// Where K is cut: equal ranges, multiples of `width`, whose activations take at most `most_bytes`.
struct Ranges {
  std::int64_t columns, count;
  Ranges(std::int64_t padded_k, std::int64_t width, std::int64_t column_bytes,
         std::int64_t most_bytes) {
    const std::int64_t widths = std::max<std::int64_t>(1, padded_k / width);
    const std::int64_t most = std::max<std::int64_t>(1, most_bytes / (column_bytes * width));
    count = (widths + most - 1) / most;
    columns = (widths + count - 1) / count * width;
    count = (padded_k + columns - 1) / columns;
  }
};

/// One thread's part of one call, for a set of tokens.
class Worker {
 public:
  Worker(const Level& level, DType weight_dtype, const strip::Weights& weights,
         const Activations& x, const Epilogue& epilogue, std::int64_t m, std::int64_t n)
      : level_(level),
        run_(level.run(weight_dtype)),
        weights_(weights),
        x_(x),
        epilogue_(epilogue),
        m_(m),
        n_(n),
        ranges_(weights.padded_k(), weights.width(),
                std::int64_t{x.token_tiles} * (level.is_amx() ? 32 * x.parts : 4 * x.tokens),
                level.is_amx() ? strip::range_bytes(x.token_tiles, x.parts) : kFmaRangeBytes),
        // One token tile leaves AMX registers for four strips, and memory likes four streams.
        // AVX-512 keeps sums of four strips in registers, so that a broadcast serves four products.
        strips_together_(level.isa < Isa::kAvx512                ? 1
                         : !level.is_amx() || x.token_tiles == 1 ? 4
                                                                 : 2) {}

  void run(std::int64_t begin, std::int64_t end) {
    if (begin == end) return;
    if (level_.is_amx()) strip::amx_begin(x_.tokens);
    const std::int64_t round =
        ranges_.count == 1
            ? end - begin
            : std::max<std::int64_t>(strip::kStripsAStore,
                                     sum_bytes() / (x_.token_tiles * strip_bytes()) /
                                         strip::kStripsAStore * strip::kStripsAStore);
    for (std::int64_t s = begin; s < end; s += round) run_round(s, std::min(end, s + round));
    if (level_.is_amx()) strip::amx_end();
  }

 private:
  static constexpr std::int64_t strip_bytes() {
    return strip::kSumTileFloats * static_cast<std::int64_t>(sizeof(float));
  }

  [[nodiscard]] std::int64_t sum_bytes() const {
    return level_.is_amx() && x_.token_tiles > 16 ? kManyTokensSumBytes : kSumBytes;
  }

  /// All of K for strips [begin, end).
  void run_round(std::int64_t begin, std::int64_t end) {
    const bool keeps_sums = ranges_.count > 1;
    const std::int64_t sum_strips = keeps_sums ? end - begin : strip::kStripsAStore;
    const std::int64_t strip_floats = std::int64_t{x_.token_tiles} * strip::kSumTileFloats;
    Scratch sums(strip::huge_page_bytes(static_cast<std::size_t>(sum_strips * strip_floats) *
                                        sizeof(float)));
    Scratch unit_storage(static_cast<std::size_t>((end - begin) * ranges_.count) * sizeof(Unit));
    Unit* units = unit_storage.as<Unit>();
    std::int64_t count = 0;
    for (std::int64_t range = 0; range < ranges_.count; ++range) {
      const std::int64_t k_begin = range * ranges_.columns;
      const std::int64_t k_end = std::min(weights_.padded_k(), k_begin + ranges_.columns);
      for_each_group(begin, end, [&](std::int64_t s, std::int32_t strips) {
        Unit& u = units[count++] = weights_.unit(s, strips, k_begin, k_end);
        const std::int64_t slot = keeps_sums ? s - begin : (s - begin) % strip::kStripsAStore;
        u.sums = sums.as<float>() + slot * strip_floats;
        u.add = range > 0;
      });
    }

    const Unit* const units_end = units + count;
    const Unit* next = units;  // The next one that has weights.
    const Unit* unit = units;
    for (std::int64_t range = 0; range < ranges_.count; ++range) {
      for (std::int64_t s = begin; s < end; s += strip::kStripsAStore) {
        const std::int64_t stop = std::min(end, s + strip::kStripsAStore);
        for (std::int64_t done = s; done < stop; done += unit->strips, ++unit) {
          while (next != units_end && (next <= unit || next->blocks == 0)) ++next;
          run_(*unit, x_, next == units_end ? nullptr : next);
        }
        if (range + 1 < ranges_.count) continue;
        const std::int64_t slot = keeps_sums ? s - begin : 0;
        strip::store_sums(epilogue_, sums.as<float>() + slot * strip_floats, s, stop - s, x_, n_,
                          m_);
      }
    }
  }

  /// Strips [begin, end) in the groups of units; a group never crosses a store.
  template <class Body>
  void for_each_group(std::int64_t begin, std::int64_t end, Body&& body) {
    for (std::int64_t s = begin; s < end;) {
      const std::int64_t store_end =
          begin + ((s - begin) / strip::kStripsAStore + 1) * strip::kStripsAStore;
      const std::int32_t strips =
          weights_.strips_together(s, std::min(end, store_end), strips_together_);
      body(s, strips);
      s += strips;
    }
  }

  const Level& level_;
  strip::Run* run_;
  const strip::Weights& weights_;
  const Activations& x_;
  const Epilogue& epilogue_;
  std::int64_t m_, n_;
  Ranges ranges_;
  std::int32_t strips_together_;
};

class StripKernel final : public SpmmKernel {
 public:
  StripKernel(std::string_view name, Format format, const Level& level)
      : name_(name), format_(format), level_(level) {}
  [[nodiscard]] std::string_view name() const override { return name_; }
  [[nodiscard]] Isa isa() const override { return level_.isa; }

  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    if (spec.format != format_ || spec.block_rows == 0)
      return Support::no(format_ == Format::kBsr ? "needs a block sparse weight"
                                                 : "needs a dense weight in tiles");
    if (level_.run(p.weight) == nullptr)
      return Support::no(fmt::format("needs bf16 weights, got {}", to_string(p.weight)));
    if (format_ == Format::kBsr) {
      if (!Bsr::in_strips(spec, p.weight))
        return Support::no("needs blocks of a multiple of 16 rows, for bf16 of even width");
      if (level_.is_amx() && spec.block_cols % 32 != 0)
        return Support::no(
            fmt::format("needs blocks of a multiple of 32 columns, got {}", spec.block_cols));
    }
    return needs_isa(level_.isa);
  }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    const double bytes = estimated_bytes(spec, pattern, p.weight);
    const double columns = bytes / static_cast<double>(size_of(p.weight)) / kOutputs;
    const auto m = static_cast<double>(p.m);
    const auto n = static_cast<double>(p.n);
    const auto k = static_cast<double>(p.k);
    const double turns =
        std::ceil(n / static_cast<double>(level_.is_amx() ? kAmxTokens : kFmaTokens));
    const double moved = turns * bytes + activation_bytes(p);
    if (!level_.is_amx()) {
      const double passes = std::ceil(n / level_.most_tokens);
      return {
          .bytes = moved,
          .cycles = columns * (n * level_.cycles_per_column + passes / level_.columns_per_load) +
                    2 * n * k + 0.3 * n * m};
    }
    // Measured in whole multiplications of weights from memory (cpu-gemm.md): cycles a product with
    // two strips by two token tiles, and with one strip by four. Sums and activations pass by the
    // L3 once a range of K, at about 130 cycles a KiB.
    const double token_tiles = std::ceil(n / 16);
    const double parts = strip::amx_parts(p.activations, p.precision);
    const double product = spec.block_rows % 32 == 0 || format_ == Format::kDense ? 57 : 70;
    const std::int64_t turn_tiles = strip::turn_tokens(p.n, kAmxTokens) / 16;
    const double ranges =
        std::ceil(k * static_cast<double>(turn_tiles) * 32 * parts /
                  static_cast<double>(strip::range_bytes(turn_tiles, static_cast<int>(parts))));
    const double sum_tiles = std::ceil(m / kOutputs) * token_tiles * (ranges > 1 ? ranges : 0);
    const double activation_tiles = p.threads * k / 32 * token_tiles * parts;
    return {.bytes = moved,
            .cycles = columns / 32 * (30 + token_tiles * parts * product) +
                      130 * (sum_tiles + activation_tiles) + 0.25 * n * k * parts + 0.3 * n * m};
  }

  void run(const Matrix& a, const SpmmArgs& args, ThreadPool& pool) const override {
    const strip::Weights weights(a);
    const std::int64_t turn =
        strip::turn_tokens(args.b.rows, level_.is_amx() ? kAmxTokens : kFmaTokens);
    for (std::int64_t t = 0; t < args.b.rows; t += turn) {
      const SpmmArgs part = strip::tokens_of(args, t, std::min(args.b.rows, t + turn));
      if (level_.is_amx()) {
        const strip::AmxActivations x(part.b, args.precision, weights.padded_k(), pool);
        run_tokens(a, weights, x.get(), part, pool);
      } else {
        const auto tiles = strip::TokenTiles::even(part.b.rows, level_.most_tokens);
        const strip::FmaActivations x(part.b, tiles, weights.padded_k(), pool);
        run_tokens(a, weights, x.get(), part, pool);
      }
    }
  }

 private:
  void run_tokens(const Matrix& a, const strip::Weights& weights, const Activations& x,
                  const SpmmArgs& args, ThreadPool& pool) const {
    const Epilogue epilogue(args);
    pool.run([&](int worker) {
      Worker(level_, a.dtype(), weights, x, epilogue, a.rows(), args.b.rows)
          .run(weights.cut(worker, pool.size()), weights.cut(worker + 1, pool.size()));
    });
  }

  std::string_view name_;
  Format format_;
  const Level& level_;
};

}  // namespace

std::span<const SpmmKernel* const> strip_kernels() {
  static const std::array<StripKernel, 8> kernels = {
      StripKernel{"dense_tiles.amx", Format::kDense, kLevels[0]},
      StripKernel{"dense_tiles.avx512", Format::kDense, kLevels[1]},
      StripKernel{"dense_tiles.avx2", Format::kDense, kLevels[2]},
      StripKernel{"dense_tiles.portable", Format::kDense, kLevels[3]},
      StripKernel{"bsr.amx", Format::kBsr, kLevels[0]},
      StripKernel{"bsr.avx512", Format::kBsr, kLevels[1]},
      StripKernel{"bsr.avx2", Format::kBsr, kLevels[2]},
      StripKernel{"bsr.portable", Format::kBsr, kLevels[3]},
  };
  static const std::array<const SpmmKernel*, 8> list = {&kernels[0], &kernels[1], &kernels[2],
                                                        &kernels[3], &kernels[4], &kernels[5],
                                                        &kernels[6], &kernels[7]};
  return list;
}

}  // namespace rarefy
