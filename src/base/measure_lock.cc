#include "base/measure_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <chrono>
#include <system_error>
#include <thread>

namespace rarefy {

MeasureLock::MeasureLock(const std::filesystem::path& directory) {
  if (directory.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  fd_ = open((directory / "measuring.lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) return;
  // Somebody who holds it longer than this is stuck; disturbed timings are better than waiting.
  constexpr int kTries = 1000;
  for (int i = 0; i < kTries && flock(fd_, LOCK_EX | LOCK_NB) != 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

MeasureLock::~MeasureLock() {
  if (fd_ >= 0) close(fd_);
}

}  // namespace rarefy
