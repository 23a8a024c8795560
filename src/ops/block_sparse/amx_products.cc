// Block-sparse products of bf16 on AMX.
//
// The activations of a panel of tokens stay in L2, and all weights go past. For one panel they are
// brought into tiles as they are used, in runs that stay in L1; for more, once for all of them.
#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "ops/block_sparse/cpu/amx_inner.h"
#include "ops/block_sparse/cut.h"
#include "ops/block_sparse/products.h"
#include "ops/block_sparse/weight_tiles.h"
#include "ops/spmm/cpu/strip_activations.h"
#include "ops/spmm/epilogue.h"
#include "ops/spmm/scratch.h"
#include "rarefy/cpu.h"

namespace rarefy {
namespace {

using block_cpu::kStripOutputs;
using block_cpu::kSumFloats;
using block_cpu::kTileBytes;
using block_cpu::kTileInputs;

/// Activations of a panel of tokens and a range of inputs.
constexpr std::int64_t kRangeBytes = 1 << 20;
/// Token tiles of a panel below which inputs are cut rather than tokens. Every panel reads all
/// tiles of weights, every range its sums: where blocks of 8 fill most tiles of a strip, fewer
/// panels win.
constexpr std::int64_t kLeastTiles = 8;
constexpr std::int64_t kLeastTilesOfFullStrips = 16;
/// Tiles of a strip that are in L1 together: 24 KiB of two strips.
constexpr std::int64_t kRunTiles = 12;

/// Activations of a panel in tiles, a range of inputs at a time: [token group][k / 32][tile], the
/// tiles of a group being multiplied together.
class TokenPanel {
 public:
  TokenPanel(const StripGroups& groups, const PanelCuts& cuts)
      : cuts_(cuts),
        group_(groups.strips() == 1 ? 4 : 2),
        range_inputs_(cuts.range * groups.blocks().in),
        inputs_(groups.blocks().inputs_total) {}

  [[nodiscard]] int group() const { return group_; }
  [[nodiscard]] std::int64_t group_stride() const {
    return group_ * ceil_div(range_inputs_, kTileInputs) * kTileBytes;
  }
  [[nodiscard]] std::size_t bytes() const {
    return static_cast<std::size_t>(ceil_div(cuts_.panel_tiles, group_) * group_stride());
  }

  void pack(const ConstMatrixRef& b, std::int64_t range, std::byte* to) const {
    const std::int64_t first = range * range_inputs_;
    const std::int64_t columns = std::min(range_inputs_, inputs_ - first);
    const std::size_t size = size_of(b.dtype);
    for (std::int64_t tile = 0; tile < ceil_div(b.rows, cuts_.tile_tokens); ++tile) {
      const std::int64_t token = tile * cuts_.tile_tokens;
      const strip::AmxPack job{
          .from = static_cast<const std::byte*>(b.data) +
                  static_cast<std::size_t>(token * b.row_stride + first) * size,
          .row_stride = b.row_stride,
          .rows = std::min(cuts_.tile_tokens, b.rows - token),
          .tokens = cuts_.tile_tokens,
          .columns = columns,
          .tile_stride = group_ * kTileBytes,
          .to = to + tile / group_ * group_stride() + tile % group_ * kTileBytes};
      b.dtype == DType::kBF16 ? strip::amx_pack_bf16(job) : strip::amx_pack_f32(job);
    }
  }

 private:
  const PanelCuts& cuts_;
  int group_;
  std::int64_t range_inputs_, inputs_;
};

/// What a thread does with groups [first, last) of outputs of a panel of tokens.
class PanelWorker {
 public:
  /// `packed`: nullptr to bring weights into tiles as they are used.
  PanelWorker(const StripGroups& groups, const ConstBlockValues& values, const PanelCuts& cuts,
              PackedTiles* packed)
      : g_(groups),
        cuts_(cuts),
        packed_(packed),
        tiles_(groups, values.data),
        panel_(groups, cuts),
        x_(strip::huge_page_bytes(panel_.bytes())),
        weights_(packed != nullptr ? 0 : static_cast<std::size_t>(2 * kRunTiles * kTileBytes)) {}

