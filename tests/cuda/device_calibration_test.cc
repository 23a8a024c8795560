// Calibrations of GPUs: which is used, and what stands in for none. No GPU is needed.
#include "ops/spmm/cuda/device_calibration.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "io/temporary_directory.h"
#include "rarefy/log.h"

namespace rarefy::gpu {
namespace {

TEST(DeviceCalibration, KeyNamesDeviceDriverAndCompiler) {
  const CalibrationKey h100 = device_calibration_key(cuda::h100_facts());
  EXPECT_NE(h100.device.find(cuda::h100_facts().name), std::string::npos);
  EXPECT_NE(h100.device.find("driver "), std::string::npos);
  EXPECT_NE(h100.device.find("NVRTC "), std::string::npos);
  EXPECT_NE(h100.build, cpu_calibration_key(2).build);
  EXPECT_NE(h100.file, cpu_calibration_key(2).file);
  cuda::DeviceFacts other = cuda::h100_facts();
  other.name = "another GPU";
  EXPECT_NE(device_calibration_key(other).device, h100.device);
}

TEST(DeviceCalibration, IsUsedOnItsOwnDeviceAndSaysSoOnOthers) {
  const testing::TemporaryDirectory folder;
  setenv("RAREFY_CACHE", folder.path().c_str(), 1);
  std::string heard;
  set_log([&](std::string_view line) { heard += line; });
  cuda::DeviceFacts mine = cuda::h100_facts();
  mine.name = "my GPU";
  std::string reason;
  EXPECT_FALSE(kept_device_calibration(mine, &reason));
  EXPECT_EQ(reason, "there is none: rarefy calibrate --device cuda makes one");
  EXPECT_EQ(heard, "") << "nothing that anybody made is passed over";

  BlockCalibration made{.device = device_calibration_key(mine).device,
                        .build = device_calibration_key(mine).build,
                        .date = "2026-11-22"};
  made.curves = {{.dtype = DType::kBF16, .n = 512, .dense_ns = 3}};
  keep_device_calibration(mine, made);
  ASSERT_TRUE(kept_device_calibration(mine, &reason));
  EXPECT_EQ(reason, "");
  EXPECT_EQ(calibration_or_ordinary(mine, DType::kBF16).curves[0].dense_ns, 3);
  EXPECT_EQ(calibration_or_ordinary(mine, DType::kF16).curves.size(),
            ordinary_calibration(mine).curves.size())
      << "a dtype that was not calibrated";

  cuda::DeviceFacts other = mine;
  other.name = "another GPU";
  EXPECT_FALSE(kept_device_calibration(other, &reason));
  EXPECT_FALSE(kept_device_calibration(other, &reason));
  EXPECT_NE(reason.find("is of another device (my GPU"), std::string::npos) << reason;
  EXPECT_EQ(heard.find("calibration not used"), 0U) << heard;
  EXPECT_EQ(heard.find("calibration not used", 1), std::string::npos) << "said twice: " << heard;
  EXPECT_EQ(calibration_or_ordinary(other, DType::kBF16).curves.size(),
            ordinary_calibration(other).curves.size());
  set_log({});
  unsetenv("RAREFY_CACHE");
}

TEST(DeviceCalibration, OrdinaryFiguresAreThoseOfAnH100) {
  const BlockCalibration c = ordinary_calibration(cuda::h100_facts());
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    const BlockCurve* many = c.curve(dtype, 4096);
    ASSERT_NE(many, nullptr);
    // docs/hybrid.md: 64×64 blocks and 4096 tokens take 68 ns stored and 36 in a dense product.
    EXPECT_NEAR(4 * many->dense_ns, 68, 5);
    EXPECT_NEAR(4 * many->whole_ns, 36, 2);
    EXPECT_LT(c.stored_ns(*many, 128, 128), c.stored_ns(*many, 64, 64));
    EXPECT_GT(c.stored_ns(*many, 32, 32), c.stored_ns(*many, 64, 64));
    // 220 000 nonzeros of 4096×14336 take 330 µs by themselves.
    const double positions = 4096.0 * 14336;
    const double rest_us =
        (220000 * many->sparse_slope + positions / 2 * many->sparse_ns) / 1024 / 1e3;
    EXPECT_NEAR(rest_us, 330, 25);
    EXPECT_EQ(many->band(0.1), Band::kDense);
    EXPECT_EQ(many->band(0.002), Band::kSparse);
  }
  cuda::DeviceFacts half = cuda::h100_facts();
  half.multiprocessors /= 2;
  EXPECT_NEAR(ordinary_calibration(half).curve(DType::kBF16, 4096)->dense_ns,
              2 * c.curve(DType::kBF16, 4096)->dense_ns, 1e-9);
}

}  // namespace
}  // namespace rarefy::gpu
