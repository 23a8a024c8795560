#include "cuda/driver.h"

#include "base/check.h"

namespace rarefy::cuda {
namespace {

/// CUDA 12.0: what cuLaunchKernelEx, sm_90a cubins and the memory pools of every GPU need.
constexpr int kOldestDriver = 12000;

DriverState load_driver() {
  DriverState state;
  state.library = open_library({.stem = "libcuda", .majors = {1}});
  if (!state.library) {
    state.error = "no NVIDIA driver: " + state.library.error;
    return state;
  }
  const char* missing = nullptr;
  // NOLINTBEGIN(bugprone-macro-parentheses): the arguments are declarators.
#define RAREFY_LOAD(name, parameters)                                             \
  state.functions.name =                                                          \
      reinterpret_cast<abi::CUresult(*) parameters>(state.library.symbol(#name)); \
  if (state.functions.name == nullptr && missing == nullptr) missing = #name;
  RAREFY_DRIVER_FUNCTIONS(RAREFY_LOAD)
#undef RAREFY_LOAD
  // NOLINTEND(bugprone-macro-parentheses)
  if (state.functions.cuDriverGetVersion != nullptr)
    state.functions.cuDriverGetVersion(&state.version);
  if (missing != nullptr || state.version < kOldestDriver) {
    state.error =
        fmt::format("{}: the driver is too old: expected CUDA {}.{} or newer, found {}.{}",
                    state.library.file, kOldestDriver / 1000, kOldestDriver % 1000 / 10,
                    state.version / 1000, state.version % 1000 / 10);
    if (missing != nullptr) state.error += fmt::format(" without {}", missing);
    return state;
  }
  const abi::CUresult result = state.functions.cuInit(0);
  if (result != abi::kSuccess) {
    const char* name = nullptr;
    state.functions.cuGetErrorName(result, &name);
    state.error = fmt::format("{}: cuInit: {}", state.library.file, name != nullptr ? name : "?");
  }
  return state;
}

ErrorKind kind_of(abi::CUresult result) {
  switch (result) {
    case abi::kErrorOutOfMemory:
      return ErrorKind::kOutOfMemory;
    case abi::kErrorNoDevice:
    case abi::kErrorInvalidImage:
    case abi::kErrorNoBinaryForGpu:
    case abi::kErrorUnsupportedPtxVersion:
    case abi::kErrorNotSupported:
      return ErrorKind::kUnsupported;
    default:
      return ErrorKind::kInternal;
  }
}

}  // namespace

const DriverState& driver_state() {
  static const DriverState state = load_driver();
  return state;
}

const Driver& driver() {
  const DriverState& state = driver_state();
  if (!state.error.empty()) fail(ErrorKind::kUnsupported, "GPU: {}", state.error);
  return state.functions;
}

std::string describe(abi::CUresult result) {
  const char* name = nullptr;
  const char* text = nullptr;
  driver().cuGetErrorName(result, &name);
  driver().cuGetErrorString(result, &text);
  if (name == nullptr) return fmt::format("CUDA error {}", result);
  return fmt::format("{} ({})", name, text != nullptr ? text : "");
}

void fail_driver(abi::CUresult result, const std::string& what) {
  fail(kind_of(result), "GPU: {}: {}", what, describe(result));
}

}  // namespace rarefy::cuda