  void run(const SpmmArgs& args, std::int64_t panel, std::int64_t first, std::int64_t last) {
    const std::int64_t token_tiles = ceil_div(args.b.rows, cuts_.tile_tokens);
    const std::int64_t strip_floats = token_tiles * kSumFloats;
    const std::int64_t group_floats = strip_floats * g_.strips();
    const bool waits = cuts_.ranges > 1;
    Scratch sums(static_cast<std::size_t>(group_floats * (waits ? last - first : 1)) *
                 sizeof(float));
    const std::int64_t range_tiles = ceil_div(cuts_.range * g_.blocks().in, kTileInputs);
    strip::amx_begin(static_cast<int>(cuts_.tile_tokens));
    for (std::int64_t r = 0; r < cuts_.ranges; ++r) {
      if (panel != x_panel_ || waits) panel_.pack(args.b, r, x_.as<std::byte>());
      x_panel_ = panel;
      for (std::int64_t group = first; group < last; ++group) {
        float* group_sums = sums.as<float>() + (waits ? group - first : 0) * group_floats;
        multiply_group(group, r * range_tiles, (r + 1) * range_tiles, token_tiles, group_sums);
        if (r + 1 == cuts_.ranges) store(args, group, token_tiles, group_sums);
      }
    }
    strip::amx_end();
  }

 private:
  /// Inputs [first, last), in tiles.
  void multiply_group(std::int64_t group, std::int64_t first, std::int64_t last,
                      std::int64_t token_tiles, float* sums) {
    if (packed_ == nullptr) tiles_.build(group);
    const std::span<const std::int32_t> inputs =
        packed_ != nullptr ? packed_->inputs(group) : std::span(tiles_.inputs());
    const auto tile_at = [&](std::int64_t input) {
      return std::lower_bound(inputs.begin(), inputs.end(), input) - inputs.begin();
    };
    const std::int64_t begin = first == 0 ? 0 : tile_at(first);
    const std::int64_t end = cuts_.ranges == 1 ? std::ssize(inputs) : tile_at(last);
    for (std::int64_t strip = 0; strip < g_.strips(); strip += 2) {
      block_cpu::TileProducts job{.weights = weights_.as<std::byte>(),
                                  .strips = g_.strips_at(strip),
                                  .tiles = 0,
                                  .inputs = inputs.data(),
                                  .first_input = static_cast<std::int32_t>(first),
                                  .x = x_.as<std::byte>(),
                                  .group_stride = panel_.group_stride(),
                                  .group = panel_.group(),
                                  .token_tiles = token_tiles,
                                  .sums = sums + strip * token_tiles * kSumFloats,
                                  .add = first > 0,
                                  .ahead = nullptr,
                                  .ahead_lines = 0};
      if (begin == end && first == 0) block_cpu::multiply_tiles_amx(job);  // Writes zeros.
      for (std::int64_t tile = begin; tile < end; tile += kRunTiles) {
        job.tiles = std::min(kRunTiles, end - tile);
        job.inputs = inputs.data() + tile;
        if (packed_ == nullptr) {
          tiles_.pack(tile, job.tiles, strip, weights_.as<std::byte>());
        } else {
          job.weights = packed_->weights(group, strip) + tile * job.strips * kTileBytes;
          job.ahead = job.weights + job.tiles * job.strips * kTileBytes;
          job.ahead_lines = job.tiles * job.strips * kTileBytes / 64;
        }
        block_cpu::multiply_tiles_amx(job);
        job.add = true;
      }
    }
  }

