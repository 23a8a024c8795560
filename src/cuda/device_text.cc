#include "cuda/device_text.h"

#include "base/check.h"

namespace rarefy::cuda {

std::string_view device_text(std::string_view name) {
  for (const DeviceText& text : device_texts()) {
    if (text.name == name) return text.text;
  }
  fail(ErrorKind::kInternal, "device code: no file {}", name);
}

}  // namespace rarefy::cuda
