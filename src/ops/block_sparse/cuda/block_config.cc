#include "ops/block_sparse/cuda/block_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "cuda/device_text.h"
#include "ops/block_sparse/cuda/warpgroup_text.h"

namespace rarefy::gpu {
namespace {

constexpr int kWgmmaGroup = 4;             // Warps.
constexpr int kMostStages = 8;             // More hide nothing.
constexpr int kTurnedBytes = 32 * 68 * 4;  // Of a warpgroup (products_features.cu).

std::int64_t divide_up(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}
std::int64_t round_up(std::int64_t a, std::int64_t b) {
  return divide_up(a, b) * b;
}

bool is_block(int size) {
  return size == 16 || size == 32 || size == 64 || size == 128;
}

std::int64_t slab_bytes(int tokens) {
  return std::int64_t{tokens} * kSlab * 2;
}
std::int64_t piece_bytes(const PieceShape& piece) {
  return std::int64_t{piece.out} * piece.in * 2;
}

/// Stages as many as fit beside `rest` bytes.
int stages_that_fit(std::int64_t stage, std::int64_t rest, const cuda::DeviceFacts& device,
                    int most) {
  const std::int64_t room = static_cast<std::int64_t>(device.shared_per_block) - rest;
  return static_cast<int>(std::min<std::int64_t>(most, room / stage));
}

void add_products(const BlockProblem& problem, const cuda::DeviceFacts& device,
                  std::vector<BlockConfig>& found) {
  const PieceShape piece = problem.piece();
  const bool hopper = device.major == 9;
  const auto add = [&](BlockConfig config, int fewest_stages, int most_stages) {
    const int all = config.features / piece.out * piece.across();
    // Few slabs are full: a slab of more pieces than fit takes several steps.
    config.most_pieces = problem.density > 0.4 || all <= 2 ? all : divide_up(all, 2);
    config.stages = 1;
    const std::int64_t one = config.shared_bytes(problem);
    config.stages = 2;
    const std::int64_t stage = config.shared_bytes(problem) - one;
    constexpr std::int64_t kRounding = 256;
    config.stages = stages_that_fit(stage, one - stage + kRounding, device, most_stages);
    if (config.stages >= fewest_stages) found.push_back(config);
  };
  constexpr int kMmaShapes[][3] = {{64, 64, 4}, {64, 128, 4}, {128, 128, 4}};
  for (const auto& [features, tokens, warps] : kMmaShapes)
    add({.way = BlockWay::kMma, .features = features, .tokens = tokens, .warps = warps}, 2, 3);
  if (!hopper) return;
  if (piece.out == 64) {
    for (const int tokens : {64, 128, 192, 256})
      add({.way = BlockWay::kFeatures, .features = 128, .tokens = tokens, .warps = 2 * kWgmmaGroup},
          3, kMostStages);
    add({.way = BlockWay::kFeatures, .features = 256, .tokens = 128, .warps = 4 * kWgmmaGroup}, 3,
        kMostStages);
  }
  constexpr int kTokenShapes[][4] = {
      {128, 256, 2, 1}, {256, 128, 2, 1}, {128, 128, 2, 1}, {128, 256, 4, 1}, {256, 128, 4, 2}};
  for (const auto& [features, tokens, groups, parts] : kTokenShapes)
    add({.way = BlockWay::kTokens,
         .features = features,
         .tokens = tokens,
         .warps = groups * kWgmmaGroup,
         .parts = parts},
        3, kMostStages);
}

void add_samples(const BlockProblem& problem, const cuda::DeviceFacts& device,
                 std::vector<BlockConfig>& found) {
  const PieceShape piece = problem.piece();
  const bool hopper = device.major == 9;
  // Sums of 64 to 128 registers a thread; wide strips of Q for few pieces, narrow ones for many.
  const int side = std::max(piece.out, piece.in);
  const auto add_mma = [&](int warps, int slots, int row_strips, int column_strips) {
    BlockConfig config{.way = BlockWay::kMma, .warps = warps, .slots = slots};
    config.task = {row_strips, column_strips, warps * slots};
    const std::int64_t stage =
        std::int64_t{config.stage_tokens} * 2 * (row_strips * piece.out + column_strips * piece.in);
    config.stages = stages_that_fit(stage, 0, device, 3);
    if (config.stages >= 2) found.push_back(config);
  };
  if (side == 64) {
    const int slots = piece.out * piece.in == 64 * 64 ? 1 : 2;
    add_mma(4, slots, 1, 4 * slots);
    add_mma(8, slots, 2, 8 * slots);
  } else if (side == 32) {
    const int slots = piece.out * piece.in == 32 * 32 ? 4 : 8;
    add_mma(4, slots, 4, 12);
    add_mma(8, slots, 4, 24);
  } else {
    add_mma(4, 8, 8, 24);
    add_mma(8, 8, 8, 40);
  }
  if (!hopper) return;
  // Columns of a product: what is left over in the last round differs.
  for (const int columns : {256, 224, 192, 128})
    for (int strip = piece.in; strip <= std::min(64, 2 * piece.in); strip *= 2)
      for (const int row_strips : {1, 2})
        for (const int tokens : {32, 64}) {
          if (columns % strip != 0 || (row_strips == 1 && problem.block_rows == 128)) continue;
          BlockConfig config{.way = BlockWay::kFeatures, .warps = 2 * kWgmmaGroup};
          config.strip = strip;
          config.stage_tokens = tokens;
          config.together = columns / strip;
          config.task = {row_strips, 2 * config.together, 0};
          if (row_strips == 2) {
            // A strip more than what is expected: tasks are nearly alike.
            const double alone = config.together * (1 - shared_columns(problem, strip));
            constexpr int kMost = 32;
            config.task.column_strips =
                problem.block_rows == 128
                    ? config.together
                    : std::min({kMost, 2 * config.together,
                                config.together + static_cast<int>(std::ceil(alone)) + 1});
          }
          constexpr int kFewest = 3;
          config.stages = stages_that_fit(std::int64_t{tokens} * 2 * config.sample_columns(piece),
                                          256, device, kMostStages);
          if (config.stages >= kFewest) found.push_back(config);
        }
}

}  // namespace

const char* to_string(BlockProduct product) {
  switch (product) {
    case BlockProduct::kForward:
      return "forward";
    case BlockProduct::kTransposed:
      return "transposed";
    default:
      return "samples";
  }
}

PieceShape BlockProblem::piece() const {
  BlockPattern pattern;
  pattern.block_rows = block_rows;
  pattern.block_cols = block_cols;
  return piece_shape(pattern, transposed());
}

Support supports(const BlockProblem& problem, const cuda::DeviceFacts& device) {
  if (device.major < 8)
    return Support::no(
        fmt::format("block-sparse products need a GPU of compute capability 8.0, "
                    "this one has {}.{}",
                    device.major, device.minor));
  if (problem.dtype != DType::kF16 && problem.dtype != DType::kBF16)
    return Support::no(fmt::format("block-sparse products on a GPU take f16 and bf16, not {}",
                                   to_string(problem.dtype)));
  const int r = problem.block_rows, c = problem.block_cols;
  if (!is_block(r) || !is_block(c) || r > 2 * c || c > 2 * r)
    return Support::no(
        fmt::format("block-sparse products on a GPU take blocks of 16, 32, 64 and "
                    "128, square or one side twice the other, not {}x{}",
                    r, c));
  return Support::yes();
}

std::string BlockConfig::name(const BlockProblem& problem) const {
  constexpr const char* kWays[] = {"mma", "features", "tokens"};
  std::string name = fmt::format("{}.{}.{}x{}.{}", to_string(problem.product),
                                 problem.product == BlockProduct::kSamples && way != BlockWay::kMma
                                     ? "wgmma"
                                     : kWays[static_cast<int>(way)],
                                 problem.block_rows, problem.block_cols, to_string(problem.dtype));
  if (problem.product == BlockProduct::kSamples)
    return name + (way == BlockWay::kMma
                       ? fmt::format(".w{}.r{}.q{}.p{}.s{}", warps, task.row_strips,
                                     task.column_strips, task.pieces, stages)
                       : fmt::format(".r{}.q{}.n{}x{}.t{}.s{}", task.row_strips, task.column_strips,
                                     together, strip, stage_tokens, stages));
  constexpr const char* kActivations[] = {"", ".relu", ".gelu", ".silu"};
  name += fmt::format(".f{}.t{}.w{}.p{}.s{}{}", features, tokens, warps, most_pieces, stages,
                      kActivations[static_cast<int>(problem.activation)]);
  if (problem.bias) name += ".bias";
  if (problem.residual) name += ".residual";
  return name;
}

const char* BlockConfig::kernel(const BlockProblem& problem) const {
  if (problem.product == BlockProduct::kSamples)
    return way == BlockWay::kMma ? "block_samples_mma" : "block_samples_wgmma";
  switch (way) {
    case BlockWay::kMma:
      return "block_products_mma";
    case BlockWay::kFeatures:
      return "block_products_features";
    default:
      return "block_products_tokens";
  }
}

unsigned BlockConfig::threads() const {
  constexpr int kFilling = 4;  // Warps of the group that fills the ring.
  return static_cast<unsigned>((warps + (way == BlockWay::kMma ? 0 : kFilling)) * 32);
}

StepShape BlockConfig::steps(const BlockProblem& problem) const {
  return {.transposed = problem.transposed(), .features = features, .most_pieces = most_pieces};
}

GridShape BlockConfig::grid() const {
  return {.strip = strip,
          .row_strips = task.row_strips,
          .column_strips = task.column_strips,
          .together = together};
}

int BlockConfig::sample_columns(const PieceShape& piece) const {
  return way == BlockWay::kMma ? task.row_strips * piece.out + task.column_strips * piece.in
                               : task.row_strips * kSampleHeight + task.column_strips * strip;
}

std::int64_t BlockConfig::shared_bytes(const BlockProblem& problem) const {
  const PieceShape piece = problem.piece();
  constexpr std::int64_t kAlign = 1024, kBarrier = 8;
  if (problem.product == BlockProduct::kSamples) {
    return stages * (std::int64_t{sample_columns(piece)} * stage_tokens * 2 +
                     (way == BlockWay::kMma ? std::int64_t{0} : 2 * kBarrier));
  }
  const std::int64_t stage =
      slab_bytes(tokens) + round_up(most_pieces * piece_bytes(piece), kAlign);
  if (way == BlockWay::kMma) return stages * stage;
  const std::int64_t ring = stages * (stage + 2 * kBarrier);
  if (way == BlockWay::kTokens) return ring;
  return round_up(ring, 128) + std::int64_t{warps} / kWgmmaGroup * kTurnedBytes;
}

cuda::Source BlockConfig::source(const BlockProblem& problem) const {
  const PieceShape piece = problem.piece();
  cuda::Source source{.name = name(problem)};
  const auto define = [&](const char* what, auto value) {
    source.defines.push_back(fmt::format("{}={}", what, value));
  };
  define("X_TYPE", cuda::device_type(problem.dtype));
  define("STAGES", stages);
  define("BLOCK_COLUMNS", problem.block_cols);
  const auto text = [](const char* file) {
    return std::string(cuda::device_text(std::string("ops/block_sparse/cuda/") + file));
  };
  if (way != BlockWay::kMma) source.oldest_arch = source.newest_arch = 90;
  if (problem.product == BlockProduct::kSamples) {
    define("MOST_ROWS", task.row_strips);
    define("MOST_COLUMNS", task.column_strips);
    define("ROWS", piece.out);
    define("COLUMNS", piece.in);
    if (way == BlockWay::kMma) {
      define("SLOTS", slots);
      define("WARPS", warps);
      source.text = text("samples_mma.cu");
    } else {
      define("STRIP", strip);
      define("TOGETHER", together);
      define("TOKENS", stage_tokens);
      source.text =
          warpgroup_text({together * strip, problem.dtype, true, true}) + text("samples_wgmma.cu");
    }
    return source;
  }
  define("FEATURES", features);
  define("TOKENS", tokens);
  define("OUT", piece.out);
  define("IN", piece.in);
  define("TRANSPOSED", problem.transposed() ? 1 : 0);
  define("MOST_PIECES", most_pieces);
  define("ACTIVATION", static_cast<int>(problem.activation));
  define("HAS_BIAS", problem.bias ? 1 : 0);
  define("HAS_RESIDUAL", problem.residual ? 1 : 0);
  switch (way) {
    case BlockWay::kMma:
      define("WARPS", warps);
      source.text = text("products_mma.cu");
      break;
    case BlockWay::kFeatures:
      source.text = warpgroup_text({tokens, problem.dtype, problem.transposed(), false}) +
                    text("products_features.cu");
      break;
    default:
      define("GROUPS", warps / kWgmmaGroup);
      define("PARTS", parts);
      source.text = warpgroup_text({.columns = piece.out,
                                    .dtype = problem.dtype,
                                    .transposed_b = problem.transposed(),
                                    .a_in_registers = true}) +
                    text("products_tokens.cu");
  }
  return source;
}

std::vector<BlockConfig> block_configs(const BlockProblem& problem,
                                       const cuda::DeviceFacts& device) {
  const Support support = supports(problem, device);
  if (!support) fail(ErrorKind::kUnsupported, "{}", support.reason);
  std::vector<BlockConfig> found;
  if (problem.product == BlockProduct::kSamples) {
    add_samples(problem, device, found);
  } else {
    add_products(problem, device, found);
  }
  std::stable_sort(found.begin(), found.end(), [&](const BlockConfig& a, const BlockConfig& b) {
    return a.estimate_us(problem, device) < b.estimate_us(problem, device);
  });
  return found;
}

std::vector<cuda::Source> block_sources() {
  constexpr int kBlocks[][2] = {{16, 16}, {16, 32}, {32, 16},  {32, 32},  {32, 64},
                                {64, 32}, {64, 64}, {64, 128}, {128, 64}, {128, 128}};
  std::vector<cuda::Source> sources;
  cuda::DeviceFacts device = cuda::h100_facts();
  for (const auto& [rows, columns] : kBlocks)
    for (const BlockProduct product :
         {BlockProduct::kForward, BlockProduct::kTransposed, BlockProduct::kSamples})
      for (const DType dtype : {DType::kF16, DType::kBF16}) {
        // A quarter of the instances has the epilogue's parts.
        const bool whole = rows == 64 && dtype == DType::kBF16;
        const BlockProblem problem{.product = product,
                                   .rows = 4096,
                                   .cols = 4096,
                                   .block_rows = rows,
                                   .block_cols = columns,
                                   .density = 0.25,
                                   .dtype = dtype,
                                   .activation = whole ? Activation::kGelu : Activation::kNone,
                                   .bias = whole,
                                   .residual = whole};
        for (const BlockConfig& config : block_configs(problem, device))
          sources.push_back(config.source(problem));
      }
  return sources;
}

}  // namespace rarefy::gpu
