#include "cuda/compiler.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "cuda/device_text.h"
#include "nvrtc_or_skip.h"
#include "rarefy/error.h"

namespace rarefy::cuda {
namespace {

TEST(Arch, NamesAndNumbers) {
  EXPECT_EQ(Arch::of(9, 0).name(), "sm_90a");
  EXPECT_EQ(Arch::of(8, 6).name(), "sm_86");
  EXPECT_EQ(Arch::of(10, 0).number(), 100);
  for (const Arch& arch : kTestedArchs) EXPECT_EQ(Arch::parse(arch.name()), arch);
  for (const char* bad : {"", "sm_", "sm_a", "sm_9", "sm_9x", "90", "sm_90b"})
    EXPECT_FALSE(Arch::parse(bad)) << bad;
}

TEST(DeviceText, CarriesTheTreesDeviceCode) {
  EXPECT_NE(device_text("cuda/number.cuh").find("to_float"), std::string_view::npos);
  EXPECT_THROW((void)device_text("cuda/nothing.cuh"), Error);
}

TEST(Expand, PutsDefinesFirstAndEachIncludeOnce) {
  const std::string text = expand({.name = "x.cu",
                                   .text = "#include \"cuda/number.cuh\"\n"
                                           "int a = N;\n#include \"cuda/number.cuh\"\nint b;\n",
                                   .defines = {"N=8", "FLAG"}});
  EXPECT_TRUE(text.starts_with("#define N 8\n#define FLAG\n#line 1 \"x.cu\"\n")) << text;
  const std::size_t first = text.find("struct f16");
  EXPECT_NE(first, std::string::npos);
  EXPECT_EQ(text.find("struct f16", first + 1), std::string::npos);
  EXPECT_NE(text.find("#line 1 \"cuda/number.cuh\""), std::string::npos);
  EXPECT_NE(text.find("#line 2 \"x.cu\"\nint a = N;"), std::string::npos) << text;
  EXPECT_NE(text.find("#line 4 \"x.cu\"\nint b;"), std::string::npos) << text;
  EXPECT_THROW(expand({.name = "x", .text = "#include \"no/such.cuh\"\n"}), Error);
}

class Compiler : public testing::Test {
 protected:
  void SetUp() override {
    RAREFY_SKIP_WITHOUT_NVRTC();
    folder_ = std::filesystem::path(testing::TempDir()) / "compiler_test_cache";
    std::filesystem::remove_all(folder_);
    setenv("RAREFY_CACHE", folder_.c_str(), 1);
  }
  void TearDown() override {
    unsetenv("RAREFY_CACHE");
    std::filesystem::remove_all(folder_);
  }
  [[nodiscard]] int entries() const {
    int count = 0;
    std::error_code error;
    for (const auto& entry : std::filesystem::directory_iterator(folder_ / "cubin", error)) {
      (void)entry;
      ++count;
    }
    return count;
  }

  std::filesystem::path folder_;
};

constexpr const char* kKernel = "extern \"C\" __global__ void f(int* x) { x[threadIdx.x] = N; }\n";

TEST_F(Compiler, CompilesOnceAndThenFindsTheCubin) {
  const Source source{.name = "f", .text = kKernel, .defines = {"N=1"}};
  const Cubin first = compile(source, {8, 0});
  EXPECT_EQ(entries(), 1);
  const Cubin again = compile(source, {8, 0});
  EXPECT_EQ(entries(), 1);
  EXPECT_EQ(first.image, again.image);
  compile({.name = "f", .text = kKernel, .defines = {"N=2"}}, {8, 0});
  EXPECT_EQ(entries(), 2);
  compile(source, {9, 0, true});
  EXPECT_EQ(entries(), 3);
}

TEST_F(Compiler, ADamagedEntryIsMadeAgain) {
  const Source source{.name = "f", .text = kKernel, .defines = {"N=1"}};
  const Cubin first = compile(source, {8, 0});
  for (const auto& entry : std::filesystem::directory_iterator(folder_ / "cubin"))
    std::ofstream(entry.path(), std::ios::trunc) << "damaged";
  EXPECT_EQ(compile(source, {8, 0}).image, first.image);
}

TEST_F(Compiler, SaysFileAndLineOfTheFirstMistake) {
  try {
    compile({.name = "broken.cu", .text = "\n\nextern \"C\" __global__ void f() { nonsense(); }\n"},
            {8, 0});
    FAIL() << "compiled";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
    const std::string what = error.what();
    EXPECT_NE(what.find("broken.cu(3)"), std::string::npos) << what;
    EXPECT_NE(what.find("nonsense"), std::string::npos) << what;
  }
  EXPECT_EQ(entries(), 0);
}

TEST_F(Compiler, RefusesAGpuThatNvrtcDoesNotKnow) {
  EXPECT_FALSE(can_compile({3, 0}));
  EXPECT_THROW(compile({.name = "f", .text = kKernel, .defines = {"N=1"}}, {3, 0}), Error);
}

/// Every number type converts there and back in one text, on every tested GPU.
TEST_F(Compiler, NumbersCompileEverywhere) {
  const char* text = R"(
#include "cuda/number.cuh"
extern "C" __global__ void convert(const float* x, f16* h, bf16* b, float* y) {
  const int i = threadIdx.x;
  h[i] = from_float<f16>(x[i]);
  b[i] = from_float<bf16>(x[i]);
  y[i] = to_float(h[i]) + to_float(b[i]) + from_float<float>(x[i]);
}
)";
  for (const Arch& arch : kTestedArchs) {
    if (!can_compile(arch)) continue;
    EXPECT_EQ(compile({.name = "convert", .text = text}, arch).kernel("convert").local, 0U);
  }
}

}  // namespace
}  // namespace rarefy::cuda
