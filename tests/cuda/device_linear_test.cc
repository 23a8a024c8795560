// A frozen weight on a GPU for callers with memory and streams of their own.
#include "ops/spmm/device_linear.h"

#include <cmath>
#include <random>
#include <vector>

#include "blocky_weight.h"
#include "gpu_or_skip.h"
#include "spmm_case.h"

namespace rarefy {
namespace {

using gpu::TestWeight;

class DeviceLinearTest : public ::testing::TestWithParam<double> {
 protected:
  void SetUp() override { RAREFY_SKIP_WITHOUT_GPU(); }
};

/// Y = X·Aᵀ of n tokens on a stream of its own, as a caller does it.
std::vector<std::uint16_t> multiply(const DeviceLinear& weight, const std::vector<std::uint16_t>& x,
                                    std::int64_t n) {
  const cuda::Stream stream;
  const cuda::DeviceBuffer from = cuda::upload<std::uint16_t>(stream, x);
  const cuda::DeviceBuffer to(stream, static_cast<std::size_t>(n * weight.rows()) * 2);
  const cuda::Graph graph(stream, [&] {
    weight.run(stream.handle(), {from.address(), weight.cols()}, {to.address(), weight.rows()}, n);
  });
  graph.launch(stream);
  return cuda::download<std::uint16_t>(stream, to);
}

float value(std::uint16_t half) {
  float out = 0;
  convert_elements(&half, DType::kF16, &out, DType::kF32, 1);
  return out;
}

/// Recorded products of `n` tokens against double: rows and tokens picked.
void expect_products(const DeviceLinear& packed, const TestWeight& weight, std::int64_t n) {
  const std::int64_t m = packed.rows(), k = packed.cols();
  std::mt19937 random(3);
  std::normal_distribution<float> normal;
  std::vector<std::uint16_t> x(static_cast<std::size_t>(n * k));
  for (std::uint16_t& v : x) {
    const float drawn = normal(random);
    convert_elements(&drawn, DType::kF32, &v, DType::kF16, 1);
  }
  const std::vector<std::uint16_t> y = multiply(packed, x, n);
  const auto* a = reinterpret_cast<const std::uint16_t*>(weight.bytes.data());
  for (const std::int64_t t : {std::int64_t{0}, n / 2, n - 1}) {
    for (std::int64_t row = 0; row < m; row += 7) {
      double sum = 0;
      double size = 1e-3;
      for (std::int64_t c = 0; c < k; ++c) {
        const double product = static_cast<double>(value(a[row * k + c])) * value(x[t * k + c]);
        sum += product;
        size += std::abs(product);
      }
      ASSERT_NEAR(value(y[t * m + row]), sum, size * 1e-3) << packed.kernel() << " n " << n;
    }
  }
}

TEST_P(DeviceLinearTest, RunsAndExpandsWithoutAllocating) {
  const std::int64_t m = 320;
  const std::int64_t k = 416;
  const TestWeight weight({m, k, gpu::Pattern::kUniform, GetParam()}, DType::kF16);
  const auto packed =
      pack_on_device(*weight.source, {.dtype = DType::kF16, .tokens = 4, .measure = false});
  EXPECT_EQ(packed->rows(), m);
  EXPECT_EQ(packed->cols(), k);
  EXPECT_GT(packed->bytes(), 0U);

  const cuda::Stream stream;
  const cuda::DeviceBuffer dense(stream, weight.bytes.size());
  cuda::fill_bytes(stream, dense.address(), 0xFF, dense.size());
  const cuda::Graph graph(stream, [&] { packed->expand(stream.handle(), dense.address()); });
  graph.launch(stream);
  const std::vector<std::byte> expanded = cuda::download<std::byte>(stream, dense);
  EXPECT_TRUE(expanded == weight.bytes);

  if (packed->most_tokens() == 0) return;  // Dense: callers multiply.
  for (const std::int64_t n : {std::int64_t{1}, std::int64_t{5}, std::int64_t{600}})
    expect_products(*packed, weight, n);
}

INSTANTIATE_TEST_SUITE_P(Densities, DeviceLinearTest, ::testing::Values(0.0, 0.03, 0.3, 1.0));

TEST(DeviceLinear, RunsBlocksForManyTokens) {
  RAREFY_SKIP_WITHOUT_GPU();
  const TestWeight weight = gpu::blocky_weight({.rows = 4096, .cols = 2048}, DType::kF16);
  const auto packed =
      pack_on_device(*weight.source, {.dtype = DType::kF16, .tokens = 1, .measure = false});
  if (packed->kernel().find("blocks.") == std::string::npos)
    GTEST_SKIP() << "blocks do not pay here: " << packed->kernel();
  EXPECT_LT(packed->bytes(), weight.bytes.size() * 3 / 4);
  for (const std::int64_t n : {1, 31, 33, 257, 2047, 2500}) expect_products(*packed, weight, n);
}

TEST(DeviceLinear, NamesWhatIsWrong) {
  const TestWeight weight({16, 16, gpu::Pattern::kUniform, 0.5}, DType::kF16);
  EXPECT_THROW(pack_on_device(*weight.source, {.tokens = 0}), Error);
  try {
    pack_on_device(*weight.source, {.device = 99});
    ADD_FAILURE() << "there is no GPU 99";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported) << error.what();
  }
}

}  // namespace
}  // namespace rarefy
