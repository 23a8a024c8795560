// Bitmap weights at N up to 16. Cycles of decoding, not memory, bound them above 70 % zeros.
#include "formats/bitmap.h"

#include <cmath>

#include "ops/spmm/cpu/activations.h"
#include "ops/spmm/cpu/bitmap_inner.h"
#include "ops/spmm/cpu/row_blocks.h"
#include "ops/spmm/kernel.h"

namespace rarefy {
namespace {

constexpr std::int64_t kMaxTokens = 16;
constexpr std::int64_t kRows = BitmapMatrix::kTileRows;

Support decodes_bitmap(const FormatSpec& spec, const SpmmProblem& p) {
  if (spec != format::kBitmap) return Support::no("runs bitmap weights only");
  if (p.n > kMaxTokens) return Support::no("is for N up to 16");
  return Support::yes();
}

/// Vectors of 64 bytes that decoding a weight of this shape expands.
double groups(const SpmmProblem& p) {
  const double columns = size_of(p.weight) == 4 ? 1 : 2;
  return std::ceil(static_cast<double>(p.m) / kRows) *
         std::ceil(static_cast<double>(p.k) / columns);
}

/// Calls body(first, last, sums) for the row blocks of each thread, cut by their bytes.
template <class Body>
void for_my_blocks(const BitmapMatrix& a, std::int64_t tokens, ThreadPool& pool, const Body& body) {
  pool.run([&](int worker) {
    const std::uint64_t* offsets = a.offsets().data();
    const std::int64_t first = cut_by_bytes(offsets, a.row_blocks(), worker, pool.size());
    const std::int64_t last = cut_by_bytes(offsets, a.row_blocks(), worker + 1, pool.size());
    if (first == last) return;
    Scratch sums(static_cast<std::size_t>((last - first) * tokens * kRows) * sizeof(float));
    body(first, last, sums.as<float>());
  });
}

struct Level {
  const char* name;
  Isa isa;
  BitmapInner *bf16, *f16, *f32;
  /// Decoding one 64-byte vector of 16-bit (f32) values and multiplying by one token; measured.
  double cycles_per_group, cycles_per_f32_group;
  double cycles_per_token;  ///< More, for each further token.
  double tokens_per_pass;
};

class BitmapVector final : public SpmmKernel {
 public:
  explicit BitmapVector(const Level& level) : level_(level) {}
  [[nodiscard]] std::string_view name() const override { return level_.name; }
  [[nodiscard]] Isa isa() const override { return level_.isa; }
  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    const Support support = decodes_bitmap(spec, p);
    return support ? needs_isa(level_.isa) : support;
  }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    const auto n = static_cast<double>(p.n);
    const double passes = std::ceil(n / level_.tokens_per_pass);
    return {.bytes = estimated_bytes(spec, pattern, p.weight) + activation_bytes(p),
            .cycles = groups(p) * (passes * (size_of(p.weight) == 4 ? level_.cycles_per_f32_group
                                                                    : level_.cycles_per_group) +
                                   (n - passes) * level_.cycles_per_token)};
  }

  void run(const Matrix& matrix, const SpmmArgs& args, ThreadPool& pool) const override {
    const auto& a = dynamic_cast<const BitmapMatrix&>(matrix);
    const std::int64_t tokens = args.b.rows;
    const std::int64_t padded = a.tiles_per_block() * a.tile_cols();
    const PaddedActivations rows(args.b, padded, pool);
    const std::int64_t group = size_of(a.dtype()) == 4 ? 1 : 2;
    // One token lies interleaved as it is.
    Scratch interleaved(tokens == 1 ? 0
                                    : static_cast<std::size_t>(tokens * padded) * sizeof(float));
    const float* x = rows.data();
    if (tokens > 1) {
      x = interleaved.as<float>();
      interleave_tokens(rows.data(), rows.stride(), tokens, padded, group, interleaved.as<float>(),
                        pool);
    }
    BitmapInner* inner = a.dtype() == DType::kBF16  ? level_.bf16
                         : a.dtype() == DType::kF16 ? level_.f16
                                                    : level_.f32;
    const Epilogue epilogue(args);
    for_my_blocks(a, tokens, pool, [&](std::int64_t first, std::int64_t last, float* sums) {
      inner({.stream = a.block(0),
             .offsets = a.offsets().data() + first,
             .blocks = last - first,
             .tiles = a.tiles_per_block(),
             .x = x,
             .tokens = tokens,
             .sums = sums});
      store_row_blocks(epilogue, sums, tokens, kRows, a.rows(), first, last);
    });
  }

