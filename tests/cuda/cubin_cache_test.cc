#include "cuda/cubin_cache.h"

#include <gtest/gtest.h>

#include <atomic>
#include <fstream>
#include <thread>

namespace rarefy::cuda {
namespace {

namespace fs = std::filesystem;

std::vector<std::byte> bytes_of(std::string_view text) {
  const auto* begin = reinterpret_cast<const std::byte*>(text.data());
  return {begin, begin + text.size()};
}

class CubinCacheTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::path(testing::TempDir()) /
        (std::string("cubins_") + testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path folder_;
};

TEST_F(CubinCacheTest, GivesBackWhatWasStored) {
  const CubinCache cache(folder_ / "deep" / "er");
  EXPECT_FALSE(cache.find("key"));
  cache.store("key", bytes_of("image"));
  EXPECT_EQ(cache.find("key"), bytes_of("image"));
  EXPECT_FALSE(cache.find("another key"));
  cache.store("key", bytes_of("a newer image"));
  EXPECT_EQ(cache.find("key"), bytes_of("a newer image"));
}

TEST_F(CubinCacheTest, AnEntryOfAnotherKeyIsAMiss) {
  const CubinCache cache(folder_);
  cache.store("key a", bytes_of("image"));
  fs::copy_file(cache.path_of("key a"), cache.path_of("key b"));
  EXPECT_FALSE(cache.find("key b"));
}

TEST_F(CubinCacheTest, EveryCutAndEveryFlippedByteIsAMiss) {
  const CubinCache cache(folder_);
  const std::vector<std::byte> image = bytes_of("some machine code");
  cache.store("key", image);
  const fs::path path = cache.path_of("key");
  std::string whole;
  {
    std::ifstream in(path, std::ios::binary);
    whole.assign(std::istreambuf_iterator<char>(in), {});
  }
  const auto write = [&](const std::string& text) {
    std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
  };
  for (std::size_t i = 0; i < whole.size(); ++i) {
    write(whole.substr(0, i));
    EXPECT_FALSE(cache.find("key")) << "cut at " << i;
    std::string flipped = whole;
    flipped[i] = static_cast<char>(flipped[i] ^ 0x10);
    write(flipped);
    EXPECT_FALSE(cache.find("key")) << "flipped at " << i;
  }
  write(whole + "x");
  EXPECT_FALSE(cache.find("key"));
  write(whole);
  EXPECT_EQ(cache.find("key"), image);
}

TEST_F(CubinCacheTest, AFolderThatCannotBeMadeCostsNothingButTheCache) {
  std::ofstream(folder_.string()) << "a file where the folder should be";
  const CubinCache cache(folder_);
  EXPECT_NO_THROW(cache.store("key", bytes_of("image")));
  EXPECT_FALSE(cache.find("key"));
  const CubinCache none{fs::path()};
  EXPECT_NO_THROW(none.store("key", bytes_of("image")));
  EXPECT_FALSE(none.find("key"));
}

TEST_F(CubinCacheTest, ReadersSeeWholeEntriesWhileOthersWrite) {
  const CubinCache cache(folder_);
  const std::vector<std::byte> first(20000, std::byte{1});
  const std::vector<std::byte> second(30000, std::byte{2});
  cache.store("key", first);
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (int i = 0; i < 50; ++i) cache.store("key", i % 2 != 0 ? first : second);
    stop = true;
  });
  while (!stop) {
    const auto found = cache.find("key");
    ASSERT_TRUE(found);
    ASSERT_TRUE(*found == first || *found == second);
  }
  writer.join();
}

}  // namespace
}  // namespace rarefy::cuda
