// Calibrating a GPU: what is refused anywhere, what is found where there is one.
#include "ops/spmm/calibrate_device.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "gpu_or_skip.h"
#include "io/expect_error.h"
#include "io/temporary_directory.h"
#include "rarefy/log.h"

namespace rarefy {
namespace {

class CalibrateDevice : public ::testing::Test {
 protected:
  CalibrateDevice() { setenv("RAREFY_CACHE", folder.path().c_str(), 1); }
  ~CalibrateDevice() override {
    unsetenv("RAREFY_CACHE");
    set_log({});
  }

  testing::TemporaryDirectory folder;
  CalibrateOptions small{.dtypes = {DType::kBF16},
                         .ns = {128, 256},
                         .sparsities = {0.9, 0.99},
                         .blocks = {{64, 64}, {128, 128}},
                         .rows = 1024,
                         .cols = 1024};
};

TEST_F(CalibrateDevice, RefusesWhatCannotBeMeasured) {
  const auto refuses = [&](const char* what, const auto& change) {
    CalibrateOptions options = small;
    change(options);
    testing::expect_error([&] { calibrate_device(options); }, ErrorKind::kInvalidArgument, {what});
  };
  refuses("dtypes: expected bf16 or f16, got f32",
          [](CalibrateOptions& o) { o.dtypes = {DType::kF32}; });
  refuses("multiples of 32x32, got 48x32", [](CalibrateOptions& o) { o.blocks[1] = {48, 32}; });
  refuses("got none", [](CalibrateOptions& o) { o.ns.clear(); });
}

TEST_F(CalibrateDevice, SaysAtOnceThatItCannotBeKept) {
  const std::string file = folder.path() / "file";
  std::ofstream(file) << "no folder";
  setenv("RAREFY_CACHE", (file + "/cache").c_str(), 1);
  testing::expect_error([&] { calibrate_device(small); }, ErrorKind::kIo,
                        {"file/cache", "a folder that can be written"});
}

TEST_F(CalibrateDevice, SaysWhatIsMissing) {
  if (cuda::Device::count() > 0) GTEST_SKIP() << "there is a GPU";
  testing::expect_error([&] { calibrate_device(small); }, ErrorKind::kUnsupported, {});
  testing::expect_error([&] { device_calibration(); }, ErrorKind::kUnsupported, {});
}

TEST_F(CalibrateDevice, MeasuresAndKeepsTheCurves) {
  RAREFY_SKIP_WITHOUT_GPU();
  std::string reason;
  EXPECT_FALSE(device_calibration(&reason));
  EXPECT_NE(reason.find("rarefy calibrate --device cuda makes one"), std::string::npos) << reason;
  const double ordinary = device_curve(DType::kBF16, 128).dense_ns;
  const BlockCalibration made = calibrate_device(small);
  ASSERT_EQ(made.curves.size(), 2U);
  ASSERT_EQ(made.timings.size(), 8U);
  for (const BlockTiming& t : made.timings) {
    EXPECT_GT(t.sparse_ns, 0);
    EXPECT_GT(t.dense_ns + t.call_us, 0);
    EXPECT_GT(t.whole_ns, 0);
  }
  const auto kept = device_calibration(&reason);
  ASSERT_TRUE(kept) << reason;
  EXPECT_EQ(kept->device, made.device);
  EXPECT_EQ(device_curve(DType::kBF16, 128).dense_ns, made.curve(DType::kBF16, 128)->dense_ns);
  EXPECT_NE(device_curve(DType::kBF16, 128).dense_ns, ordinary);
  EXPECT_TRUE(std::filesystem::exists(folder.path() / "calibration-cuda.json"));
}

}  // namespace
}  // namespace rarefy
