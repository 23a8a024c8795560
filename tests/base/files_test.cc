#include "base/files.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <string>

#include "rarefy/error.h"

namespace rarefy {
namespace {

namespace fs = std::filesystem;

class FilesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    directory_ = fs::path(::testing::TempDir()) /
                 (std::string("rarefy-files-") +
                  ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }
  [[nodiscard]] long entries() const {
    return std::distance(fs::directory_iterator(directory_), fs::directory_iterator());
  }
  fs::path directory_;
};

TEST_F(FilesTest, AppearsOnlyWhenCommitted) {
  const fs::path path = directory_ / "a.txt";
  {
    AtomicFile file(path);
    file.write("half");
  }
  EXPECT_EQ(entries(), 0);
  {
    AtomicFile file(path);
    file.write("whole");
    EXPECT_FALSE(fs::exists(path));
    file.commit();
  }
  EXPECT_EQ(read_text(path), "whole");
  EXPECT_EQ(entries(), 1);
}

TEST_F(FilesTest, AFailedWriteKeepsTheOldFile) {
  const fs::path path = directory_ / "a.txt";
  {
    AtomicFile file(path);
    file.write("old");
    file.commit();
  }
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{4096, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  {
    AtomicFile file(path);
    EXPECT_THROW(file.write(std::string(10000, 'x')), Error);
  }
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(read_text(path), "old");
  EXPECT_EQ(entries(), 1);
}

TEST_F(FilesTest, NamesTheFileThatIsMissing) {
  try {
    const MappedFile file(directory_ / "none.bin");
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kIo);
    EXPECT_NE(std::string(e.what()).find("none.bin"), std::string::npos);
  }
  EXPECT_THROW(MappedFile{directory_}, Error);
  EXPECT_THROW(AtomicFile(directory_ / "no-folder" / "f"), Error);
}

TEST_F(FilesTest, EmptyFilesMapToNothing) {
  AtomicFile(directory_ / "empty").commit();
  const MappedFile file(directory_ / "empty");
  EXPECT_EQ(file.size(), 0U);
}

TEST_F(FilesTest, DroppedPagesReadTheSameAgain) {
  const fs::path path = directory_ / "big";
  {
    AtomicFile file(path);
    file.write(std::string(50000, 'z'));
    file.commit();
  }
  const MappedFile file(path);
  EXPECT_EQ(static_cast<char>(file.data()[20000]), 'z');
  file.drop_pages(100, 40000);
  EXPECT_EQ(static_cast<char>(file.data()[20000]), 'z');
}

TEST_F(FilesTest, FoldersAreFlushed) {
  EXPECT_NO_THROW(flush_folder(directory_));
  EXPECT_THROW(flush_folder(directory_ / "none"), Error);
}

}  // namespace
}  // namespace rarefy
