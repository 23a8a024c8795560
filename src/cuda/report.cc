// What `rarefy doctor` says of GPUs.
#include <fmt/format.h>

#include "cuda/compiler.h"
#include "cuda/cublas.h"
#include "cuda/cusparselt.h"
#include "cuda/device.h"
#include "cuda/driver.h"
#include "rarefy/device.h"

namespace rarefy {
namespace {

/// "13.0" of 13000.
std::string version_text(int version) {
  return version > 0 ? fmt::format("{}.{}", version / 1000, version % 1000 / 10) : std::string();
}

GpuLibrary entry(const char* name, const std::string& version, const cuda::Library& library,
                 const std::string& error) {
  return {.name = name,
          .version = version,
          .file = library.file,
          .place = library.place,
          .error = library ? error : library.error};
}

}  // namespace

std::vector<GpuLibrary> gpu_libraries() {
  const cuda::DriverState& driver = cuda::driver_state();
  const cuda::CompilerState& compiler = cuda::compiler_state();
  const cuda::BlasState& blas = cuda::cublaslt_state();
  const cuda::SparseLtState& sparse = cuda::cusparselt_state();
  return {entry("driver", version_text(driver.version), driver.library, driver.error),
          entry("NVRTC", version_text(compiler.version), compiler.library, compiler.error),
          entry("cuBLASLt", "", blas.library, blas.error),
          entry("cuSPARSELt", sparse.version, sparse.library, sparse.error)};
}

std::vector<GpuDevice> gpu_devices() {
  std::vector<GpuDevice> devices;
  for (int i = 0; i < cuda::Device::count(); ++i) {
    GpuDevice device;
    device.index = i;
    try {
      const cuda::DeviceFacts facts = cuda::Device::facts_of(i);
      device.name = facts.name;
      device.arch = facts.arch().name();
      device.multiprocessors = facts.multiprocessors;
      device.memory_bytes = facts.memory_bytes;
      device.l2_bytes = facts.l2_bytes;
      device.clock_ghz = facts.clock_ghz;
      device.memory_gb_per_s = facts.memory_gb_per_s;
      device.usable = cuda::Device::supported(facts);
      if (device.usable) device.usable = cuda::can_compile(facts.arch());
    } catch (const Error& error) {
      device.usable = Support::no(error.what());
    }
    devices.push_back(std::move(device));
  }
  return devices;
}

}  // namespace rarefy
