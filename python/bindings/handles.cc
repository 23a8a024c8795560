#include "handles.h"

#include <cstring>
#include <unordered_map>
#include <utility>

#include "base/check.h"

namespace nb = nanobind;

namespace rarefy::python {
namespace {

using PackedPtr = std::shared_ptr<Packed>;

/// Weights by the addresses of their handles on GPUs. Guarded by the interpreter's lock; never
/// destroyed: tensors may outlive the module.
std::unordered_map<std::uintptr_t, PackedPtr>& by_address() {
  static auto* instance = new std::unordered_map<std::uintptr_t, PackedPtr>;
  return *instance;
}

/// What a handle on a GPU owns: its entry, and its memory, which nobody else gets before.
class Named {
 public:
  Named(PackedPtr packed, std::uintptr_t address, nb::object memory)
      : address_(address), memory_(std::move(memory)) {
    const bool is_new = by_address().emplace(address, std::move(packed)).second;
    require(is_new, "address: expected one that names no weight yet, got {:#x}", address);
  }
  ~Named() { by_address().erase(address_); }
  Named(const Named&) = delete;
  Named& operator=(const Named&) = delete;

 private:
  std::uintptr_t address_;
  nb::object memory_;
};

}  // namespace

HostHandle host_handle(const PackedPtr& packed) {
  const nb::capsule owner(new PackedPtr(packed),
                          [](void* kept) noexcept { delete static_cast<PackedPtr*>(kept); });
  return {packed->handle().data(), {2}, owner};
}

DeviceHandle device_handle(const PackedPtr& packed, std::uintptr_t address, int device,
                           nb::object memory) {
  require(address != 0 && device >= 0, "address: expected memory of a GPU, got {:#x} of device {}",
          address, device);
  const nb::capsule owner(new Named(packed, address, std::move(memory)),
                          [](void* named) noexcept { delete static_cast<Named*>(named); });
  // NOLINTNEXTLINE(performance-no-int-to-ptr): never followed here.
  auto* data = reinterpret_cast<void*>(address);
  return {data, {2}, owner, {}, nb::dtype<std::int64_t>(), nb::device::cuda::value, device};
}

std::shared_ptr<Packed> weight_argument(const ArrayArgument& handle, const char* name) {
  const Array array = Array::anywhere(handle, name);
  const void* words = array.contiguous(DType::kI64);
  require(array.size() == 2, "{}: expected a handle (i64 [2]), got {}", name, array.describe());
  if (array.place().is_cpu()) {
    Packed::Handle numbers;
    std::memcpy(numbers.data(), words, sizeof(numbers));
    return Packed::find(numbers, name);
  }
  const auto found = by_address().find(reinterpret_cast<std::uintptr_t>(words));
  if (found != by_address().end()) return found->second;
  const nb::object copy =
      nb::module_::import_("rarefy.ops.handles").attr("read_back")(handle, name);
  return weight_argument(nb::cast<ArrayArgument>(copy), name);
}

}  // namespace rarefy::python
