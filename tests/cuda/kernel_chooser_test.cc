// Weights in two forms on a GPU: what memory buys, and that the answers stay the same.
#include "ops/spmm/cuda/kernel_chooser.h"

#include "gpu_or_skip.h"
#include "ops/spmm/cuda/expanded.h"
#include "spmm_case.h"

namespace rarefy::gpu {
namespace {

class KernelChooserTest : public ::testing::Test {
 protected:
  void SetUp() override { RAREFY_SKIP_WITHOUT_GPU(); }
};

// As large as a layer's: of smaller weights many tokens are as fast by passes.
constexpr std::int64_t kRows = 4096, kCols = 4096;

Problem problem_of(DType dtype) {
  return {
      .m = kRows, .k = kCols, .n = 1, .weight = dtype, .activations = dtype, .output = DType::kF32};
}

KernelChooser::Chosen choose_within(KernelChooser& chooser, const TestWeight& weight,
                                    double weight_memory, const cuda::Stream& stream) {
  return chooser.make(*weight.source, problem_of(DType::kBF16),
                      {.measure = false, .weight_memory = weight_memory}, stream, default_pool());
}

TEST_F(KernelChooserTest, MemoryBuysADenseFormForManyTokens) {
  const cuda::Stream stream;
  const TestWeight weight({kRows, kCols, Pattern::kUniform, 0.3}, DType::kBF16);
  KernelChooser chooser;
  const KernelChooser::Chosen packed = choose_within(chooser, weight, kWeightMemory, stream);
  EXPECT_EQ(packed.many_from, 0);
  ASSERT_FALSE(packed.kernel.starts_with("dense")) << packed.kernel;

  const KernelChooser::Chosen both = choose_within(chooser, weight, 1.9, stream);
  ASSERT_GT(both.many_from, 1);
  EXPECT_NE(both.kernel.find(", from " + std::to_string(both.many_from) + " tokens dense."),
            std::string::npos)
      << both.kernel;
  EXPECT_EQ(both.op->bytes(), packed.op->bytes() + weight.bytes.size());

  // Nothing is left to expand.
  const Problem problem = problem_of(DType::kBF16);
  EXPECT_FALSE(
      tokens_to_expand_for(*both.op, *both.op, problem, both.time_us, stream.device().facts()));
  for (const std::int64_t n : {std::int64_t{1}, both.many_from - 1, both.many_from}) {
    Problem now = problem;
    now.n = n;
    const Case run(weight, now);
    run.expect_close(run.device(*both.op, stream), both.kernel);
  }
}

TEST_F(KernelChooserTest, WeightsThatAreAlikeGetTheSameForms) {
  const cuda::Stream stream;
  KernelChooser chooser;
  std::string kernel;
  for (const std::uint32_t seed : {1U, 2U}) {
    const TestWeight weight({kRows, kCols, Pattern::kUniform, 0.3}, DType::kBF16, seed);
    const KernelChooser::Chosen chosen = choose_within(chooser, weight, 1.9, stream);
    EXPECT_GT(chosen.many_from, 0) << chosen.kernel;
    if (seed == 1)
      kernel = chosen.kernel;
    else
      EXPECT_EQ(chosen.kernel, kernel);
  }
}

TEST_F(KernelChooserTest, DenseWeightsHaveOneForm) {
  const cuda::Stream stream;
  const TestWeight weight({512, 512, Pattern::kUniform, 1.0}, DType::kBF16);
  KernelChooser chooser;
  Problem problem = problem_of(DType::kBF16);
  problem.m = problem.k = 512;
  const KernelChooser::Chosen chosen = chooser.make(
      *weight.source, problem, {.measure = false, .weight_memory = 2}, stream, default_pool());
  EXPECT_EQ(chosen.many_from, 0);
  EXPECT_EQ(chosen.op->bytes(), weight.bytes.size());
}

}  // namespace
}  // namespace rarefy::gpu
