// A block pattern on a GPU for callers with memory and streams of their own.
#include "ops/block_sparse/device_blocks.h"

#include "block_case.h"
#include "cuda/memory.h"
#include "gpu_or_skip.h"

namespace rarefy::gpu {
namespace {

class DeviceBlocksTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override { RAREFY_SKIP_WITHOUT_GPU(); }
};

/// The case's operands on the device, and the call that multiplies them.
struct Uploaded {
  explicit Uploaded(const BlockCase& c)
      : values(up(c.values)),
        b(up(c.b)),
        q(up(c.q)),
        bias(cuda::upload<float>(stream, c.bias.empty() ? std::vector<float>(1) : c.bias)),
        result(stream, std::max<std::size_t>(16, c.result.size() * 2)) {
    const bool samples = c.p.product == BlockProduct::kSamples;
    call = {.product = samples            ? DeviceProduct::kSamples
                       : c.p.transposed() ? DeviceProduct::kTransposed
                                          : DeviceProduct::kLinear,
            .dtype = c.p.dtype,
            .values = samples ? result.address() : values.address(),
            .x = {b.address(), samples ? c.p.rows : c.inputs()},
            .y = {samples ? q.address() : result.address(), samples ? c.p.cols : c.outputs()},
            .bias = c.p.bias ? bias.address() : 0,
            .tokens = c.p.tokens};
  }
  cuda::DeviceBuffer up(const std::vector<std::uint16_t>& data) const {
    return data.empty() ? cuda::DeviceBuffer(stream, 16)
                        : cuda::upload<std::uint16_t>(stream, data);
  }

  cuda::Stream stream;
  cuda::DeviceBuffer values, b, q, bias, result;
  DeviceBlockCall call;
};

TEST_P(DeviceBlocksTest, LaunchesAndIsRecordedOnceItIsReady) {
  for (const BlockProduct product :
       {BlockProduct::kForward, BlockProduct::kTransposed, BlockProduct::kSamples}) {
    BlockCase c({.product = product,
                 .rows = 512,
                 .cols = 640,
                 .density = 0.3,
                 .tokens = 300,
                 .bias = product == BlockProduct::kForward},
                Stored::kSome);
    auto blocks = blocks_on_device(c.pattern, 0);
    const Uploaded on(c);
    EXPECT_FALSE(blocks->enqueue(on.stream.handle(), on.call));
    EXPECT_TRUE(blocks->kernels().empty());
    EXPECT_THROW(
        cuda::Graph(on.stream, [&] { blocks->prepare(on.stream.handle(), on.call, GetParam()); }),
        Error);
    blocks->prepare(on.stream.handle(), on.call, GetParam());
    ASSERT_EQ(blocks->kernels().size(), 1U);
    EXPECT_EQ(blocks->kernels()[0].measured, GetParam());
    EXPECT_GT(blocks->bytes(), 0U);
    cuda::fill_bytes(on.stream, on.result.address(), 0xFF, on.result.size());
    const cuda::Graph graph(on.stream,
                            [&] { ASSERT_TRUE(blocks->enqueue(on.stream.handle(), on.call)); });
    blocks.reset();  // What a graph has recorded stays.
    graph.launch(on.stream);
    const std::vector<std::uint16_t> found = cuda::download<std::uint16_t>(on.stream, on.result);
    std::copy_n(found.begin(), c.result.size(), c.result.begin());
    c.expect_close(to_string(on.call.product));
  }
}
INSTANTIATE_TEST_SUITE_P(Measuring, DeviceBlocksTest, ::testing::Bool());

TEST_F(DeviceBlocksTest, OtherNumbersOfTokensAndNone) {
  BlockCase c({.product = BlockProduct::kSamples, .rows = 256, .cols = 256, .tokens = 40},
              Stored::kSome);
  const auto blocks = blocks_on_device(c.pattern, 0);
  Uploaded on(c);
  on.call.tokens = 0;
  cuda::fill_bytes(on.stream, on.result.address(), 0xFF, on.result.size());
  EXPECT_TRUE(blocks->enqueue(on.stream.handle(), on.call));
  for (const std::uint16_t value : cuda::download<std::uint16_t>(on.stream, on.result))
    ASSERT_EQ(value, 0);
  for (const std::int64_t tokens : {1, 17, 40}) {
    on.call.tokens = tokens;
    blocks->prepare(on.stream.handle(), on.call, false);
    EXPECT_TRUE(blocks->enqueue(on.stream.handle(), on.call));
  }
  EXPECT_EQ(blocks->kernels().size(), 3U);  // Buckets of 16, 32 and 64.
}

TEST_F(DeviceBlocksTest, SaysWhatThereIsNoKernelFor) {
  BlockCase c({.rows = 64, .cols = 64, .block_rows = 16, .block_cols = 16, .tokens = 4},
              Stored::kSome);
  EXPECT_FALSE(blocks_on_device(c.pattern, 0)->supports(DType::kF32));
  EXPECT_TRUE(blocks_on_device(c.pattern, 0)->supports(DType::kF16));
  BlockPattern pattern = c.pattern;
  pattern.rows = 80;
  EXPECT_THROW(blocks_on_device(pattern, 0), Error);
  EXPECT_THROW(blocks_on_device(c.pattern, 99), Error);
}

}  // namespace
}  // namespace rarefy::gpu
