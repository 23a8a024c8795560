// Our declarations of the driver's interface (src/cuda/abi.h) against NVIDIA's own header.
#include "cuda/abi.h"

#include <cuda.h>
#include <gtest/gtest.h>

#include "cuda/tensor_map.h"

namespace ours = rarefy::cuda::abi;

TEST(Abi, LaunchStructuresLieAsInCudaH) {
  EXPECT_EQ(sizeof(ours::LaunchConfig), sizeof(CUlaunchConfig));
  EXPECT_EQ(offsetof(ours::LaunchConfig, grid_x), offsetof(CUlaunchConfig, gridDimX));
  EXPECT_EQ(offsetof(ours::LaunchConfig, block_x), offsetof(CUlaunchConfig, blockDimX));
  EXPECT_EQ(offsetof(ours::LaunchConfig, shared_bytes), offsetof(CUlaunchConfig, sharedMemBytes));
  EXPECT_EQ(offsetof(ours::LaunchConfig, stream), offsetof(CUlaunchConfig, hStream));
  EXPECT_EQ(offsetof(ours::LaunchConfig, attributes), offsetof(CUlaunchConfig, attrs));
  EXPECT_EQ(offsetof(ours::LaunchConfig, attribute_count), offsetof(CUlaunchConfig, numAttrs));
  EXPECT_EQ(sizeof(ours::LaunchAttribute), sizeof(CUlaunchAttribute));
  EXPECT_EQ(offsetof(ours::LaunchAttribute, value), offsetof(CUlaunchAttribute, value));
  EXPECT_EQ(sizeof(ours::Uuid), sizeof(CUuuid));
  EXPECT_EQ(sizeof(ours::CUdeviceptr), sizeof(CUdeviceptr));
  EXPECT_EQ(sizeof(ours::CUdevice), sizeof(CUdevice));
  EXPECT_EQ(sizeof(ours::CUresult), sizeof(CUresult));
}

TEST(Abi, NumbersAreThoseOfCudaH) {
  EXPECT_EQ(ours::kSuccess, CUDA_SUCCESS);
  EXPECT_EQ(ours::kErrorOutOfMemory, CUDA_ERROR_OUT_OF_MEMORY);
  EXPECT_EQ(ours::kErrorNoDevice, CUDA_ERROR_NO_DEVICE);
  EXPECT_EQ(ours::kErrorInvalidImage, CUDA_ERROR_INVALID_IMAGE);
  EXPECT_EQ(ours::kErrorNoBinaryForGpu, CUDA_ERROR_NO_BINARY_FOR_GPU);
  EXPECT_EQ(ours::kErrorUnsupportedPtxVersion, CUDA_ERROR_UNSUPPORTED_PTX_VERSION);
  EXPECT_EQ(ours::kErrorNotSupported, CUDA_ERROR_NOT_SUPPORTED);
  EXPECT_EQ(ours::kClockRateKhz, CU_DEVICE_ATTRIBUTE_CLOCK_RATE);
  EXPECT_EQ(ours::kMultiprocessorCount, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
  EXPECT_EQ(ours::kMemoryClockRateKhz, CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE);
  EXPECT_EQ(ours::kMemoryBusBits, CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH);
  EXPECT_EQ(ours::kL2CacheBytes, CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE);
  EXPECT_EQ(ours::kMaxThreadsPerMultiprocessor, CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR);
  EXPECT_EQ(ours::kComputeCapabilityMajor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
  EXPECT_EQ(ours::kComputeCapabilityMinor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
  EXPECT_EQ(ours::kMaxSharedPerMultiprocessor,
            CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR);
  EXPECT_EQ(ours::kMaxRegistersPerMultiprocessor,
            CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_MULTIPROCESSOR);
  EXPECT_EQ(ours::kMaxSharedPerBlockOptin, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
  EXPECT_EQ(ours::kMemoryPoolsSupported, CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED);
  EXPECT_EQ(ours::kFunctionMaxDynamicShared, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES);
  EXPECT_EQ(ours::kMemoryPoolReleaseThreshold, CU_MEMPOOL_ATTR_RELEASE_THRESHOLD);
  EXPECT_EQ(ours::kStreamNonBlocking, static_cast<unsigned>(CU_STREAM_NON_BLOCKING));
  EXPECT_EQ(ours::kEventDefault, static_cast<unsigned>(CU_EVENT_DEFAULT));
  EXPECT_EQ(ours::kCaptureModeThreadLocal, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
  EXPECT_EQ(ours::kCaptureNone, CU_STREAM_CAPTURE_STATUS_NONE);
  EXPECT_EQ(ours::kLaunchClusterDimension, CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION);
  EXPECT_EQ(ours::kLaunchProgrammaticSerialization,
            CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION);
  EXPECT_EQ(ours::kTensorMapUint16, CU_TENSOR_MAP_DATA_TYPE_UINT16);
  EXPECT_EQ(ours::kTensorMapInterleaveNone, CU_TENSOR_MAP_INTERLEAVE_NONE);
  EXPECT_EQ(ours::kTensorMapSwizzle32, CU_TENSOR_MAP_SWIZZLE_32B);
  EXPECT_EQ(ours::kTensorMapSwizzle64, CU_TENSOR_MAP_SWIZZLE_64B);
  EXPECT_EQ(ours::kTensorMapSwizzle128, CU_TENSOR_MAP_SWIZZLE_128B);
  EXPECT_EQ(ours::kTensorMapPromotion256, CU_TENSOR_MAP_L2_PROMOTION_L2_256B);
  EXPECT_EQ(ours::kTensorMapFillNone, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  EXPECT_EQ(sizeof(rarefy::cuda::TensorMap), sizeof(CUtensorMap));
  EXPECT_GE(alignof(rarefy::cuda::TensorMap), alignof(CUtensorMap));
}