 private:
  Level level_;
};

class BitmapAmx final : public SpmmKernel {
 public:
  [[nodiscard]] std::string_view name() const override { return "bitmap.amx"; }
  [[nodiscard]] Isa isa() const override { return Isa::kAmx; }
  [[nodiscard]] Support supports(const FormatSpec& spec, const SpmmProblem& p) const override {
    const Support support = decodes_bitmap(spec, p);
    if (!support) return support;
    if (p.weight != DType::kBF16) return Support::no("needs bf16 weights");
    return needs_isa(Isa::kAmx);
  }

  [[nodiscard]] SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                              const SpmmProblem& p) const override {
    // 3.2 cycles of port 5 a vector, the rest tile loads and products that overlap imperfectly.
    const double vector = 3.3 + 0.05 * static_cast<double>(p.n * parts(p.activations, p.precision));
    return {.bytes = estimated_bytes(spec, pattern, p.weight) + activation_bytes(p),
            .cycles = groups(p) * vector};
  }

  void run(const Matrix& matrix, const SpmmArgs& args, ThreadPool& pool) const override {
    const auto& a = dynamic_cast<const BitmapMatrix&>(matrix);
    const std::int64_t tokens = args.b.rows;
    const std::int64_t tiles = a.tiles_per_block();
    const PaddedActivations rows(args.b, tiles * a.tile_cols(), pool);
    const int bf16_parts = parts(args.b.dtype, args.precision);
    Scratch x(static_cast<std::size_t>(tiles * bf16_parts * tokens * 64));
    const auto lay = [&](std::int64_t first, std::int64_t last) {
      bitmap_amx_activations(rows.data(), rows.stride(), tokens, bf16_parts, first, last,
                             x.as<void>());
    };
    if (tokens == 1) {
      lay(0, tiles);
    } else {
      pool.parallel_for(tiles, lay);
    }
    const Epilogue epilogue(args);
    for_my_blocks(a, tokens, pool, [&](std::int64_t first, std::int64_t last, float* sums) {
      bitmap_bf16_amx({.stream = a.block(0),
                       .offsets = a.offsets().data() + first,
                       .blocks = last - first,
                       .tiles = tiles,
                       .x = x.as<void>(),
                       .tokens = tokens,
                       .parts = bf16_parts,
                       .sums = sums});
      store_row_blocks(epilogue, sums, tokens, kRows, a.rows(), first, last);
    });
  }

 private:
  /// bf16 activations are one part as they are; others keep 16 bits of mantissa in two.
  static int parts(DType activations, Precision precision) {
    return activations == DType::kBF16 || precision == Precision::kBf16 ? 1 : 2;
  }
};

}  // namespace

std::span<const SpmmKernel* const> bitmap_kernels() {
  static const BitmapAmx amx;
  static const BitmapVector avx512({"bitmap.avx512", Isa::kAvx512, bitmap_bf16_avx512,
                                    bitmap_f16_avx512, bitmap_f32_avx512, 4.6, 3.2, 1.1, 8});
  static const BitmapVector avx2(
      {"bitmap.avx2", Isa::kAvx2, bitmap_bf16_avx2, bitmap_f16_avx2, bitmap_f32_avx2, 9, 6, 3, 2});
  static const BitmapVector portable({"bitmap.portable", Isa::kPortable, bitmap_bf16_portable,
                                      bitmap_f16_portable, bitmap_f32_portable, 50, 25, 20, 16});
  static const SpmmKernel* const kernels[] = {&amx, &avx512, &avx2, &portable};
  return kernels;
}

}  // namespace rarefy
