// The CUDA driver (libcuda), as a table of functions.
#pragma once

#include <fmt/format.h>

#include <string>

#include "cuda/abi.h"
#include "cuda/libraries.h"
#include "rarefy/error.h"

namespace rarefy::cuda {

// name, parameters. The versioned names are the current ones (what cuda.h's macros stand for).
#define RAREFY_DRIVER_FUNCTIONS(X)                                                            \
  X(cuInit, (unsigned))                                                                       \
  X(cuDriverGetVersion, (int*))                                                               \
  X(cuGetErrorName, (abi::CUresult, const char**))                                            \
  X(cuGetErrorString, (abi::CUresult, const char**))                                          \
  X(cuDeviceGetCount, (int*))                                                                 \
  X(cuDeviceGet, (abi::CUdevice*, int))                                                       \
  X(cuDeviceGetName, (char*, int, abi::CUdevice))                                             \
  X(cuDeviceGetUuid_v2, (abi::Uuid*, abi::CUdevice))                                          \
  X(cuDeviceTotalMem_v2, (std::size_t*, abi::CUdevice))                                       \
  X(cuDeviceGetAttribute, (int*, int, abi::CUdevice))                                         \
  X(cuDeviceGetDefaultMemPool, (abi::CUmemoryPool*, abi::CUdevice))                           \
  X(cuDevicePrimaryCtxRetain, (abi::CUcontext*, abi::CUdevice))                               \
  X(cuCtxSetCurrent, (abi::CUcontext))                                                        \
  X(cuCtxSynchronize, ())                                                                     \
  X(cuMemPoolSetAttribute, (abi::CUmemoryPool, int, void*))                                   \
  X(cuMemPoolTrimTo, (abi::CUmemoryPool, std::size_t))                                        \
  X(cuMemAlloc_v2, (abi::CUdeviceptr*, std::size_t))                                          \
  X(cuMemFree_v2, (abi::CUdeviceptr))                                                         \
  X(cuMemAllocAsync, (abi::CUdeviceptr*, std::size_t, abi::CUstream))                         \
  X(cuMemFreeAsync, (abi::CUdeviceptr, abi::CUstream))                                        \
  X(cuMemGetInfo_v2, (std::size_t*, std::size_t*))                                            \
  X(cuMemHostAlloc, (void**, std::size_t, unsigned))                                          \
  X(cuMemFreeHost, (void*))                                                                   \
  X(cuMemcpyHtoDAsync_v2, (abi::CUdeviceptr, const void*, std::size_t, abi::CUstream))        \
  X(cuMemcpyDtoHAsync_v2, (void*, abi::CUdeviceptr, std::size_t, abi::CUstream))              \
  X(cuMemcpyDtoDAsync_v2, (abi::CUdeviceptr, abi::CUdeviceptr, std::size_t, abi::CUstream))   \
  X(cuMemsetD8Async, (abi::CUdeviceptr, unsigned char, std::size_t, abi::CUstream))           \
  X(cuStreamCreate, (abi::CUstream*, unsigned))                                               \
  X(cuStreamDestroy_v2, (abi::CUstream))                                                      \
  X(cuStreamSynchronize, (abi::CUstream))                                                     \
  X(cuStreamWaitEvent, (abi::CUstream, abi::CUevent, unsigned))                               \
  X(cuStreamBeginCapture_v2, (abi::CUstream, int))                                            \
  X(cuStreamEndCapture, (abi::CUstream, abi::CUgraph*))                                       \
  X(cuStreamIsCapturing, (abi::CUstream, int*))                                               \
  X(cuEventCreate, (abi::CUevent*, unsigned))                                                 \
  X(cuEventDestroy_v2, (abi::CUevent))                                                        \
  X(cuEventRecord, (abi::CUevent, abi::CUstream))                                             \
  X(cuEventSynchronize, (abi::CUevent))                                                       \
  X(cuEventElapsedTime, (float*, abi::CUevent, abi::CUevent))                                 \
  X(cuGraphInstantiateWithFlags, (abi::CUgraphExec*, abi::CUgraph, unsigned long long))       \
  X(cuGraphLaunch, (abi::CUgraphExec, abi::CUstream))                                         \
  X(cuGraphExecDestroy, (abi::CUgraphExec))                                                   \
  X(cuGraphDestroy, (abi::CUgraph))                                                           \
  X(cuModuleLoadData, (abi::CUmodule*, const void*))                                          \
  X(cuModuleUnload, (abi::CUmodule))                                                          \
  X(cuModuleGetFunction, (abi::CUfunction*, abi::CUmodule, const char*))                      \
  X(cuFuncSetAttribute, (abi::CUfunction, int, int))                                          \
  X(cuOccupancyMaxActiveBlocksPerMultiprocessor, (int*, abi::CUfunction, int, std::size_t))   \
  X(cuTensorMapEncodeTiled,                                                                   \
    (void*, int, std::uint32_t, abi::CUdeviceptr, const std::uint64_t*, const std::uint64_t*, \
     const std::uint32_t*, const std::uint32_t*, int, int, int, int))                         \
  X(cuLaunchKernelEx, (const abi::LaunchConfig*, abi::CUfunction, void**, void**))

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are declarators.
struct Driver {
#define RAREFY_DRIVER_MEMBER(name, parameters) abi::CUresult(*name) parameters = nullptr;
  RAREFY_DRIVER_FUNCTIONS(RAREFY_DRIVER_MEMBER)
#undef RAREFY_DRIVER_MEMBER
};
// NOLINTEND(bugprone-macro-parentheses)

/// What became of looking for the driver.
struct DriverState {
  Library library;
  Driver functions;
  int version = 0;    ///< CUDA version that the driver supports: 13000 for 13.0.
  std::string error;  ///< Why there is no usable driver; empty when there is one.
};

/// Looks for the driver and initialises it, once.
const DriverState& driver_state();

/// The driver's functions. Throws `Error` (kUnsupported) that says what is missing.
const Driver& driver();

/// "CUDA_ERROR_OUT_OF_MEMORY (out of memory)"
std::string describe(abi::CUresult result);

/// Throws `Error` for a call of the driver that failed: kOutOfMemory, kUnsupported where another
/// kernel or the CPU may do, else kInternal.
[[noreturn]] void fail_driver(abi::CUresult result, const std::string& what);

/// `check(driver().cuCtxSynchronize(), "waiting for the GPU")`
template <class... Args>
void check(abi::CUresult result, fmt::format_string<Args...> what, Args&&... args) {
  if (result != abi::kSuccess) fail_driver(result, fmt::format(what, std::forward<Args>(args)...));
}

}  // namespace rarefy::cuda
