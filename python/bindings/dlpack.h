// DLPack's table of C functions, version 1 (dlpack.h of DLPack 1.3), which a tensor type publishes
// as the capsule
// `__dlpack_c_exchange_api__`. Only what is called here has a signature.
#pragma once

#include <nanobind/ndarray.h>

#include <cstdint>

namespace rarefy::python::dlpack {

struct Version {
  std::uint32_t major, minor;
};

struct ExchangeApi {
  Version version;
  ExchangeApi* older;  ///< A table of an older major version, or nullptr.
  void* allocate;
  void* managed_from_object;
  void* object_from_managed;
  /// Fills a view of the tensor; nothing is owned. 0, or -1 with a Python exception set.
  int (*view_of_object)(void* object, nanobind::dlpack::dltensor* view);
  /// Of a device: where the library enqueues its work now. 0, or -1 with a Python exception set.
  int (*current_stream)(std::int32_t device_type, std::int32_t device, void** stream);
};

inline constexpr std::uint32_t kMajor = 1;
inline constexpr const char* kAttribute = "__dlpack_c_exchange_api__";
inline constexpr const char* kCapsule = "dlpack_exchange_api";

}  // namespace rarefy::python::dlpack
