// Block-sparse products on a GPU against the products in double: every kernel of many problems.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "block_case.h"
#include "gpu_or_skip.h"
#include "ops/block_sparse/cuda/block_operators.h"
#include "rarefy/threads.h"

namespace rarefy::gpu {
namespace {

class BlocksOnDevice : public ::testing::Test {
 protected:
  void SetUp() override { RAREFY_SKIP_WITHOUT_GPU(); }

  /// Runs every `step`th kernel of the case's problem twice; with RAREFY_ALL_KERNELS all.
  static void check(BlockCase& c, std::size_t step) {
    if (std::getenv("RAREFY_ALL_KERNELS") != nullptr) step = 1;
    const cuda::Stream stream;
    const std::vector<BlockConfig> configs = block_configs(c.p, cuda::Device::get().facts());
    const cuda::Arch arch = cuda::Device::get().facts().arch();
    default_pool().parallel_dynamic(
        std::ssize(configs), 1, [&](std::int64_t begin, std::int64_t end) {
          for (std::int64_t i = begin; i < end; ++i)
            if (static_cast<std::size_t>(i) % step == 0)
              (void)cuda::compile(configs[static_cast<std::size_t>(i)].source(c.p), arch);
        });
    for (std::size_t i = 0; i < configs.size(); i += step) {
      const std::string name = configs[i].name(c.p);
      run(c, configs[i], stream);
      c.expect_close(name);
      if (HasFailure()) return;
      const std::vector<std::uint16_t> first = c.result;
      run(c, configs[i], stream);
      ASSERT_EQ(c.result, first) << name << " gives other bits the second time";
    }
  }

  static void run(BlockCase& c, const BlockConfig& config, const cuda::Stream& stream) {
    const auto up = [&](const std::vector<std::uint16_t>& data) {
      if (data.empty()) return cuda::DeviceBuffer(stream, 16);
      return cuda::upload<std::uint16_t>(stream, data);
    };
    const cuda::DeviceBuffer values = up(c.values), b = up(c.b), q = up(c.q),
                             residual = up(c.residual);
    const cuda::DeviceBuffer bias =
        cuda::upload<float>(stream, c.bias.empty() ? std::vector<float>(1) : c.bias);
    const cuda::DeviceBuffer result(stream, std::max<std::size_t>(2, c.result.size() * 2));
    cuda::fill_bytes(stream, result.address(), 0xFF, result.size());  // NaN: what is not written.
    if (c.p.product == BlockProduct::kSamples) {
      const BlockSamples op(c.p, config, c.pattern, stream);
      op.enqueue(stream, {.p = b.address(),
                          .q = q.address(),
                          .p_stride = c.p.rows,
                          .q_stride = c.p.cols,
                          .out = result.address(),
                          .tokens = c.p.tokens});
      stream.synchronize();
    } else {
      const BlockProducts op(c.p, config, c.pattern, stream);
      op.enqueue(stream, {.values = values.address(),
                          .b = b.address(),
                          .b_stride = c.inputs(),
                          .c = result.address(),
                          .c_stride = c.outputs(),
                          .bias = bias.address(),
                          .residual = residual.address(),
                          .residual_stride = c.outputs(),
                          .tokens = c.p.tokens});
      stream.synchronize();
    }
    const std::vector<std::uint16_t> found = cuda::download<std::uint16_t>(stream, result);
    std::copy_n(found.begin(), c.result.size(), c.result.begin());
  }
};

constexpr BlockProduct kProducts[] = {BlockProduct::kForward, BlockProduct::kTransposed,
                                      BlockProduct::kSamples};

TEST_F(BlocksOnDevice, BlocksOfEveryShape) {
  constexpr int kBlocks[][2] = {{64, 64},  {128, 128}, {32, 32}, {16, 16}, {64, 128},
                                {128, 64}, {32, 64},   {64, 32}, {16, 32}, {32, 16}};
  for (const auto& [rows, cols] : kBlocks)
    for (const BlockProduct product : kProducts) {
      BlockCase c({.product = product,
                   .rows = 5 * std::max(128, rows),
                   .cols = 7 * std::max(96 / cols * cols, cols),
                   .block_rows = rows,
                   .block_cols = cols,
                   .density = 0.3,
                   .tokens = 333},
                  Stored::kSome);
      check(c, 3);
      if (HasFailure()) return;
    }
}

TEST_F(BlocksOnDevice, RaggedTokensAndPatterns) {
  for (const int block : {16, 32, 64, 128})
    for (const BlockProduct product : kProducts)
      for (const auto& [stored, tokens] : {std::pair{Stored::kEmptyRows, 1},
                                           {Stored::kAll, 257},
                                           {Stored::kNone, 5},
                                           {Stored::kOneColumn, 64},
                                           {Stored::kTurns, 70},
                                           {Stored::kSome, 31}}) {
        BlockCase c({.product = product,
                     .rows = 384,
                     .cols = 2560,
                     .block_rows = block,
                     .block_cols = block,
                     .density = 0.3,
                     .tokens = tokens,
                     .dtype = DType::kF16},
                    stored);
        check(c, 7);
        if (HasFailure()) return;
      }
}

TEST_F(BlocksOnDevice, Epilogues) {
  for (const int block : {16, 64})
    for (const BlockProduct product : {BlockProduct::kForward, BlockProduct::kTransposed})
      for (const Activation activation : {Activation::kRelu, Activation::kGelu, Activation::kSilu})
        for (const bool bias : {false, true}) {
          BlockCase c({.product = product,
                       .rows = 256,
                       .cols = 512,
                       .block_rows = block,
                       .block_cols = block,
                       .tokens = 200,
                       .activation = activation,
                       .bias = bias,
                       .residual = !bias || activation == Activation::kSilu},
                      Stored::kSome);
          check(c, 9);
          if (HasFailure()) return;
        }
}

// Many tiles a block of the grid, long lists: rings go round, and parities with them.
TEST_F(BlocksOnDevice, ManyTiles) {
  for (const int block : {32, 64, 128})
    for (const BlockProduct product : kProducts) {
      const bool samples = product == BlockProduct::kSamples;
      BlockCase c({.product = product,
                   .rows = samples ? 4096 : 1024,
                   .cols = samples ? 4096 : 1536,
                   .block_rows = block,
                   .block_cols = block,
                   .density = 0.25,
                   .tokens = samples ? 40 : 4200},
                  Stored::kSome, 1, 97);
      check(c, 2);
      if (HasFailure()) return;
    }
}

TEST_F(BlocksOnDevice, SaysWhatDoesNotFit) {
  const cuda::Stream stream;
  BlockCase c({.rows = 128, .cols = 128, .tokens = 4}, Stored::kAll);
  const BlockProducts op(c.p, block_configs(c.p, cuda::Device::get().facts()).front(), c.pattern,
                         stream);
  const cuda::DeviceBuffer memory(stream, 1 << 20);
  BlockProductOperands operands{.values = memory.address(),
                                .b = memory.address(),
                                .b_stride = 128,
                                .c = memory.address(),
                                .c_stride = 128,
                                .tokens = 4};
  operands.b_stride = 100;
  EXPECT_THROW(op.enqueue(stream, operands), Error);
  operands.b_stride = 129;
  EXPECT_THROW(op.enqueue(stream, operands), Error);
  operands.b_stride = 128;
  operands.c_stride = 127;
  EXPECT_THROW(op.enqueue(stream, operands), Error);
  operands.tokens = 0;
  op.enqueue(stream, operands);  // Nothing to do.
}

}  // namespace
}  // namespace rarefy::gpu
