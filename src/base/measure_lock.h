// One process at a time measures.
#pragma once

#include <filesystem>

namespace rarefy {

/// Held while a process measures, so that two of them do not disturb each other's timings. Waits a
/// bounded time; a folder without locks is no obstacle.
class MeasureLock {
 public:
  explicit MeasureLock(const std::filesystem::path& directory);
  ~MeasureLock();
  MeasureLock(const MeasureLock&) = delete;
  MeasureLock& operator=(const MeasureLock&) = delete;

 private:
  int fd_ = -1;
};

}  // namespace rarefy
