#include "cuda/device_text.h"

#include "base/check.h"

namespace rarefy::cuda {

std::string_view device_text(std::string_view name) {
  for (const DeviceText& text : device_texts()) {
    if (text.name == name) return text.text;
  }
  fail(ErrorKind::kInternal, "device code: no file {}", name);
}

const char* device_type(DType dtype) {
  switch (dtype) {
    case DType::kF32:
      return "float";
    case DType::kF16:
      return "f16";
    default:
      return "bf16";
  }
}

}  // namespace rarefy::cuda
