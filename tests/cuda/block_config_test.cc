// Lists and kernels of block-sparse products as far as they need no GPU: what is supported, that
// every stored piece is visited once, and that all kernels compile without spills.
#include "ops/block_sparse/cuda/block_config.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <bit>
#include <map>
#include <mutex>
#include <set>

#include "block_case.h"
#include "cuda/compiler.h"
#include "nvrtc_or_skip.h"
#include "rarefy/threads.h"

namespace rarefy::gpu {
namespace {

TEST(BlockConfig, SaysWhatIsSupported) {
  const cuda::DeviceFacts h100 = cuda::h100_facts();
  EXPECT_TRUE(supports({}, h100));
  EXPECT_TRUE(supports({.block_rows = 32, .block_cols = 64}, h100));
  for (const auto& [rows, cols] : {std::pair{8, 8}, {16, 64}, {128, 32}, {48, 48}, {256, 256}}) {
    const Support no = supports({.block_rows = rows, .block_cols = cols}, h100);
    EXPECT_FALSE(no);
    EXPECT_NE(no.reason.find(fmt::format("not {}x{}", rows, cols)), std::string::npos) << no.reason;
  }
  EXPECT_NE(supports({.dtype = DType::kF32}, h100).reason.find("f16 and bf16, not"),
            std::string::npos);
  cuda::DeviceFacts old = h100;
  old.major = 7;
  EXPECT_NE(supports({}, old).reason.find("8.0"), std::string::npos);
  EXPECT_THROW(block_configs({.block_rows = 8, .block_cols = 8}, h100), Error);
}

TEST(BlockConfig, KernelsOfOtherGenerationsNeedNoWgmma) {
  cuda::DeviceFacts ampere = cuda::h100_facts();
  ampere.major = 8;
  ampere.shared_per_block = 166912;
  for (const BlockProduct product :
       {BlockProduct::kForward, BlockProduct::kTransposed, BlockProduct::kSamples})
    for (const int block : {16, 32, 64, 128}) {
      const BlockProblem problem{
          .product = product, .rows = 1024, .cols = 1024, .block_rows = block, .block_cols = block};
      const std::vector<BlockConfig> configs = block_configs(problem, ampere);
      ASSERT_FALSE(configs.empty());
      for (const BlockConfig& config : configs) {
        EXPECT_EQ(config.way, BlockWay::kMma);
        EXPECT_LE(config.shared_bytes(problem), static_cast<std::int64_t>(ampere.shared_per_block));
      }
      EXPECT_GT(block_configs(problem, cuda::h100_facts()).size(), configs.size() - 1);
    }
}

/// What the steps of a pattern name, as (first output, first input) → times.
std::map<std::pair<std::int64_t, std::int64_t>, int> visited(const BlockCase& c,
                                                             const StepShape& shape) {
  const Steps steps = make_steps(c.pattern, shape);
  const PieceShape piece = c.p.piece();
  const std::int64_t strips = shape.features / piece.out;
  std::map<std::pair<std::int64_t, std::int64_t>, int> found;
  for (std::size_t group = 0; group + 1 < steps.step_begin.size(); ++group)
    for (std::uint32_t s = steps.step_begin[group]; s < steps.step_begin[group + 1]; ++s) {
      const Step& step = steps.steps[s];
      std::uint64_t mask = step.mask | std::uint64_t{step.more} << 32;
      EXPECT_LE(std::popcount(mask), shape.most_pieces);
      std::uint32_t piece_at = step.first;
      for (; mask != 0; mask &= mask - 1, ++piece_at) {
        const int bit = std::countr_zero(mask);
        const std::int64_t out = steps.strips[group * static_cast<std::size_t>(strips) +
                                              static_cast<std::size_t>(bit / piece.across())];
        const std::int64_t in = std::int64_t{step.slab} * kSlab + bit % piece.across() * piece.in;
        ++found[{out, in}];
        // Where the piece says it lies must be in a block of that place.
        const std::int64_t row = steps.pieces[piece_at] >> 1, block = row / c.p.block_rows;
        const std::int64_t y = row % c.p.block_rows, x = (steps.pieces[piece_at] & 1) * 64;
        std::int64_t block_row = 0;
        while (c.pattern.row_offsets[static_cast<std::size_t>(block_row) + 1] <= block) ++block_row;
        const std::int64_t weight_row = block_row * c.p.block_rows + y;
        const std::int64_t weight_column =
            c.pattern.col_indices[static_cast<std::size_t>(block)] * std::int64_t{c.p.block_cols} +
            x;
        EXPECT_EQ(shape.transposed ? weight_column : weight_row, out);
        EXPECT_EQ(shape.transposed ? weight_row : weight_column, in);
      }
    }
  return found;
}

TEST(BlockSteps, VisitEveryStoredPieceOnce) {
  for (const auto& [rows, cols] : {std::pair{16, 32}, {32, 32}, {64, 64}, {128, 64}, {128, 128}})
    for (const bool transposed : {false, true}) {
      const BlockCase c({.product = transposed ? BlockProduct::kTransposed : BlockProduct::kForward,
                         .rows = 7 * rows,
                         .cols = 9 * cols,
                         .block_rows = rows,
                         .block_cols = cols,
                         .density = 0.35,
                         .tokens = 1},
                        Stored::kSome);
      const PieceShape piece = c.p.piece();
      const StepShape shape{.transposed = transposed, .features = 128, .most_pieces = 2};
      const auto found = visited(c, shape);
      EXPECT_EQ(std::ssize(found) * piece.out * piece.in, std::ssize(c.values));
      for (const auto& [place, times] : found) EXPECT_EQ(times, 1);
    }
}

TEST(BlockSteps, TilesAreHandedOutEvenly) {
  const BlockCase c({.rows = 4096, .cols = 1024, .density = 0.2, .tokens = 1}, Stored::kSome);
  const Steps steps = make_steps(c.pattern, {.features = 128, .most_pieces = 2});
  constexpr std::int64_t kTokenTiles = 16, kWorkers = 132;
  const TileLists lists = hand_out_tiles(steps, kTokenTiles, kWorkers);
  ASSERT_EQ(std::ssize(lists.begin), kWorkers + 1);
  std::set<std::pair<std::uint32_t, std::uint32_t>> all;
  double most = 0, sum = 0;
  for (std::size_t w = 0; w < kWorkers; ++w) {
    double load = 0;
    for (std::uint32_t t = lists.begin[w]; t < lists.begin[w + 1]; ++t) {
      EXPECT_TRUE(all.insert({lists.tiles[t].group, lists.tiles[t].tokens}).second);
      load += steps.costs[lists.tiles[t].group];
    }
    most = std::max(most, load);
    sum += load;
  }
  EXPECT_EQ(std::ssize(all), kTokenTiles * std::ssize(steps.costs));
  // 512 tiles on 132 workers are four rounds, whatever one does.
  EXPECT_LT(most, 1.1 * sum / (kTokenTiles * static_cast<double>(steps.costs.size())) * 4);
}

TEST(BlockSamples, TasksHoldEveryPieceOnce) {
  for (const auto& [rows, cols] : {std::pair{16, 16}, {32, 64}, {64, 64}, {128, 64}}) {
    const BlockCase c({.product = BlockProduct::kSamples,
                       .rows = 6 * rows,
                       .cols = 11 * cols,
                       .block_rows = rows,
                       .block_cols = cols,
                       .density = 0.3,
                       .tokens = 1},
                      Stored::kSome);
    const TaskShape shape{2, 5, 7};
    const SampleTasks tasks = make_tasks(c.pattern, shape);
    const PieceShape piece = c.p.piece();
    std::set<std::uint32_t> all;
    for (const SampleTask& task : tasks.tasks) {
      EXPECT_LE(task.rows, shape.row_strips);
      EXPECT_LE(task.columns, shape.column_strips);
      EXPECT_LE(static_cast<int>(task.pieces), shape.pieces);
      for (std::uint32_t i = 0; i < task.pieces; ++i) {
        const SamplePiece& p = tasks.pieces[task.piece + i];
        EXPECT_TRUE(all.insert(p.to).second);
        EXPECT_LT(p.row, task.rows);
        EXPECT_LT(p.column, task.columns);
      }
    }
    EXPECT_EQ(std::ssize(all) * piece.out * piece.in, std::ssize(c.values));
  }
}

/// Each stored piece once, where it belongs; every strip of a task with one.
void expect_all_placed(const BlockCase& c, const GridShape& shape, const SampleGrids& grids) {
  const PieceShape piece = c.p.piece();
  const int high = kSampleHeight / piece.out, wide = shape.strip / piece.in;
  std::map<std::uint32_t, std::pair<std::int64_t, std::int64_t>> expected;
  for (std::size_t r = 0; r + 1 < c.pattern.row_offsets.size(); ++r)
    for (std::int32_t b = c.pattern.row_offsets[r]; b < c.pattern.row_offsets[r + 1]; ++b)
      for (int y = 0; y < c.p.block_rows; y += piece.out)
        for (int x = 0; x < c.p.block_cols; x += piece.in)
          expected[static_cast<std::uint32_t>((b * c.p.block_rows + y) * 2 + x / 64)] = {
              static_cast<std::int64_t>(r) * c.p.block_rows + y,
              std::int64_t{c.pattern.col_indices[static_cast<std::size_t>(b)]} * c.p.block_cols +
                  x};
  for (const GridTask& task : grids.tasks) {
    EXPECT_LE(task.rows, shape.row_strips);
    EXPECT_LE(task.columns, shape.column_strips);
    const int end[] = {shape.together, task.second + shape.together};
    EXPECT_LE(task.second >= task.columns ? 0 : end[1], shape.column_strips) << "past the stage";
    for (int column = 0; column < task.columns; ++column) {
      int stored = 0;
      for (int row = 0; row < task.rows * high; ++row)
        for (int sub = 0; sub < wide; ++sub) {
          const std::uint32_t to =
              grids.places[task.place +
                           static_cast<std::size_t>((row * task.columns + column) * wide + sub)];
          if (to == SampleGrids::kNone) continue;
          ++stored;
          const bool first = row < high && column < end[0];
          const bool second =
              row / high == task.rows - 1 && column >= task.second && column < end[1];
          EXPECT_TRUE(first || second) << "no warpgroup's";
          const auto found = expected.find(to);
          ASSERT_NE(found, expected.end()) << "twice, or nowhere";
          EXPECT_EQ(found->second.first, task.row + row * piece.out);
          EXPECT_EQ(found->second.second,
                    grids.strips[task.strip + static_cast<std::size_t>(column)] + sub * piece.in);
          expected.erase(found);
        }
      EXPECT_GT(stored, 0);
    }
  }
  EXPECT_TRUE(expected.empty());
}

TEST(BlockSamples, GridsHaveAPlaceForEveryPiece) {
  for (const auto& [rows, cols, strip] : {std::tuple{16, 16, 16},
                                          {16, 16, 32},
                                          {16, 32, 32},
                                          {32, 16, 16},
                                          {32, 64, 64},
                                          {64, 32, 64},
                                          {64, 64, 64},
                                          {128, 64, 64},
                                          {128, 128, 64}})
    for (const auto& [row_strips, column_strips, together] :
         {std::tuple{1, 8, 4}, {2, 8, 4}, {2, 4, 4}, {2, 6, 4}, {2, 7, 6}})
      for (const int workers : {1, 5, 132}) {
        const BlockCase c({.product = BlockProduct::kSamples,
                           .rows = 7 * rows,
                           .cols = 23 * cols,
                           .block_rows = rows,
                           .block_cols = cols,
                           .density = 0.3,
                           .tokens = 1},
                          Stored::kSome);
        const GridShape shape{strip, row_strips, column_strips, together};
        expect_all_placed(c, shape, make_grids(c.pattern, shape, workers));
      }
}

TEST(BlockSamples, LastTasksAreHalvesWhereThatSavesRounds) {
  const BlockCase c(
      {.product = BlockProduct::kSamples, .rows = 5 * 64, .cols = 8 * 64, .tokens = 1},
      Stored::kAll);
  const GridShape shape{64, 1, 8, 4};
  const auto columns = [&](int workers) {
    std::vector<int> all;
    for (const GridTask& task : make_grids(c.pattern, shape, workers).tasks)
      all.push_back(task.columns);
    return all;
  };
  EXPECT_EQ(columns(5), (std::vector<int>{8, 8, 8, 8, 8}));
  EXPECT_EQ(columns(4), (std::vector<int>{8, 8, 8, 8, 4, 4}));  // 3 half rounds for 4.
  EXPECT_EQ(columns(3), (std::vector<int>{8, 8, 8, 8, 8}));     // 4 either way.
}

TEST(BlockConfig, NamesAreUniqueAndKernelsFit) {
  for (const BlockProduct product : {BlockProduct::kForward, BlockProduct::kSamples})
    for (const int block : {16, 32, 64, 128}) {
      const BlockProblem problem{.product = product,
                                 .rows = 4096,
                                 .cols = 14336,
                                 .block_rows = block,
                                 .block_cols = block,
                                 .density = 0.25,
                                 .tokens = 4096};
      std::set<std::string> names;
      for (const BlockConfig& config : block_configs(problem, cuda::h100_facts())) {
        EXPECT_TRUE(names.insert(config.name(problem)).second) << config.name(problem);
        EXPECT_LE(config.shared_bytes(problem), 232448) << config.name(problem);
      }
    }
}

TEST(BlockConfig, KernelsCompileForEveryGenerationWithoutSpills) {
  RAREFY_SKIP_WITHOUT_NVRTC();
  const bool all = std::getenv("RAREFY_ALL_KERNELS") != nullptr;
  std::vector<std::pair<cuda::Source, cuda::Arch>> work;
  std::size_t at = 0;
  for (const cuda::Source& source : block_sources())
    for (const cuda::Arch& arch : cuda::kTestedArchs) {
      if (arch.number() < source.oldest_arch || arch.number() > source.newest_arch) continue;
      constexpr std::size_t kEvery = 211;  // A prime: goes through every dimension.
      if (cuda::can_compile(arch) && (at++ % kEvery == 0 || all)) work.emplace_back(source, arch);
    }
  std::mutex mutex;
  default_pool().parallel_dynamic(std::ssize(work), 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const auto& [source, arch] = work[static_cast<std::size_t>(i)];
      std::string problem;
      try {
        for (const cuda::KernelFacts& kernel : cuda::compile(source, arch).kernels)
          if (kernel.local > 0)
            problem = fmt::format("{} bytes of local memory, {} registers", kernel.local,
                                  kernel.registers);
      } catch (const Error& error) {
        problem = error.what();
      }
      const std::scoped_lock lock(mutex);
      if (!problem.empty())
        ADD_FAILURE() << source.name << " for " << arch.name() << ": " << problem;
    }
  });
}

}  // namespace
}  // namespace rarefy::gpu
