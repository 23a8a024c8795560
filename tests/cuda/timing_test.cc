#include "cuda/timing.h"

#include <gtest/gtest.h>

#include <set>

#include "cuda/kernel.h"
#include "cuda/memory.h"
#include "gpu_or_skip.h"

namespace rarefy::cuda {
namespace {

TEST(RotatingCopies, CoverTheSpanButStayFew) {
  const std::size_t mib = std::size_t{1} << 20;
  EXPECT_EQ(rotating_copies(512 * mib, 256 * mib), 1);
  EXPECT_EQ(rotating_copies(100 * mib, 256 * mib), 3);
  EXPECT_EQ(rotating_copies(1, 256 * mib), 64);
  EXPECT_EQ(rotating_copies(0, 256 * mib), 64);
}

/// A kernel that spins for a number of nanoseconds takes that long, and every copy gets its turn.
TEST(TimeCalls, MeasuresWhatTheKernelTakes) {
  RAREFY_SKIP_WITHOUT_GPU();
  const char* text = R"(
extern "C" __global__ void spin(long long ns) {
  long long begin, now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(begin));
  do {
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  } while (now - begin < ns);
}
)";
  const Device& device = Device::get();
  const Kernel spin(device, {.name = "spin", .text = text}, "spin");
  const Stream stream(device);
  std::set<int> copies;
  const Timing timing = time_calls(stream,
                                   [&](int copy) {
                                     copies.insert(copy);
                                     spin.launch(stream, {}, 100000LL);
                                   },
                                   {.calls = 5, .copies = 3, .replays = 5});
  EXPECT_EQ(copies, (std::set<int>{0, 1, 2}));
  EXPECT_EQ(timing.replays, 5);
  EXPECT_GT(timing.median_us, 95);
  EXPECT_LT(timing.median_us, 130);
  EXPECT_LE(timing.least_us, timing.median_us);
}

}  // namespace
}  // namespace rarefy::cuda
