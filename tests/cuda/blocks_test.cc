// The blocks family: cutting on any machine, kernels against the reference on a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "blocky_weight.h"
#include "cuda/stream.h"
#include "family_on_device.h"
#include "ops/spmm/cuda/blocks/block_shapes.h"
#include "ops/spmm/cuda/blocks/blocks_operator.h"
#include "ops/spmm/cuda/families.h"

namespace rarefy::gpu {
namespace {

std::vector<std::uint16_t> bits_of(const RowSource& source) {
  std::vector<std::uint16_t> bits(static_cast<std::size_t>(source.rows() * source.cols()));
  source.read_rows(0, source.rows(), bits.data());
  return bits;
}

TEST(CutBlocks, TakesFullBlocksAndLeavesTheRest) {
  for (const auto& [rows, cols] : {std::pair{16, 16}, {16, 32}, {64, 64}, {128, 64}}) {
    const TestWeight w = blocky_weight(
        {.rows = 256, .cols = 384, .block_rows = rows, .block_cols = cols, .scattered = 0.02},
        DType::kBF16);
    const std::vector<std::uint16_t> all = bits_of(*w.source);
    const int fewest = rows * cols / 2;
    const CutBlocks cut = cut_blocks(*w.source, rows, cols, fewest);
    BlockPattern pattern = cut.pattern();
    const BlockColumns columns = block_columns(pattern);
    pattern.col_offsets = columns.offsets;
    pattern.row_indices = columns.row_indices;
    pattern.order = columns.order;
    EXPECT_NO_THROW(validate(pattern));
    EXPECT_GT(cut.blocks(), 0);
    std::vector<std::uint16_t> rest(all.size(), 0xFFFF);
    // Not from a block's first row.
    const RestOfBlocks source(*w.source, cut);
    source.read_rows(0, 5, rest.data());
    source.read_rows(5, 256, rest.data() + 5 * 384);

    std::vector<std::uint16_t> together = rest;
    std::vector<bool> taken(all.size());
    const auto* value = reinterpret_cast<const std::uint16_t*>(cut.values.data());
    for (std::size_t r = 0; r + 1 < cut.row_offsets.size(); ++r) {
      for (std::int32_t b = cut.row_offsets[r]; b < cut.row_offsets[r + 1]; ++b) {
        int nonzeros = 0;
        for (int i = 0; i < rows; ++i) {
          for (int j = 0; j < cols; ++j) {
            const std::size_t at =
                (r * static_cast<std::size_t>(rows) + static_cast<std::size_t>(i)) * 384 +
                static_cast<std::size_t>(cut.col_indices[static_cast<std::size_t>(b)] * cols + j);
            EXPECT_EQ(rest[at], 0);
            taken[at] = true;
            together[at] = *value++;
            nonzeros += together[at] != 0 ? 1 : 0;
          }
        }
        EXPECT_GE(nonzeros, fewest);
      }
    }
    EXPECT_EQ(together, all) << rows << "x" << cols;
    EXPECT_EQ(value - reinterpret_cast<const std::uint16_t*>(cut.values.data()),
              std::ssize(cut.values) / 2);
  }
}

TEST(CutBlocks, ZerosOfEitherSignAreNone) {
  const TestWeight w({64, 64, Pattern::kNegativeZeros, 0.0}, DType::kF16);
  EXPECT_EQ(cut_blocks(*w.source, 16, 16).blocks(), 0);
}

TEST(CutBlocks, NamesWhatItExpects) {
  const TestWeight ragged({65, 64, Pattern::kUniform, 0.5}, DType::kF16);
  try {
    (void)cut_blocks(*ragged.source, 16, 16);
    ADD_FAILURE() << "65 rows are no multiple of 16";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("multiples of 16x16, got 65x64"), std::string::npos)
        << error.what();
  }
  const TestWeight wide({64, 64, Pattern::kUniform, 0.5}, DType::kF32);
  EXPECT_THROW((void)cut_blocks(*wide.source, 16, 16), Error);
}

TEST(ShapesWorthStoring, AreThoseThatLeaveMoreOut) {
  const Problem problem{.m = 1024, .k = 1024, .n = 512, .weight = DType::kBF16};
  const auto shapes = [&](const Blocky& blocky) {
    std::vector<std::string> names;
    for (const BlockShape& s :
         shapes_worth_storing(problem, blocky_weight(blocky, DType::kBF16).pattern))
      names.push_back(std::to_string(s.rows) + "x" + std::to_string(s.cols));
    return names;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(shapes({.rows = 1024, .cols = 1024, .block_rows = 128, .block_cols = 128}),
            Names{"128x128"});
  EXPECT_EQ(shapes({.rows = 1024, .cols = 1024, .stored = 0.1}),
            (Names{"128x128", "128x64", "64x64"}));
  // Of larger blocks more are stored; the smallest, which the weight is made of, come last.
  const Names small =
      shapes({.rows = 1024, .cols = 1024, .block_rows = 32, .block_cols = 32, .stored = 0.25});
  EXPECT_EQ(small.back(), "32x32");
  EXPECT_EQ(std::ranges::count(small, "128x128"), 0);
  EXPECT_EQ(shapes({.rows = 1024, .cols = 1024, .scattered = 0.05}), Names{});
  EXPECT_EQ(shapes({.rows = 1024, .cols = 1024, .stored = 1}), Names{});
}

TEST(BlocksFamily, SaysWhatItDoesNotTake) {
  const cuda::DeviceFacts device = cuda::h100_facts();
  const Problem good{.m = 1024, .k = 1024, .n = 64};
  EXPECT_TRUE(blocks_family().supports(good, device));
  Problem p = good;
  p.n = 8;
  EXPECT_NE(blocks_family().supports(p, device).reason.find("at least 16 tokens, got 8"),
            std::string::npos);
  p = good;
  p.output = DType::kF32;
  EXPECT_FALSE(blocks_family().supports(p, device));
  p = good;
  p.layout = Layout::kFeatureMajor;
  EXPECT_FALSE(blocks_family().supports(p, device));
}

class BlocksOnDevice : public FamilyOnDevice {
 protected:
  BlocksOnDevice() : FamilyOnDevice(blocks_family(), {.one_dtype = true}) {}
};

TEST_F(BlocksOnDevice, BlocksOfEverySize) {
  for (const auto& [rows, cols] : {std::pair{128, 128}, {64, 64}, {32, 32}, {16, 32}, {16, 16}}) {
    const TestWeight weight = blocky_weight(
        {.rows = 384, .cols = 512, .block_rows = rows, .block_cols = cols, .within = 0.6},
        DType::kBF16);
    check_about(weight, {.n = 75, .output = DType::kBF16}, 4);
  }
}

TEST_F(BlocksOnDevice, Epilogues) {
  const TestWeight weight = blocky_weight({.rows = 256, .cols = 256}, DType::kF16);
  for (const Epilogue& e : kSomeEpilogues)
    check_about(weight,
                {.n = 130, .activation = e.activation, .bias = e.bias, .residual = e.residual}, 2);
}

TEST_F(BlocksOnDevice, ExpandsAndHasNoBlocks) {
  const cuda::Stream stream;
  for (const double stored : {0.3, 0.0}) {
    const TestWeight weight = blocky_weight(
        {.rows = 192, .cols = 320, .block_rows = 32, .block_cols = 32, .stored = stored},
        DType::kF16);
    const Problem problem{.m = 192, .k = 320, .n = 40};
    const std::vector<Candidate> candidates = candidates_of(weight, problem);
    ASSERT_FALSE(candidates.empty());
    const std::unique_ptr<Operator> op = candidates.front().build(weight.weight(), stream);
    const cuda::DeviceBuffer dense(stream, weight.bytes.size());
    cuda::fill_bytes(stream, dense.address(), 0xFF, dense.size());
    op->expand(stream, dense.address());
    EXPECT_TRUE(cuda::download<std::byte>(stream, dense) == weight.bytes);
    check(weight, problem, 3);
  }
}

TEST_F(BlocksOnDevice, GraphsRecordNumbersOfTokensThatNeverRan) {
  const cuda::Stream stream;
  const TestWeight weight = blocky_weight({.rows = 256, .cols = 256}, DType::kF16);
  const std::int64_t n = 5 * 256 + 77;
  const Problem problem{.m = 256, .k = 256, .n = n};
  Problem few = problem;
  few.n = 64;
  const Candidate candidate = candidates_of(weight, few).front();
  const std::unique_ptr<Operator> op = candidate.build(weight.weight(), stream);
  const std::vector<std::uint16_t> x(static_cast<std::size_t>(n * 256), 0x2C00);  // 1/16
  const cuda::DeviceBuffer from = cuda::upload<std::uint16_t>(stream, x);
  const cuda::DeviceBuffer recorded(stream, from.size()), run(stream, from.size());
  const auto enqueue = [&](const cuda::DeviceBuffer& to) {
    op->enqueue(stream,
                {.b = from.address(), .b_stride = 256, .c = to.address(), .c_stride = 256, .n = n});
  };
  cuda::fill_bytes(stream, recorded.address(), 0xFF, recorded.size());
  const cuda::Graph graph(stream, [&] { enqueue(recorded); });
  graph.launch(stream);
  enqueue(run);
  EXPECT_EQ(cuda::download<std::uint16_t>(stream, recorded),
            cuda::download<std::uint16_t>(stream, run));
}

}  // namespace
}  // namespace rarefy::gpu
