// The logic of the kernels of block-sparse products, run on the CPU (emulator/machine.h) against
// the products in double: barriers, rings, swizzles, fragments, ragged tokens.
#include <gtest/gtest.h>

#include <numeric>

#include "block_case.h"
#include "emulator/machine.h"

namespace rarefy::gpu {
namespace {

/// As the emulated tensor copy engine reads it.
struct alignas(128) Map {
  std::uint64_t words[16] = {};
  Map(const std::vector<std::uint16_t>& data, std::int64_t rows, std::int64_t columns, int box_rows,
      int box_columns)
      : words{reinterpret_cast<std::uintptr_t>(data.data()),
              static_cast<std::uint64_t>(rows),
              static_cast<std::uint64_t>(columns),
              static_cast<std::uint64_t>(columns * 2),
              static_cast<std::uint64_t>(box_rows),
              static_cast<std::uint64_t>(box_columns)} {}
};

/// The instance that was compiled with the constants of a config; nullptr, said aloud, without.
const emulator::Instance* find(const BlockConfig& config, const BlockProblem& problem) {
  const cuda::Source source = config.source(problem);
  std::string defines;
  for (const std::string& define : source.defines) defines += (defines.empty() ? "" : " ") + define;
  for (const emulator::Instance& instance : emulator::instances())
    if (config.kernel(problem) == std::string(instance.kernel) && defines == instance.defines)
      return &instance;
  ADD_FAILURE() << "tests/cuda/CMakeLists.txt has no emulated " << config.kernel(problem) << " of "
                << defines;
  return nullptr;
}

template <class... Arguments>
void launch(const emulator::Instance& kernel, const emulator::Launch& how,
            const Arguments&... arguments) {
  std::array<void*, sizeof...(Arguments)> pointers{
      const_cast<void*>(static_cast<const void*>(&arguments))...};
  emulator::Machine::get().run(how, [&] { kernel.call(pointers.data()); });
}

void run_products(const BlockConfig& config, BlockCase& c, unsigned seed) {
  const BlockProblem& p = c.p;
  const emulator::Instance* kernel = find(config, p);
  if (kernel == nullptr) return;
  const Steps steps = make_steps(c.pattern, config.steps(p));
  const std::int64_t token_tiles = (p.tokens + config.tokens - 1) / config.tokens;
  const bool mma = config.way == BlockWay::kMma;
  // Few workers, so that each has several tiles.
  const std::int64_t workers = mma ? 0 : 2;
  const TileLists lists = hand_out_tiles(steps, token_tiles, workers);
  const emulator::Launch how{.grid = static_cast<unsigned>(mma ? std::ssize(lists.tiles) : workers),
                             .threads = config.threads(),
                             .shared_bytes = static_cast<std::size_t>(config.shared_bytes(p)),
                             .seed = seed};
  if (mma) {
    launch(*kernel, how, c.values.data(), c.b.data(), c.inputs(), static_cast<int>(c.inputs()),
           steps.steps.data(), steps.step_begin.data(), steps.pieces.data(), steps.strips.data(),
           lists.tiles.data(), c.result.data(), c.outputs(), c.bias.data(), c.residual.data(),
           c.outputs(), static_cast<int>(p.tokens));
    return;
  }
  const PieceShape piece = p.piece();
  launch(*kernel, how, Map(c.b, p.tokens, c.inputs(), config.tokens, kSlab),
         Map(c.values, c.pattern.blocks() * p.block_rows, p.block_cols,
             p.transposed() ? piece.in : piece.out, p.transposed() ? piece.out : piece.in),
         steps.steps.data(), steps.step_begin.data(), steps.pieces.data(), steps.strips.data(),
         lists.tiles.data(), lists.begin.data(), c.result.data(), c.outputs(), c.bias.data(),
         c.residual.data(), c.outputs(), static_cast<int>(p.tokens));
}

void run_samples(const BlockConfig& config, BlockCase& c, unsigned seed) {
  const BlockProblem& p = c.p;
  const emulator::Instance* kernel = find(config, p);
  if (kernel == nullptr) return;
  emulator::Launch how{.threads = config.threads(),
                       .shared_bytes = static_cast<std::size_t>(config.shared_bytes(p)),
                       .seed = seed};
  const auto n = static_cast<int>(p.tokens);
  if (config.way == BlockWay::kMma) {
    const SampleTasks tasks = make_tasks(c.pattern, config.task);
    how.grid = static_cast<unsigned>(tasks.tasks.size());
    launch(*kernel, how, c.b.data(), p.rows, c.q.data(), p.cols, tasks.tasks.data(),
           tasks.pieces.data(), tasks.strips.data(), c.result.data(), n);
    return;
  }
  // Few workers, so that each has several tasks.
  constexpr int kWorkers = 2;
  const SampleGrids grids = make_grids(c.pattern, config.grid(), kWorkers);
  const auto count = static_cast<int>(grids.tasks.size());
  how.grid = static_cast<unsigned>(std::min(kWorkers, count));
  launch(*kernel, how, Map(c.b, p.tokens, p.rows, config.stage_tokens, kSampleHeight),
         Map(c.q, p.tokens, p.cols, config.stage_tokens, config.strip), grids.tasks.data(), count,
         grids.places.data(), grids.strips.data(), c.result.data(), n);
}

struct Shape {
  BlockProduct product;
  int rows, columns;  ///< Of a block.
  BlockConfig config;
  DType dtype = DType::kBF16;
  bool whole = false;  ///< With activation, bias and residual.
};

constexpr auto kForward = BlockProduct::kForward, kTransposed = BlockProduct::kTransposed,
               kSamples = BlockProduct::kSamples;

BlockConfig mma(int features, int tokens, int most_pieces, int stages) {
  return {.way = BlockWay::kMma,
          .features = features,
          .tokens = tokens,
          .warps = 4,
          .most_pieces = most_pieces,
          .stages = stages};
}
BlockConfig features(int tokens, int most_pieces, int stages) {
  return {.way = BlockWay::kFeatures,
          .features = 128,
          .tokens = tokens,
          .warps = 8,
          .most_pieces = most_pieces,
          .stages = stages};
}
BlockConfig tokens(int features, int tokens, int parts, int most_pieces, int stages) {
  return {.way = BlockWay::kTokens,
          .features = features,
          .tokens = tokens,
          .warps = 8 * parts,
          .parts = parts,
          .most_pieces = most_pieces,
          .stages = stages};
}
BlockConfig samples(TaskShape task, int stages) {
  return {.way = BlockWay::kMma, .warps = 4, .task = task, .slots = 8, .stages = stages};
}
BlockConfig grids(TaskShape task, int together, int strip, int stage_tokens, int stages) {
  return {.way = BlockWay::kFeatures,
          .warps = 8,
          .task = task,
          .strip = strip,
          .together = together,
          .stage_tokens = stage_tokens,
          .stages = stages};
}

const Shape kShapes[] = {
    {kForward, 16, 16, mma(64, 64, 8, 2)},
    {kForward, 64, 64, mma(128, 128, 2, 3), DType::kBF16, true},
    {kTransposed, 16, 32, mma(64, 64, 8, 3), DType::kF16},
    {kTransposed, 128, 64, mma(64, 64, 1, 3)},
    {kForward, 64, 64, features(64, 2, 3), DType::kBF16, true},
    {kForward, 64, 32, features(64, 2, 3), DType::kF16},
    {kForward, 128, 128, features(96, 2, 3)},
    {kTransposed, 64, 64, features(64, 2, 3), DType::kBF16, true},
    {kTransposed, 32, 64, features(64, 4, 3)},
    {kForward, 16, 16, tokens(64, 128, 1, 8, 3), DType::kBF16, true},
    {kTransposed, 32, 16, tokens(64, 128, 2, 4, 4)},
    {kSamples, 16, 16, samples({8, 24, 32}, 2)},
    {kSamples, 32, 16, samples({4, 12, 32}, 3), DType::kF16},
    {kSamples, 64, 64, grids({1, 6}, 3, 64, 32, 3)},
    {kSamples, 128, 128, grids({2, 4}, 4, 64, 32, 4), DType::kF16},
    {kSamples, 32, 32, grids({1, 8}, 4, 32, 32, 4)},
    {kSamples, 32, 32, grids({2, 6}, 4, 32, 32, 4)},
    {kSamples, 16, 16, grids({2, 11}, 8, 16, 64, 3)},
    {kSamples, 16, 32, grids({1, 4}, 2, 64, 32, 3), DType::kF16},
};

class BlockEmulated : public ::testing::TestWithParam<Shape> {};

TEST_P(BlockEmulated, IsTheProduct) {
  const Shape& shape = GetParam();
#if defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "coroutines of the emulator are nothing that ThreadSanitizer knows";
#endif
  struct Run {
    Stored stored;
    int tokens;
  };
  // Tokens: none of them, or all, fill a tile; one, and one more than a tile.
  std::vector<Run> runs{{Stored::kSome, 150}, {Stored::kTurns, 9}, {Stored::kNone, 3}};
#if !defined(__SANITIZE_ADDRESS__)
  runs.insert(runs.end(), {{Stored::kEmptyRows, 1}, {Stored::kAll, 65}, {Stored::kOneColumn, 64}});
#endif
  for (const auto& [stored, tokens] : runs) {
    // Groups that are not full, inputs that end within a slab.
    BlockProblem problem{.product = shape.product,
                         .rows = (shape.rows == 128 ? 3 : 5) * std::max(shape.rows, 32),
                         .cols = (shape.columns == 128 ? 3 : 7) * std::max(shape.columns, 16),
                         .block_rows = shape.rows,
                         .block_cols = shape.columns,
                         .density = 0.4,
                         .tokens = tokens,
                         .dtype = shape.dtype};
    if (shape.whole) {
      problem.activation = Activation::kSilu;
      problem.bias = problem.residual = true;
    }
    if (stored == Stored::kTurns) {
      constexpr std::int64_t kBlocks = 27;
      (problem.transposed() ? problem.rows : problem.cols) =
          kBlocks * (problem.transposed() ? shape.rows : shape.columns);
    }
    BlockCase c(problem, stored, static_cast<unsigned>(tokens));
    const std::string name = shape.config.name(problem);
    SCOPED_TRACE(name + " tokens " + std::to_string(tokens));
    if (problem.product == kSamples) {
      run_samples(shape.config, c, 7);
    } else {
      run_products(shape.config, c, 7);
    }
    if (HasFailure()) return;
    c.expect_close(name);
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(All, BlockEmulated, ::testing::ValuesIn(kShapes), [](const auto& test) {
  std::string name = std::to_string(test.index);
  const Shape& s = test.param;
  name += std::string("_") + to_string(s.product) + "_" + std::to_string(s.rows) + "x" +
          std::to_string(s.columns) +
          (s.config.way == BlockWay::kMma      ? "_mma"
           : s.config.way == BlockWay::kTokens ? "_tokens"
                                               : "_features");
  return name;
});

}  // namespace
}  // namespace rarefy::gpu
