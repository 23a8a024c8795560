// NVIDIA's driver, as far as Rarefy asks it before it trusts it: a GPU that is not there, for tests
// of what goes wrong. FAKE_GPU says what: "old" (a driver for CUDA 11.4), "broken" (it does not
// start), "none" (it shows no GPU), "sm75" (an old GPU), otherwise a Hopper without a byte of free
// memory.
#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace {

bool is(const char* scenario) {
  const char* wanted = std::getenv("FAKE_GPU");
  return wanted != nullptr && std::strcmp(wanted, scenario) == 0;
}

constexpr int kOutOfMemory = 2, kUnknown = 999;

/// Numbers of CUdevice_attribute.
int attribute(int which) {
  switch (which) {
    case 13:
      return 1'980'000;  // Clock, kHz.
    case 16:
      return 132;  // Multiprocessors.
    case 36:
      return 2'619'000;  // Memory clock, kHz.
    case 37:
      return 5120;  // Bits of the bus.
    case 39:
      return 2048;  // Threads of a multiprocessor.
    case 75:
      return is("sm75") ? 7 : 9;
    case 76:
      return is("sm75") ? 5 : 0;
    case 81:
    case 97:
      return 232448;  // Shared memory.
    case 82:
      return 65536;  // Registers.
    default:
      return 0;  // Among them memory pools.
  }
}

/// Any address does: nobody follows it.
template <class Handle>
int make(Handle* handle) {
  static char something[1];
  *handle = reinterpret_cast<Handle>(something);
  return 0;
}

}  // namespace

// NOLINTBEGIN(readability-identifier-naming): the names are NVIDIA's.
extern "C" {

using Any = void*;

int cuInit(unsigned) {
  return is("broken") ? kUnknown : 0;
}
int cuDriverGetVersion(int* version) {
  *version = is("old") ? 11040 : 13000;
  return 0;
}
int cuGetErrorName(int result, const char** name) {
  *name = result == kOutOfMemory ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_UNKNOWN";
  return 0;
}
int cuGetErrorString(int, const char** text) {
  *text = "as the test wants it";
  return 0;
}
int cuDeviceGetCount(int* count) {
  *count = is("none") ? 0 : 1;
  return 0;
}
int cuDeviceGet(int* device, int) {
  *device = 0;
  return 0;
}
int cuDeviceGetName(char* name, int length, int) {
  std::strncpy(name, is("sm75") ? "Fake T4" : "Fake H100", static_cast<std::size_t>(length) - 1);
  return 0;
}
int cuDeviceGetUuid_v2(void*, int) {
  return 0;
}
int cuDeviceTotalMem_v2(std::size_t* bytes, int) {
  *bytes = std::size_t{80} << 30;
  return 0;
}
int cuDeviceGetAttribute(int* value, int which, int) {
  *value = attribute(which);
  return 0;
}
int cuDeviceGetDefaultMemPool(Any* pool, int) {
  return make(pool);
}
int cuDevicePrimaryCtxRetain(Any* context, int) {
  return make(context);
}
int cuMemAlloc_v2(unsigned long long*, std::size_t) {
  return kOutOfMemory;
}
int cuMemAllocAsync(unsigned long long*, std::size_t, Any) {
  return kOutOfMemory;
}
int cuMemGetInfo_v2(std::size_t* free, std::size_t* total) {
  *free = 0;
  *total = std::size_t{80} << 30;
  return 0;
}
int cuMemHostAlloc(void** memory, std::size_t, unsigned) {
  *memory = nullptr;
  return kOutOfMemory;
}
int cuStreamCreate(Any* stream, unsigned) {
  return make(stream);
}
int cuEventCreate(Any* event, unsigned) {
  return make(event);
}
int cuModuleLoadData(Any* module, const void*) {
  return make(module);
}
int cuModuleGetFunction(Any* function, Any, const char*) {
  return make(function);
}

// Everything else works, and does nothing.
#define NOTHING(name) \
  int name() {        \
    return 0;         \
  }
NOTHING(cuCtxSetCurrent)
NOTHING(cuCtxSynchronize)
NOTHING(cuMemPoolSetAttribute)
NOTHING(cuMemPoolTrimTo)
NOTHING(cuMemFree_v2)
NOTHING(cuMemFreeAsync)
NOTHING(cuMemFreeHost)
NOTHING(cuMemcpyHtoDAsync_v2)
NOTHING(cuMemcpyDtoHAsync_v2)
NOTHING(cuMemcpyDtoDAsync_v2)
NOTHING(cuMemsetD8Async)
NOTHING(cuStreamDestroy_v2)
NOTHING(cuStreamSynchronize)
NOTHING(cuStreamWaitEvent)
NOTHING(cuStreamBeginCapture_v2)
NOTHING(cuStreamEndCapture)
NOTHING(cuStreamIsCapturing)
NOTHING(cuEventDestroy_v2)
NOTHING(cuEventRecord)
NOTHING(cuEventSynchronize)
NOTHING(cuEventElapsedTime)
NOTHING(cuGraphInstantiateWithFlags)
NOTHING(cuGraphLaunch)
NOTHING(cuGraphExecDestroy)
NOTHING(cuGraphDestroy)
NOTHING(cuModuleUnload)
NOTHING(cuFuncSetAttribute)
NOTHING(cuOccupancyMaxActiveBlocksPerMultiprocessor)
NOTHING(cuTensorMapEncodeTiled)
NOTHING(cuLaunchKernelEx)

}  // extern "C"
// NOLINTEND(readability-identifier-naming)
