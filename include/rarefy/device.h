// The GPUs of this machine, what Rarefy needs to run on them, and how a model runs there.
// Everything is looked for at run time: the same binary works with and without.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "rarefy/error.h"

namespace rarefy {

/// A library of NVIDIA's that is opened at run time.
struct GpuLibrary {
  std::string name;     ///< "driver", "NVRTC", "cuBLASLt"
  std::string version;  ///< "13.0"; empty where the library does not tell, or is missing.
  std::string file;     ///< Where it lies.
  std::string place;  ///< Why it was looked for there: "CUDA_HOME", "the active Python's packages"
  std::string error;  ///< Why it cannot be used; empty when it can.
};

/// What was found of each; never throws. They are looked for in $RAREFY_CUDA_LIBS (folders
/// separated by colons), the loader's path, $CUDA_HOME and $CUDA_PATH, /usr/local/cuda, and the
/// nvidia/*/lib folders of the active Python's packages, where pip puts them.
std::vector<GpuLibrary> gpu_libraries();

struct GpuDevice {
  int index = 0;
  std::string name;  ///< "NVIDIA H100 80GB HBM3"
  std::string arch;  ///< "sm_90a": what kernels are compiled for.
  int multiprocessors = 0;
  std::size_t memory_bytes = 0, l2_bytes = 0;
  double clock_ghz = 0;        ///< Boost clock.
  double memory_gb_per_s = 0;  ///< The data sheet's.
  Support usable;  ///< No, with the reason, for a GPU or a machine that lacks something.
};

/// The GPUs that the driver shows; empty without a driver. Never throws.
std::vector<GpuDevice> gpu_devices();

/// A weight of a model on a GPU and how it runs (`Model::device_weights`).
struct DeviceWeight {
  std::string name;    ///< "layer 3 gate_up"
  std::string kernel;  ///< "dense.cublaslt.0", or two: "decode.…, from 33 tokens dense.…"
  std::int64_t rows = 0, cols = 0;
  std::size_t bytes = 0;
  std::int64_t many_from = 0;  ///< Tokens from which the second kernel runs; 0: there is one.
  double time_us = 0;          ///< As measured when it was chosen; 0 when it was not.
};

/// What a kind of kernel adds to a decode step on a GPU (`Model::time_step`).
struct DeviceStepPart {
  std::string name;           ///< "attention"; "all" for the whole step.
  std::int64_t launches = 0;  ///< Of the step.
  double us = 0;              ///< The step's time less that of a step without it.
};

}  // namespace rarefy
