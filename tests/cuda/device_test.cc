// The runtime on a real GPU: memory, launches, graphs, errors.
#include "cuda/device.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <numeric>
#include <thread>
#include <vector>

#include "cuda/kernel.h"
#include "cuda/memory.h"
#include "gpu_or_skip.h"

namespace rarefy::cuda {
namespace {

constexpr const char* kAdd = R"(
extern "C" __global__ void add(const float* x, float* y, float a, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] += a * x[i];
}
extern "C" __global__ void shared_sum(const float* x, float* y) {
  extern __shared__ float s[];
  s[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0) {
    float sum = 0;
    for (int i = 0; i < blockDim.x; ++i) sum += s[i];
    *y = sum;
  }
}
extern "C" __global__ void trap() { asm("trap;"); }
)";

class OnDevice : public testing::Test {
 protected:
  void SetUp() override { RAREFY_SKIP_WITHOUT_GPU(); }
  static std::vector<float> ramp(int n) {
    std::vector<float> x(static_cast<std::size_t>(n));
    std::iota(x.begin(), x.end(), 0.0F);
    return x;
  }
};

TEST_F(OnDevice, SaysWhatItIs) {
  const DeviceFacts& facts = Device::get().facts();
  EXPECT_FALSE(facts.name.empty());
  EXPECT_GE(facts.major, 8);
  EXPECT_GT(facts.multiprocessors, 0);
  EXPECT_GE(facts.shared_per_block, std::size_t{48} << 10);
  EXPECT_GT(facts.memory_gb_per_s, 100);
  EXPECT_GT(facts.clock_ghz, 0.5);
  EXPECT_GT(Device::get().memory().free, 0U);
  EXPECT_THROW(Device::get(99), Error);
}

TEST_F(OnDevice, RunsAKernel) {
  const Device& device = Device::get();
  const Stream stream(device);
  const Kernel add(device, {.name = "add", .text = kAdd}, "add");
  const int n = 1000;
  const std::vector<float> x = ramp(n);
  const DeviceBuffer dx = upload<float>(stream, x);
  const DeviceBuffer dy(stream, dx.size());
  fill_bytes(stream, dy.address(), 0, dy.size());
  add.launch(stream, {.grid = {4}, .threads = 256}, dx.as<float>(), dy.as<float>(), 2.0F, n);
  const std::vector<float> y = download<float>(stream, dy);
  for (int i = 0; i < n; ++i)
    ASSERT_EQ(y[static_cast<std::size_t>(i)], 2.0F * static_cast<float>(i));
}

TEST_F(OnDevice, AGraphReplaysWhatWasRecorded) {
  const Device& device = Device::get();
  const Stream stream(device);
  const Kernel add(device, {.name = "add", .text = kAdd}, "add");
  const std::vector<float> x = ramp(256);
  const DeviceBuffer dx = upload<float>(stream, x);
  const DeviceBuffer dy(stream, dx.size());
  fill_bytes(stream, dy.address(), 0, dy.size());
  stream.synchronize();
  const Graph graph(stream, [&] {
    for (int i = 0; i < 3; ++i)
      add.launch(stream, {.threads = 256}, dx.as<float>(), dy.as<float>(), 1.0F, 256);
  });
  graph.launch(stream);
  graph.launch(stream);
  EXPECT_EQ(download<float>(stream, dy)[7], 6.0F * 7.0F);
}

TEST_F(OnDevice, DynamicSharedMemoryBeyond48KilobytesMustBeAskedFor) {
  const Device& device = Device::get();
  const Stream stream(device);
  const Kernel sum(device, {.name = "add", .text = kAdd}, "shared_sum");
  const std::vector<float> x(512, 1.0F);
  const DeviceBuffer dx = upload<float>(stream, x);
  const DeviceBuffer dy(stream, 4);
  const std::size_t most = device.facts().shared_per_block;
  const Launch launch{.threads = 512, .shared_bytes = most};
  EXPECT_THROW(sum.launch(stream, launch, dx.as<float>(), dy.as<float>()), Error);
  EXPECT_THROW(sum.allow_shared(most + 1), Error);
  sum.allow_shared(most);
  sum.launch(stream, launch, dx.as<float>(), dy.as<float>());
  EXPECT_EQ(download<float>(stream, dy)[0], 512.0F);
  EXPECT_EQ(sum.blocks_per_multiprocessor(512, most), 1);
}

