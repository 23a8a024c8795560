#include "ops/block_sparse/cuda/block_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "cuda/device_text.h"
#include "ops/block_sparse/cuda/warpgroup_text.h"
#include "ops/spmm/cuda/epilogue.h"

namespace rarefy::gpu {
namespace {

constexpr int kSampleTokensMma = 32, kSampleTokensWgmma = 32;
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
        std::int64_t{kSampleTokensMma} * 2 * (row_strips * piece.out + column_strips * piece.in);
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
  if (hopper && piece.out == 64 && piece.in == 64) {
    const bool tall = problem.block_rows == 128;
    BlockConfig config{.way = BlockWay::kFeatures, .warps = 2 * kWgmmaGroup};
    config.task = tall ? TaskShape{2, 4, 8} : TaskShape{1, 8, 8};
    const std::int64_t stage = std::int64_t{kSampleTokensWgmma} * 128 *
                               (config.task.row_strips + config.task.column_strips);
    config.stages = stages_that_fit(stage, 256, device, kMostStages);
    found.push_back(config);
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
    return name + fmt::format(".w{}.r{}.q{}.p{}.s{}", warps, task.row_strips, task.column_strips,
                              task.pieces, stages);
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

std::int64_t BlockConfig::shared_bytes(const BlockProblem& problem) const {
  const PieceShape piece = problem.piece();
  constexpr std::int64_t kAlign = 1024, kBarrier = 8;
  if (problem.product == BlockProduct::kSamples) {
    const std::int64_t strips =
        std::int64_t{task.row_strips} * piece.out + std::int64_t{task.column_strips} * piece.in;
    return stages * (strips * kSampleTokensMma * 2 +
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
  define("X_TYPE", device_type(problem.dtype));
  define("STAGES", stages);
  define("BLOCK_COLUMNS", problem.block_cols);
  const auto text = [](const char* file) {
    return std::string(cuda::device_text(std::string("ops/block_sparse/cuda/") + file));
  };
  if (way != BlockWay::kMma) source.oldest_arch = source.newest_arch = 90;
  if (problem.product == BlockProduct::kSamples) {
    define("MOST_ROWS", task.row_strips);
    define("MOST_COLUMNS", task.column_strips);
    if (way == BlockWay::kMma) {
      define("ROWS", piece.out);
      define("COLUMNS", piece.in);
      define("SLOTS", slots);
      define("WARPS", warps);
      source.text = text("samples_mma.cu");
    } else {
      source.text = warpgroup_text({256, problem.dtype, true, true}) + text("samples_wgmma.cu");
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

double BlockConfig::estimate_us(const BlockProblem& problem,
                                const cuda::DeviceFacts& device) const {
  // Per multiprocessor and clock: products, bytes of shared memory, bytes from L2. Rates of
  // mma.sync and of L2 are what kernels here have reached on an H100.
  constexpr double kShared = 128, kFromL2 = 34;
  const double wgmma_rate = 2048;
  const double mma_rate = device.major == 9 ? 0.35 * 2048 : 0.7 * 1024;
  const double rate = way == BlockWay::kMma ? mma_rate : wgmma_rate;
  const PieceShape piece = problem.piece();
  const double d = problem.density, n = static_cast<double>(problem.tokens);
  const double clocks_a_us = 1e3 * device.clock_ghz;
  const double multiprocessors = std::max(1, device.multiprocessors);
  constexpr double kStart = 4;  // Microseconds: the launch, first loads, last stores.
  if (problem.product == BlockProduct::kSamples) {
    // Pieces of a column of the task's strips; a task ends with its pieces or its columns.
    const double rows = task.row_strips, all = rows * d;
    const double union_ =
        1 - std::pow(1 - d, rows * piece.out / std::max(piece.out, problem.block_rows));
    const double columns =
        std::min<double>(task.column_strips, task.pieces * union_ / std::max(all, 1e-9));
    const double pieces = columns * all / std::max(union_, 1e-9);
    const double positions = static_cast<double>(problem.rows) * static_cast<double>(problem.cols);
    const double tasks = positions * d / (piece.out * piece.in) / std::max(pieces, 1e-9);
    const double products = pieces * piece.out * piece.in * n;
    const double strips = (rows * piece.out + columns * piece.in) * 2 * n;
    const double read = way == BlockWay::kMma
                            ? products / 16 * 2 * 16 * (1.0 / piece.out + 1.0 / piece.in)
                            : 2.0 * n / 16 * (2048 + 256 * 32);
    const double task_clocks =
        std::max({products / rate, (strips + read) / kShared, strips / kFromL2});
    const double resident = multiprocessors;
    return kStart + std::ceil(tasks / resident) * task_clocks / clocks_a_us;
  }
  const bool transposed = problem.transposed();
  const double outputs = static_cast<double>(transposed ? problem.cols : problem.rows);
  const double inputs = static_cast<double>(transposed ? problem.rows : problem.cols);
  const int out_block = transposed ? problem.block_cols : problem.block_rows;
  const double independent =
      std::max(1.0, static_cast<double>(features) / out_block) * piece.across();
  const double used = 1 - std::pow(1 - d, independent);
  const double groups = std::ceil(outputs / features), token_tiles = std::ceil(n / tokens);
  // Of a slab, in a block of the grid.
  const double products = d * features * tokens * kSlab;
  const double slab = static_cast<double>(slab_bytes(tokens)), weights = d * features * kSlab * 2;
  const double pieces = d * features / piece.out * piece.across();
  // Every piece is a branch, and what it multiplies waits for what came before it: clocks of that,
  // as measured (docs/gpu-block-sparse.md).
  double read = 0, branches = 0;
  switch (way) {
    case BlockWay::kMma:
      read = used * slab + weights * warps;
      branches = pieces * (100 + piece.out * piece.in / 256.0 * 80 * tokens / 128);
      break;
    case BlockWay::kFeatures:
      read = pieces * (piece.in / 16.0) * (2048 + 32.0 * tokens);
      break;
    default:
      read = used * slab + pieces * (piece.in / 16.0) * (tokens / 64.0) * 32.0 * piece.out;
      branches = pieces / parts *
                 (150 + piece.in / 16.0 * (tokens * parts * 4.0 / (64 * warps)) * 2 * piece.out);
  }
  const double l2 = used * slab + weights;
  constexpr double kStep = 60;  // Clocks of handing over.
  const double slab_clocks = std::max({products / rate, (used * slab + weights + read) / kShared,
                                       l2 / kFromL2, branches}) +
                             used * kStep;
  const double rounds = std::ceil(groups * token_tiles / multiprocessors);
  const double tile_clocks = slab_clocks * std::ceil(inputs / kSlab) + features * tokens / 16.0;
  return kStart + rounds * tile_clocks / clocks_a_us;
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
