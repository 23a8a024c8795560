#include "base/peak_memory.h"

#include <fcntl.h>
#include <unistd.h>

#include <fstream>
#include <string>

namespace rarefy {

bool reset_peak_resident() {
  const int file = ::open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
  if (file < 0) return false;
  const bool reset = ::write(file, "5", 1) == 1;
  ::close(file);
  return reset;
}

std::optional<std::size_t> peak_resident_bytes() {
  std::ifstream status("/proc/self/status");  // Has no size that a whole-file read could trust.
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("VmHWM:")) return std::stoull(line.substr(6)) * 1024;
  }
  return std::nullopt;
}

}  // namespace rarefy
