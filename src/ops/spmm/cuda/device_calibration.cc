#include "ops/spmm/cuda/device_calibration.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "base/cache_folder.h"
#include "cuda/compiler.h"
#include "cuda/driver.h"
#include "ops/spmm/kernel_hash.h"

namespace rarefy::gpu {
namespace {

struct Known {
  std::optional<BlockCalibration> calibration;
  std::string reason;  ///< Why there is none.
};

struct KnownOnes {
  std::mutex mutex;
  std::map<std::string, Known> by_key;  ///< Folder and device.
};
KnownOnes& known_ones() {
  static KnownOnes ones;
  return ones;
}

std::string place_of(const CalibrationKey& key) {
  return cache_folder().string() + "\n" + key.device;
}

std::string version(int cuda) {
  return fmt::format("{}.{}", cuda / 1000, cuda % 1000 / 10);
}

}  // namespace

CalibrationKey device_calibration_key(const cuda::DeviceFacts& device) {
  return {.device = fmt::format("{}, driver {}, NVRTC {}", device.name,
                                version(cuda::driver_state().version),
                                version(cuda::compiler_state().version)),
          .build = device_kernel_source_hash(),
          .file = "calibration-cuda.json",
          .command = "rarefy calibrate --device cuda"};
}

std::optional<BlockCalibration> kept_device_calibration(const cuda::DeviceFacts& device,
                                                        std::string* reason) {
  const CalibrationKey key = device_calibration_key(device);
  KnownOnes& ones = known_ones();
  std::unique_lock lock(ones.mutex);
  auto at = ones.by_key.find(place_of(key));
  if (at == ones.by_key.end()) {
    lock.unlock();  // It may log, and whoever listens may ask again.
    Known found;
    found.calibration = find_calibration(cache_folder(), key, found.reason);
    lock.lock();
    at = ones.by_key.try_emplace(place_of(key), std::move(found)).first;
  }
  if (reason != nullptr) *reason = at->second.reason;
  return at->second.calibration;
}

void keep_device_calibration(const cuda::DeviceFacts& device, const BlockCalibration& calibration) {
  const CalibrationKey key = device_calibration_key(device);
  store_calibration(cache_folder(), key.file, calibration);
  KnownOnes& ones = known_ones();
  const std::scoped_lock lock(ones.mutex);
  ones.by_key[place_of(key)] = {calibration, ""};
}

BlockCalibration ordinary_calibration(const cuda::DeviceFacts& device) {
  // One H100, bf16, 4096×14336 (docs/hybrid.md), for 1024 positions and 4096 tokens: in blocks of
  // 128, 64 and 32, in cuBLASLt's dense product, and a nonzero of the sliced family.
  constexpr std::pair<int, double> kStored[] = {{128, 11.9}, {64, 16.5}, {32, 30.0}};
  constexpr double kWhole = 9.1, kNonzero = 1.27, kLists = 1.7, kMeasuredAt = 4096;
  constexpr double kLaunchUs = 4, kFromMemory = 0.75;
  const cuda::DeviceFacts h100 = cuda::h100_facts();
  const double slower = h100.multiprocessors * h100.clock_ghz /
                        std::max(1.0, device.multiprocessors * device.clock_ghz);
  // Of 1024 values of 16 bits.
  const double read_ns = 2048 / (kFromMemory * std::max(1.0, device.memory_gb_per_s));

  BlockCalibration made{.device = device.name};
  for (const DType dtype : {DType::kBF16, DType::kF16}) {
    for (const std::int64_t n : {128, 512, 4096}) {
      const double share = static_cast<double>(n) / kMeasuredAt * slower;
      const auto time = [&](double ns) { return std::max(ns * share, read_ns); };
      for (const auto& [side, ns] : kStored)
        made.timings.push_back(
            {.dtype = dtype, .n = n, .block_rows = side, .block_cols = side, .dense_ns = time(ns)});
      made.curves.push_back({.dtype = dtype,
                             .n = n,
                             .dense_ns = time(kStored[1].second),
                             .sparse_ns = kLists * share,
                             .sparse_slope = 1024 * kNonzero * share,
                             .call_us = kLaunchUs + 8 * share,
                             .whole_ns = time(kWhole)});
    }
  }
  return made;
}

BlockCalibration calibration_or_ordinary(const cuda::DeviceFacts& device, DType dtype) {
  const std::optional<BlockCalibration> kept = kept_device_calibration(device);
  return kept && kept->curve(dtype, 1) != nullptr ? *kept : ordinary_calibration(device);
}

}  // namespace rarefy::gpu
