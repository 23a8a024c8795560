#include "cuda/kernel.h"

#include "base/check.h"
#include "cuda/driver.h"

namespace rarefy::cuda {

struct Kernel::Module {
  const Device* device = nullptr;
  abi::CUmodule module = nullptr;
  abi::CUfunction function = nullptr;
  KernelFacts facts;

  Module() = default;
  Module(const Module&) = delete;
  Module& operator=(const Module&) = delete;
  ~Module() {
    // At the end of the process the driver may have shut down already: nothing to do then.
    if (module != nullptr) driver().cuModuleUnload(module);
  }
};

Kernel::Kernel(const Device& device, const Cubin& cubin, const std::string& name) {
  device.bind();
  auto loaded = std::make_shared<Module>();
  loaded->device = &device;
  loaded->facts = cubin.kernel(name);
  check(driver().cuModuleLoadData(&loaded->module, cubin.image.data()), "loading kernel {}", name);
  check(driver().cuModuleGetFunction(&loaded->function, loaded->module, name.c_str()), "kernel {}",
        name);
  module_ = std::move(loaded);
}

Kernel::Kernel(const Device& device, const Source& source, const std::string& name)
    : Kernel(device, compile(source, device.facts().arch()), name) {}

const KernelFacts& Kernel::facts() const {
  return module_->facts;
}

void Kernel::allow_shared(std::size_t bytes) const {
  const std::size_t most = module_->device->facts().shared_per_block;
  if (bytes + module_->facts.shared > most)
    fail(ErrorKind::kUnsupported,
         "GPU: kernel {} needs {} bytes of shared memory, the device has {}", module_->facts.name,
         bytes + module_->facts.shared, most);
  module_->device->bind();
  check(driver().cuFuncSetAttribute(module_->function, abi::kFunctionMaxDynamicShared,
                                    static_cast<int>(bytes)),
        "shared memory of kernel {}", module_->facts.name);
}

int Kernel::blocks_per_multiprocessor(unsigned threads, std::size_t shared_bytes) const {
  module_->device->bind();
  int blocks = 0;
  check(driver().cuOccupancyMaxActiveBlocksPerMultiprocessor(
            &blocks, module_->function, static_cast<int>(threads), shared_bytes),
        "occupancy of kernel {}", module_->facts.name);
  return blocks;
}

void Kernel::launch_raw(const Stream& stream, const Launch& how, void** arguments) const {
  module_->device->bind();
  abi::LaunchAttribute attributes[2];
  unsigned count = 0;
  if (how.overlaps_previous) {
    attributes[count].id = abi::kLaunchProgrammaticSerialization;
    attributes[count++].value.programmatic_serialization = 1;
  }
  if (how.cluster > 1) {
    attributes[count].id = abi::kLaunchClusterDimension;
    attributes[count++].value.cluster = {how.cluster, 1, 1};
  }
  abi::LaunchConfig config;
  config.grid_x = how.grid.x;
  config.grid_y = how.grid.y;
  config.grid_z = how.grid.z;
  config.block_x = how.threads;
  config.shared_bytes = static_cast<unsigned>(how.shared_bytes);
  config.stream = stream.handle();
  config.attributes = attributes;
  config.attribute_count = count;
  check(driver().cuLaunchKernelEx(&config, module_->function, arguments, nullptr),
        "launching {} with {}x{}x{} blocks of {} threads and {} bytes of shared memory",
        module_->facts.name, how.grid.x, how.grid.y, how.grid.z, how.threads, how.shared_bytes);
}

}  // namespace rarefy::cuda
