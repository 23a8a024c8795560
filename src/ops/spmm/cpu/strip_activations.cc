#include "ops/spmm/cpu/strip_activations.h"

#include <algorithm>

#include "ops/spmm/cpu/transpose_floats.h"

namespace rarefy::strip {
namespace {

std::int64_t round_up(std::int64_t x, std::int64_t unit) {
  return (x + unit - 1) / unit * unit;
}

const std::byte* element(const ConstMatrixRef& b, std::int64_t token, std::int64_t k) {
  return static_cast<const std::byte*>(b.data) +
         static_cast<std::size_t>(token * b.row_stride + k) * size_of(b.dtype);
}

/// One token tile, columns [k_begin, k_end) of b. f16 goes by f32 in pieces that stay in L1.
void pack_amx_tile(const ConstMatrixRef& b, const Activations& x, std::int64_t tile,
                   std::int64_t k_begin, std::int64_t k_end, std::byte* to) {
  const std::int64_t first = tile * x.tokens;
  const std::int64_t rows = std::clamp<std::int64_t>(b.rows - first, 0, x.tokens);
  const std::int64_t tile_stride = std::int64_t{x.token_tiles} * x.parts * kTileBytes;
  const auto tile_of = [&](std::int64_t k) {
    return to + k / kTileK * tile_stride + tile * x.parts * kTileBytes;
  };
  AmxPack pack{.from = element(b, first, k_begin),
               .row_stride = b.row_stride,
               .rows = rows,
               .tokens = x.tokens,
               .columns = k_end - k_begin,
               .tile_stride = tile_stride,
               .to = tile_of(k_begin)};
  const auto pack_floats = x.parts == 2 ? amx_pack_split : amx_pack_f32;
  if (b.dtype == DType::kBF16) return amx_pack_bf16(pack);
  if (b.dtype == DType::kF32) return pack_floats(pack);
  constexpr std::int64_t kPiece = 256;
  float piece[16 * kPiece];
  for (std::int64_t k = k_begin; k < k_end; k += kPiece) {
    const std::int64_t columns = std::min(kPiece, k_end - k);
    for (std::int64_t r = 0; r < rows; ++r)
      convert_elements(element(b, first + r, k), b.dtype, piece + r * kPiece, DType::kF32,
                       static_cast<std::size_t>(columns));
    pack.from = piece;
    pack.row_stride = kPiece;
    pack.columns = columns;
    pack.to = tile_of(k);
    pack_floats(pack);
  }
}

/// Columns [k_begin, k_end) of one token tile as f32, [k][token].
void pack_fma_tile(const ConstMatrixRef& b, const Activations& x, std::int64_t tile,
                   std::int64_t k_begin, std::int64_t k_end, float* to) {
  // 64 columns of 64 tokens are 16 KiB: they fill in L1.
  constexpr std::int64_t kPiece = 64;
  constexpr std::int64_t kTokens = 16;
  float piece[kTokens * kPiece];
  const std::int64_t first = tile * x.tokens;
  const std::int64_t live_tokens = std::clamp<std::int64_t>(b.rows - first, 0, x.tokens);
  float* out = to + tile * x.padded_k * x.tokens;
  for (std::int64_t k = k_begin; k < k_end; k += kPiece) {
    const std::int64_t stop = std::min(k_end, k + kPiece);
    const std::int64_t live = std::clamp<std::int64_t>(b.cols - k, 0, stop - k);
    if (live < stop - k || live_tokens < x.tokens)
      std::fill(out + k * x.tokens, out + stop * x.tokens, 0.0F);
    for (std::int64_t t = 0; live > 0 && t < live_tokens; t += kTokens) {
      const std::int64_t tokens = std::min(kTokens, live_tokens - t);
      const auto* from = reinterpret_cast<const float*>(element(b, first + t, k));
      std::int64_t stride = b.row_stride;
      if (b.dtype != DType::kF32) {
        for (std::int64_t i = 0; i < tokens; ++i)
          convert_elements(element(b, first + t + i, k), b.dtype, piece + i * kPiece, DType::kF32,
                           static_cast<std::size_t>(live));
        from = piece;
        stride = kPiece;
      }
      transpose_floats(from, stride, tokens, live, out + k * x.tokens + t, x.tokens);
    }
  }
}

}  // namespace

int amx_parts(DType activations, Precision precision) {
  return activations == DType::kBF16 || precision == Precision::kBf16 ? 1 : 2;
}

TokenTiles TokenTiles::even(std::int64_t n, std::int64_t most) {
  const std::int64_t count = (n + most - 1) / most;
  return of(n, (n + count - 1) / count);
}

TokenTiles TokenTiles::of(std::int64_t n, std::int64_t tokens) {
  return {static_cast<std::int32_t>((n + tokens - 1) / tokens), static_cast<std::int32_t>(tokens)};
}

std::size_t huge_page_bytes(std::size_t bytes) {
  constexpr std::size_t kWorthIt = 256 << 10;
  constexpr std::size_t kHugeFrom = 4 << 20;
  return bytes < kWorthIt ? bytes : std::max(bytes, kHugeFrom);
}

std::int64_t turn_tokens(std::int64_t n, std::int64_t most) {
  const std::int64_t turns = std::max<std::int64_t>(1, (n + most - 1) / most);
  return std::max<std::int64_t>(16, round_up((n + turns - 1) / turns, 16));
}

std::int64_t range_bytes(std::int64_t token_tiles, std::int64_t parts) {
  // Of a 2 MiB L2, what activations may take: sums and weights pass through the rest.
  constexpr std::int64_t kFewTokens = 600 << 10;
  // 18 KiB for two strips.
  constexpr std::int64_t kTiles = 9;
  return token_tiles <= 16 ? kFewTokens : kTiles * token_tiles * parts * kTileBytes;
}

SpmmArgs tokens_of(const SpmmArgs& args, std::int64_t begin, std::int64_t end) {
  const auto skip = [begin](std::int64_t row_stride, DType dtype) {
    return static_cast<std::size_t>(begin * row_stride) * size_of(dtype);
  };
  SpmmArgs part = args;
  part.b.data = static_cast<const std::byte*>(args.b.data) + skip(args.b.row_stride, args.b.dtype);
  part.c.data = static_cast<std::byte*>(args.c.data) + skip(args.c.row_stride, args.c.dtype);
  part.b.rows = part.c.rows = end - begin;
  if (args.residual.data != nullptr) {
    part.residual.data = static_cast<const std::byte*>(args.residual.data) +
                         skip(args.residual.row_stride, args.residual.dtype);
    part.residual.rows = end - begin;
  }
  return part;
}

AmxActivations::AmxActivations(const ConstMatrixRef& b, Precision precision, std::int64_t padded_k,
                               ThreadPool& pool)
    : x_([&] {
        const TokenTiles tiles = TokenTiles::even(b.rows, 16);
        return Activations{nullptr, round_up(padded_k, kTileK), tiles.count, tiles.tokens,
                           amx_parts(b.dtype, precision)};
      }()),
      storage_(huge_page_bytes(static_cast<std::size_t>(x_.padded_k / kTileK * x_.token_tiles *
                                                        x_.parts * kTileBytes))) {
  auto* to = storage_.as<std::byte>();
  x_.data = to;
  const std::int64_t live_tiles = (b.cols + kTileK - 1) / kTileK;
  // Eight tiles of k at a time: 512 bytes of a bf16 row, enough for the prefetcher to follow.
  constexpr std::int64_t kRun = 8;
  pool.parallel_for((x_.padded_k / kTileK + kRun - 1) / kRun,
                    [&](std::int64_t begin, std::int64_t end) {
                      for (std::int64_t run = begin; run < end; ++run) {
                        const std::int64_t k0 = run * kRun * kTileK;
                        const std::int64_t k1 = std::min(b.cols, k0 + kRun * kTileK);
                        for (std::int64_t tile = 0; k0 < k1 && tile < x_.token_tiles; ++tile)
                          pack_amx_tile(b, x_, tile, k0, k1, to);
                      }
                    });
  // Whole tiles past K, where blocks are wider than a tile.
  const std::int64_t k_bytes = std::int64_t{x_.token_tiles} * x_.parts * kTileBytes;
  std::fill(to + live_tiles * k_bytes, to + x_.padded_k / kTileK * k_bytes, std::byte{0});
}

FmaActivations::FmaActivations(const ConstMatrixRef& b, TokenTiles tiles, std::int64_t padded_k,
                               ThreadPool& pool)
    : x_{nullptr, padded_k, tiles.count, tiles.tokens, 1},
      storage_(huge_page_bytes(static_cast<std::size_t>(padded_k * x_.token_tiles * x_.tokens) *
                               sizeof(float))) {
  auto* to = storage_.as<float>();
  x_.data = to;
  constexpr std::int64_t kRun = 256;
  pool.parallel_for((padded_k + kRun - 1) / kRun, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t tile = 0; tile < x_.token_tiles; ++tile)
      pack_fma_tile(b, x_, tile, begin * kRun, std::min(padded_k, end * kRun), to);
  });
}

}  // namespace rarefy::strip
