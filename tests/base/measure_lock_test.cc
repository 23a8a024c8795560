// The lock that keeps two processes from measuring at once.
#include "base/measure_lock.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "io/temporary_directory.h"

namespace rarefy {
namespace {

TEST(MeasureLock, ASecondProcessWaits) {
  const testing::TemporaryDirectory folder;
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    {
      const MeasureLock lock(folder.path());
      if (::write(ready[1], "r", 1) != 1) _exit(1);
      usleep(200'000);
      std::ofstream(folder.path() / "released") << "";
    }
    _exit(0);
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  {
    const MeasureLock lock(folder.path());
    EXPECT_TRUE(std::filesystem::exists(folder.path() / "released"));
  }
  int status = -1;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
  close(ready[0]);
  close(ready[1]);
}

TEST(MeasureLock, AFolderThatCannotBeIsNoObstacle) {
  const testing::TemporaryDirectory folder;
  std::ofstream(folder.path() / "file") << "x";
  EXPECT_NO_THROW(MeasureLock(folder.path() / "file" / "cache"));
  EXPECT_NO_THROW(MeasureLock(std::filesystem::path()));
}

}  // namespace
}  // namespace rarefy
