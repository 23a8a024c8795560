#include "cuda/device.h"

#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <vector>

#include "base/check.h"
#include "cuda/driver.h"

namespace rarefy::cuda {
namespace {

int attribute(abi::CUdevice device, int which) {
  int value = 0;
  check(driver().cuDeviceGetAttribute(&value, which, device), "device attribute {}", which);
  return value;
}

abi::CUdevice handle_of(int index) {
  const int count = Device::count();
  if (!driver_state().error.empty()) driver();  // Says what is missing.
  if (index < 0 || index >= count)
    fail(ErrorKind::kUnsupported, "GPU {}: the driver shows {} GPUs", index, count);
  abi::CUdevice device = 0;
  check(driver().cuDeviceGet(&device, index), "GPU {}", index);
  return device;
}

std::string uuid_text(const abi::Uuid& uuid) {
  std::string text = "GPU-";
  for (int i = 0; i < 16; ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) text += '-';
    text += fmt::format("{:02x}", static_cast<unsigned char>(uuid.bytes[i]));
  }
  return text;
}

}  // namespace

DeviceFacts h100_facts() {
  DeviceFacts facts;
  facts.name = "NVIDIA H100 80GB HBM3";
  facts.major = 9;
  facts.multiprocessors = 132;
  facts.threads_per_multiprocessor = 2048;
  facts.registers_per_multiprocessor = 65536;
  facts.shared_per_multiprocessor = 233472;
  facts.shared_per_block = 232448;
  facts.l2_bytes = 50U << 20;
  facts.memory_bytes = std::size_t{80} << 30;
  facts.clock_ghz = 1.98;
  facts.memory_gb_per_s = 3352;
  facts.has_memory_pools = true;
  return facts;
}

int Device::count() {
  if (!driver_state().error.empty()) return 0;
  int count = 0;
  return driver().cuDeviceGetCount(&count) == abi::kSuccess ? count : 0;
}

DeviceFacts Device::facts_of(int index) {
  const abi::CUdevice device = handle_of(index);
  DeviceFacts facts;
  facts.index = index;
  char name[256] = {};
  check(driver().cuDeviceGetName(name, sizeof name, device), "name of GPU {}", index);
  facts.name = name;
  abi::Uuid uuid{};
  check(driver().cuDeviceGetUuid_v2(&uuid, device), "uuid of GPU {}", index);
  facts.uuid = uuid_text(uuid);
  check(driver().cuDeviceTotalMem_v2(&facts.memory_bytes, device), "memory of GPU {}", index);
  facts.major = attribute(device, abi::kComputeCapabilityMajor);
  facts.minor = attribute(device, abi::kComputeCapabilityMinor);
  facts.multiprocessors = attribute(device, abi::kMultiprocessorCount);
  facts.threads_per_multiprocessor = attribute(device, abi::kMaxThreadsPerMultiprocessor);
  facts.registers_per_multiprocessor = attribute(device, abi::kMaxRegistersPerMultiprocessor);
  const auto bytes = [&](int which) { return static_cast<std::size_t>(attribute(device, which)); };
  facts.shared_per_multiprocessor = bytes(abi::kMaxSharedPerMultiprocessor);
  facts.shared_per_block = bytes(abi::kMaxSharedPerBlockOptin);
  facts.l2_bytes = bytes(abi::kL2CacheBytes);
  facts.clock_ghz = attribute(device, abi::kClockRateKhz) / 1e6;
  // Two transfers a clock.
  facts.memory_gb_per_s = 2.0 * attribute(device, abi::kMemoryClockRateKhz) / 1e6 *
                          attribute(device, abi::kMemoryBusBits) / 8;
  facts.has_memory_pools = attribute(device, abi::kMemoryPoolsSupported) != 0;
  return facts;
}

Support Device::supported(const DeviceFacts& facts) {
  if (facts.major >= 8) return Support::yes();
  return Support::no(fmt::format("expected compute capability 8.0 or newer, found {}.{}",
                                 facts.major, facts.minor));
}

Device::Device(int index) : facts_(facts_of(index)), device_(handle_of(index)) {
  if (const Support support = supported(facts_); !support)
    fail(ErrorKind::kUnsupported, "GPU {} ({}): {}", index, facts_.name, support.reason);
  check(driver().cuDevicePrimaryCtxRetain(&context_, device_), "context of GPU {}", index);
  if (facts_.has_memory_pools) {
    check(driver().cuDeviceGetDefaultMemPool(&pool_, device_), "memory pool of GPU {}", index);
    // Freed memory stays with the process until trim_pool: that is the caching allocator.
    std::uint64_t keep = std::numeric_limits<std::uint64_t>::max();
    check(driver().cuMemPoolSetAttribute(pool_, abi::kMemoryPoolReleaseThreshold, &keep),
          "memory pool of GPU {}", index);
  }
}

const Device& Device::get(int index) {
  static std::mutex mutex;
  static std::vector<std::unique_ptr<const Device>> devices;
  const std::scoped_lock lock(mutex);
  for (const auto& device : devices) {
    if (device->facts().index == index) return *device;
  }
  devices.push_back(std::unique_ptr<const Device>(new Device(index)));
  return *devices.back();
}

bool Device::overlaps_kernels() const {
  constexpr int kRecordsThemInGraphs = 12030;
  return facts_.major >= 9 && driver_state().version >= kRecordsThemInGraphs;
}

void Device::bind() const {
  check(driver().cuCtxSetCurrent(context_), "binding GPU {}", facts_.index);
}

void Device::synchronize() const {
  bind();
  check(driver().cuCtxSynchronize(), "waiting for GPU {}", facts_.index);
}

Device::Memory Device::memory() const {
  bind();
  Memory memory;
  check(driver().cuMemGetInfo_v2(&memory.free, &memory.total), "memory of GPU {}", facts_.index);
  return memory;
}

void Device::trim_pool() const {
  if (pool_ == nullptr) return;
  bind();
  check(driver().cuMemPoolTrimTo(pool_, 0), "memory pool of GPU {}", facts_.index);
}

}  // namespace rarefy::cuda