TEST_F(OnDevice, DependentLaunchesAndClustersKeepTheOrder) {
  const Device& device = Device::get();
  if (device.facts().major < 9) GTEST_SKIP() << "needs compute capability 9.0";
  const char* text = R"(
extern "C" __global__ void next(int* x) {
  asm volatile("griddepcontrol.wait;" ::: "memory");
  if (threadIdx.x == 0 && blockIdx.x == 0) *x = *x * 3 + 1;
  asm volatile("griddepcontrol.launch_dependents;");
}
)";
  const Kernel next(device, {.name = "next", .text = text, .oldest_arch = 90}, "next");
  const Stream stream(device);
  const DeviceBuffer x(stream, 4);
  fill_bytes(stream, x.address(), 0, 4);
  int expected = 0;
  for (int i = 0; i < 10; ++i) {
    next.launch(stream, {.grid = {4}, .threads = 32, .cluster = 2, .overlaps_previous = true},
                x.as<int>());
    expected = expected * 3 + 1;
  }
  EXPECT_EQ(download<int>(stream, x)[0], expected);
}

TEST_F(OnDevice, RunningOutOfMemoryIsAnErrorThatSaysHowMuchIsFree) {
  const Device& device = Device::get();
  const Stream stream(device);
  try {
    const DeviceBuffer huge(stream, device.facts().memory_bytes * 2);
    FAIL() << "got it";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kOutOfMemory);
    EXPECT_NE(std::string(error.what()).find("are free"), std::string::npos) << error.what();
  }
  const DeviceBuffer small(stream, 1 << 20);  // And the device still works.
  EXPECT_NE(small.address(), 0U);
}

TEST_F(OnDevice, FreedMemoryIsKeptForTheNextBuffer) {
  const Stream stream(Device::get());
  const std::size_t bytes = std::size_t{64} << 20;
  { const DeviceBuffer first(stream, bytes); }
  stream.synchronize();
  const std::size_t before = Device::get().memory().free;
  const DeviceBuffer second(stream, bytes);
  stream.synchronize();
  EXPECT_EQ(Device::get().memory().free, before);
}

TEST_F(OnDevice, ACubinOfAnotherGpuIsRefused) {
  const Device& device = Device::get();
  const Arch other = device.facts().major == 9 ? Arch{10, 0, true} : Arch{9, 0, true};
  if (!can_compile(other)) GTEST_SKIP() << other.name();
  const Cubin cubin = compile({.name = "add", .text = kAdd}, other);
  try {
    const Kernel kernel(device, cubin, "add");
    FAIL() << "loaded";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported) << error.what();
  }
}

TEST_F(OnDevice, PinnedMemoryAndOtherThreadsWork) {
  const Device& device = Device::get();
  std::thread other([&] {
    const Stream stream(device);
    const PinnedBuffer host(device, 4096);
    std::fill_n(host.data(), host.size(), std::byte{42});
    const DeviceBuffer buffer(stream, host.size());
    copy_to_device(stream, buffer.address(), host.data(), host.size());
    const std::vector<unsigned char> back = download<unsigned char>(stream, buffer);
    EXPECT_EQ(back.front(), 42);
    EXPECT_EQ(back.back(), 42);
  });
  other.join();
}

/// What a kernel did wrong shows at the next wait, with the driver's name for it. Runs in a process
/// of its own, since a context does not survive it: this program again, with this test alone.
TEST_F(OnDevice, AFaultInAKernelIsReported) {
  if (std::getenv("RAREFY_TEST_FAULT") == nullptr) {
    const std::string self = std::filesystem::read_symlink("/proc/self/exe");
    const std::string command = "RAREFY_TEST_FAULT=1 '" + self +
                                "' --gtest_filter=OnDevice.AFaultInAKernelIsReported >/dev/null";
    EXPECT_EQ(std::system(command.c_str()), 0);
    return;
  }
  const Device& device = Device::get();
  const Stream stream(device);
  const Kernel trap(device, {.name = "add", .text = kAdd}, "trap");
  trap.launch(stream, {});
  try {
    stream.synchronize();
    FAIL() << "nothing went wrong";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInternal);
    EXPECT_NE(std::string(error.what()).find("CUDA_ERROR_"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace rarefy::cuda