  void store(const SpmmArgs& args, std::int64_t group, std::int64_t token_tiles,
             const float* sums) {
    const std::int64_t row = group * g_.outputs();
    const std::int64_t outputs = std::min(g_.outputs(), args.c.cols - row);
    const bool simple = args.activation == Activation::kNone && args.c.dtype != DType::kF16 &&
                        outputs == g_.outputs();
    if (simple) {
      const auto at = [&](const void* data) {
        return static_cast<const std::byte*>(data) +
               static_cast<std::size_t>(row) * size_of(args.c.dtype);
      };
      const block_cpu::SumRows job{
          .sums = sums,
          .strips = g_.strips(),
          .token_tiles = token_tiles,
          .tile_tokens = cuts_.tile_tokens,
          .tokens = args.c.rows,
          .bias = args.bias != nullptr ? args.bias + row : nullptr,
          .residual = args.residual.data != nullptr ? at(args.residual.data) : nullptr,
          .residual_stride = args.residual.row_stride,
          .c = const_cast<std::byte*>(at(args.c.data)),
          .c_stride = args.c.row_stride};
      return args.c.dtype == DType::kBF16 ? block_cpu::store_bf16_amx(job)
                                          : block_cpu::store_f32_amx(job);
    }
    const Epilogue epilogue(args);
    for (std::int64_t t = 0; t < args.c.rows; ++t) {
      const float* from =
          sums + t / cuts_.tile_tokens * kSumFloats + t % cuts_.tile_tokens * kStripOutputs;
      constexpr std::int64_t kStrips = 8;
      float gathered[kStrips * kStripOutputs];
      for (std::int64_t s = 0; s < g_.strips(); s += kStrips) {
        const std::int64_t strips = std::min(kStrips, g_.strips() - s);
        for (std::int64_t i = 0; i < strips; ++i)
          std::copy_n(from + (s + i) * token_tiles * kSumFloats, kStripOutputs,
                      gathered + i * kStripOutputs);
        epilogue.store(t, row + s * kStripOutputs, gathered,
                       std::min(strips * kStripOutputs, outputs - s * kStripOutputs));
      }
    }
  }

  const StripGroups& g_;
  const PanelCuts& cuts_;
  PackedTiles* packed_;
  GroupTiles tiles_;
  TokenPanel panel_;
  Scratch x_, weights_;
  std::int64_t x_panel_ = -1;  ///< Whose activations x_ holds.
};

}  // namespace

bool fits_amx(const BlockGroups& groups, const ConstBlockValues& values, const SpmmArgs& args) {
  const bool activations = args.b.dtype == DType::kBF16 ||
                           (args.b.dtype == DType::kF32 && args.precision == Precision::kBf16);
  const bool outputs = groups.out % kStripOutputs == 0 || groups.out == kStripOutputs / 2;
  return values.dtype == DType::kBF16 && activations && outputs && groups.in % 8 == 0 &&
         groups.inputs_total > 0;
}

void multiply_blocks_amx(const BlockGroups& blocks, const ConstBlockValues& values,
                         const SpmmArgs& args, ThreadPool& pool) {
  const std::int64_t tokens = args.b.rows;
  const StripGroups groups(blocks);
  const PanelCuts cuts(
      blocks, tokens, strip::TokenTiles::even(tokens, 16).tokens,
      {.activation_bytes = 2,
       .range_bytes = kRangeBytes,
       .least_tiles = groups.members() == 1 ? kLeastTiles : kLeastTilesOfFullStrips,
       .range_unit = groups.tile_parts()});
  std::optional<PackedTiles> packed;
  if (cuts.panels > 1) packed.emplace(groups, values.data, pool);
  hand_out(pool, groups.offsets(), groups.groups(), cuts.panels, cuts.ranges, [&] {
    return [&, worker = std::make_unique<PanelWorker>(groups, values, cuts,
                                                      packed ? &*packed : nullptr)](
               std::int64_t panel, std::int64_t first, std::int64_t last) {
      worker->run(strip::tokens_of(args, panel * cuts.panel_tokens(),
                                   std::min(tokens, (panel + 1) * cuts.panel_tokens())),
                  panel, first, last);
    };
  });
}

}  // namespace rarefy
