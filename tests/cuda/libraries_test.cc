#include "cuda/libraries.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <string>

namespace rarefy::cuda {
namespace {

namespace fs = std::filesystem;

/// Sets an environment variable for the life of a test.
class ScopedVariable {
 public:
  ScopedVariable(const char* name, const std::string& value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    setenv(name, value.c_str(), 1);
  }
  ~ScopedVariable() {
    if (old_) {
      setenv(name_, old_->c_str(), 1);
    } else {
      unsetenv(name_);
    }
  }
  ScopedVariable(const ScopedVariable&) = delete;
  ScopedVariable& operator=(const ScopedVariable&) = delete;

 private:
  const char* name_;
  std::optional<std::string> old_;
};

class Libraries : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::path(testing::TempDir()) /
        (std::string("libraries_") + testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  fs::path folder_;
};

std::size_t index_of(const std::vector<LibraryPlace>& places, const fs::path& folder) {
  const auto found = std::find_if(places.begin(), places.end(),
                                  [&](const LibraryPlace& p) { return p.folder == folder; });
  return static_cast<std::size_t>(found - places.begin());
}

TEST_F(Libraries, AreLookedForInTheOrderThatTheHeaderPromises) {
  const fs::path wheel = folder_ / "venv/lib/python3.12/site-packages/nvidia/cu13/lib";
  const fs::path old_wheel = folder_ / "env/lib/python3.11/site-packages/nvidia/cuda_nvrtc/lib";
  const fs::path debian = folder_ / "usr/lib/python3/dist-packages/nvidia/cu12/lib";
  for (const fs::path& path : {wheel, old_wheel, debian, folder_ / "usr/bin"})
    fs::create_directories(path);
  std::ofstream(folder_ / "usr/bin/python3") << "";
  const ScopedVariable own("RAREFY_CUDA_LIBS", "/first:/second");
  const ScopedVariable home("CUDA_HOME", "/toolkit");
  const ScopedVariable venv("VIRTUAL_ENV", (folder_ / "venv").string());
  const ScopedVariable conda("CONDA_PREFIX", (folder_ / "env").string());
  const ScopedVariable path("PATH",
                            (folder_ / "nothing").string() + ":" + (folder_ / "usr/bin").string());
  const std::vector<LibraryPlace> places = library_places();
  const std::size_t order[] = {index_of(places, "/first"),
                               index_of(places, "/second"),
                               index_of(places, ""),
                               index_of(places, "/toolkit/lib64"),
                               index_of(places, "/usr/local/cuda/lib64"),
                               index_of(places, wheel),
                               index_of(places, old_wheel),
                               index_of(places, debian)};
  for (std::size_t i = 0; i < std::size(order); ++i) {
    EXPECT_LT(order[i], places.size()) << i;
    if (i > 0) {
      EXPECT_LT(order[i - 1], order[i]) << i;
    }
  }
  EXPECT_EQ(places[order[5]].why, "VIRTUAL_ENV's Python packages");
}

TEST_F(Libraries, OpensWhatTheLoaderFindsAndSaysWhereItLies) {
  const Library libm =
      open_library({.stem = "libm", .majors = {99, 6}}, {{"the loader's path", ""}});
  ASSERT_TRUE(libm) << libm.error;
  EXPECT_EQ(libm.place, "the loader's path");
  EXPECT_TRUE(fs::path(libm.file).is_absolute()) << libm.file;
  EXPECT_NE(libm.symbol("cos"), nullptr);
  EXPECT_EQ(libm.symbol("no_such_function"), nullptr);
}

TEST_F(Libraries, NamesTheFilesAndPlacesWhenThereIsNone) {
  const Library none = open_library({.stem = "libnosuch", .majors = {2, 1}},
                                    {{"X", folder_}, {"the loader's path", ""}});
  EXPECT_FALSE(none);
  EXPECT_EQ(none.error,
            "no libnosuch.so.2 or libnosuch.so.1 in " + folder_.string() + ", the loader's path");
}

TEST_F(Libraries, AFileThatIsNoLibraryIsPassedOverAndNamed) {
  std::ofstream(folder_ / "libbroken.so.1") << "not an ELF file";
  const Library broken = open_library({.stem = "libbroken", .majors = {1}}, {{"X", folder_}});
  EXPECT_FALSE(broken);
  EXPECT_NE(broken.error.find((folder_ / "libbroken.so.1").string()), std::string::npos)
      << broken.error;
}

}  // namespace
}  // namespace rarefy::cuda
