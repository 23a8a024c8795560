// The part of NVIDIA's C interfaces that Rarefy calls, declared here.
//
// Nothing of CUDA is needed to build Rarefy: libcuda and libnvrtc are opened at run time, their
// entry points have C linkage and versioned names (cuMemAlloc_v2), and NVIDIA never changes a
// published one. So these few types are as stable as the headers, and every binary can use a GPU.
// tests/cuda/abi_test.cc compares sizes, offsets and numbers with cuda.h where that is installed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rarefy::cuda::abi {

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = struct ContextTag*;
using CUmodule = struct ModuleTag*;
using CUfunction = struct FunctionTag*;
using CUstream = struct StreamTag*;
using CUevent = struct EventTag*;
using CUgraph = struct GraphTag*;
using CUgraphExec = struct GraphExecTag*;
using CUmemoryPool = struct MemoryPoolTag*;

// Results that mean more to us than "it failed".
inline constexpr CUresult kSuccess = 0;
inline constexpr CUresult kErrorOutOfMemory = 2;
inline constexpr CUresult kErrorNoDevice = 100;
inline constexpr CUresult kErrorInvalidImage = 200;
inline constexpr CUresult kErrorNoBinaryForGpu = 209;
inline constexpr CUresult kErrorUnsupportedPtxVersion = 222;
inline constexpr CUresult kErrorNotSupported = 801;

// CUdevice_attribute
inline constexpr int kClockRateKhz = 13;
inline constexpr int kMultiprocessorCount = 16;
inline constexpr int kMemoryClockRateKhz = 36;
inline constexpr int kMemoryBusBits = 37;
inline constexpr int kL2CacheBytes = 38;
inline constexpr int kMaxThreadsPerMultiprocessor = 39;
inline constexpr int kComputeCapabilityMajor = 75;
inline constexpr int kComputeCapabilityMinor = 76;
inline constexpr int kMaxSharedPerMultiprocessor = 81;
inline constexpr int kMaxRegistersPerMultiprocessor = 82;
inline constexpr int kMaxSharedPerBlockOptin = 97;
inline constexpr int kMemoryPoolsSupported = 115;

// CUfunction_attribute
inline constexpr int kFunctionMaxDynamicShared = 8;

inline constexpr int kMemoryPoolReleaseThreshold = 4;       // CUmemPool_attribute
inline constexpr unsigned kStreamNonBlocking = 1;           // CUstream_flags
inline constexpr unsigned kEventDefault = 0;                // CUevent_flags
inline constexpr int kCaptureModeThreadLocal = 1;           // CUstreamCaptureMode
inline constexpr int kCaptureNone = 0;                      // CUstreamCaptureStatus
inline constexpr int kLaunchClusterDimension = 4;           // CUlaunchAttributeID
inline constexpr int kLaunchProgrammaticSerialization = 6;  // programmatic dependent launch
inline constexpr int kTensorMapUint16 = 1;
inline constexpr int kTensorMapInterleaveNone = 0;
inline constexpr int kTensorMapSwizzle32 = 1;
inline constexpr int kTensorMapSwizzle64 = 2;
inline constexpr int kTensorMapSwizzle128 = 3;
inline constexpr int kTensorMapPromotion256 = 3;
inline constexpr int kTensorMapFillNone = 0;

struct LaunchAttribute {
  int id = 0;
  char pad[4] = {};
  union Value {
    char bytes[64] = {};
    struct {
      unsigned x, y, z;
    } cluster;
    int programmatic_serialization;
  } value;
};

struct LaunchConfig {
  unsigned grid_x = 1, grid_y = 1, grid_z = 1;
  unsigned block_x = 1, block_y = 1, block_z = 1;
  unsigned shared_bytes = 0;
  CUstream stream = nullptr;
  LaunchAttribute* attributes = nullptr;
  unsigned attribute_count = 0;
};

struct Uuid {
  char bytes[16];
};

using nvrtcResult = int;
using nvrtcProgram = struct NvrtcProgramTag*;

}  // namespace rarefy::cuda::abi
