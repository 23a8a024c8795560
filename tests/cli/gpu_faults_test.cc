// GPUs that cannot be used, as the program meets them: with libraries that pretend (fake_cuda.cc).
// `auto` runs on the CPU and says why in one line; `cuda` is an error.
#include <gtest/gtest.h>

#include <algorithm>

#include "cli/run_rarefy.h"
#include "cuda/compiler.h"
#include "ops/decoder/cuda/kernels.h"
#include "shared_data.h"

namespace rarefy::testing {
namespace {

const std::string kModel = source_path("examples/models/tiny-lm").string();

/// What the machine pretends to have.
struct Fakes {
  std::string gpu;    ///< FAKE_GPU
  std::string nvrtc;  ///< FAKE_NVRTC; empty: the machine's own, if it has one.

  [[nodiscard]] std::string environment() const {
    std::string libraries = RAREFY_FAKE_CUDA "/driver:" RAREFY_FAKE_CUDA "/blas";
    if (!nvrtc.empty()) libraries += ":" RAREFY_FAKE_CUDA "/nvrtc";
    return "env RAREFY_CUDA_LIBS=" + libraries + " FAKE_GPU=" + gpu + " FAKE_NVRTC=" + nvrtc + " ";
  }
};

Outcome generate(const Fakes& fakes, const std::string& device, const std::string& more) {
  return run_rarefy(
      "generate -m " + kModel + " -p Once -n 4 --no-measure --device " + device + more,
      fakes.environment());
}

void expect_lines(const Outcome& run, std::ptrdiff_t lines, const std::string& named) {
  EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), lines) << run.err;
  EXPECT_NE(run.err.find(named), std::string::npos) << named << "\n" << run.err;
}

/// `named` is what is wrong, in the words of the line that says so.
void expect_explained(const Fakes& fakes, const std::string& named, const std::string& more = "") {
  SCOPED_TRACE(fakes.environment());
  const Outcome cpu = generate(fakes, "cpu", more);
  ASSERT_EQ(cpu.status, 0) << cpu.err;
  expect_lines(cpu, 0, "");
  const Outcome chosen = generate(fakes, "auto", more);
  EXPECT_EQ(chosen.status, 0);
  EXPECT_EQ(chosen.out, cpu.out);
  expect_lines(chosen, 1, named);
  expect_lines(chosen, 1, "running on the CPU");
  const Outcome wanted = generate(fakes, "cuda", more);
  EXPECT_EQ(wanted.status, 2);
  EXPECT_EQ(wanted.out, "");
  expect_lines(wanted, 1, named);
}

TEST(GpuFaults, AnOldDriver) {
  expect_explained({.gpu = "old"},
                   "the driver is too old: expected CUDA 12.0 or newer, found 11.4");
}

TEST(GpuFaults, ADriverThatDoesNotStart) {
  expect_explained({.gpu = "broken"}, "cuInit: CUDA_ERROR_UNKNOWN");
}

TEST(GpuFaults, ADriverWithoutAGpu) {
  expect_explained({.gpu = "none"}, "the driver shows no GPU");
}

TEST(GpuFaults, AGpuThatIsTooOld) {
  expect_explained({.gpu = "sm75"},
                   "Fake T4): expected compute capability 8.0 or newer, found 7.5");
}

TEST(GpuFaults, ACompilerThatDoesNotKnowTheGpu) {
  expect_explained({.gpu = "h100", .nvrtc = "old"}, "NVRTC 13.0 does not know sm_90a");
}

TEST(GpuFaults, AKernelThatDoesNotCompile) {
  const ScratchFolder cache;  // A cubin of an earlier run would do without the compiler.
  setenv("XDG_CACHE_HOME", (cache / "cache").c_str(), 1);
  expect_explained({.gpu = "h100", .nvrtc = "13000"},
                   "kernel.cu(3): error: identifier \"frobnicate\" is undefined");
  unsetenv("XDG_CACHE_HOME");
}

TEST(GpuFaults, NoMemoryLeft) {
  // The kernels that a decoder opens with come from the cache: NVRTC itself speaks to the driver,
  // and does not survive a pretended one.
  const cuda::Arch hopper = cuda::Arch::of(9, 0);
  if (const Support support = cuda::can_compile(hopper); !support) GTEST_SKIP() << support.reason;
  const ScratchFolder cache;
  setenv("XDG_CACHE_HOME", (cache / "cache").c_str(), 1);
  for (const cuda::Source& source : gpu::decoder_kernel_sources()) {
    for (const char* needed :
         {"embedding.192.bf16", "add_norm.192.bf16", "swiglu.512.bf16", "argmax"})
      if (source.name == needed) (void)cuda::compile(source, hopper);
  }
  expect_explained({.gpu = "h100", .nvrtc = std::to_string(cuda::compiler_state().version)},
                   "are free", " --format dense");
  unsetenv("XDG_CACHE_HOME");
}

TEST(GpuFaults, AnOptionOfTheGpuSaysThatItHasNoEffect) {
  const Outcome run = generate({.gpu = "none"}, "auto", " --weight-memory 1.6");
  EXPECT_EQ(run.status, 0) << run.err;
  expect_lines(run, 2, "--weight-memory has no effect");
}

TEST(GpuFaults, NoDriverIsNothingToSpeakOf) {
  // A machine without a GPU is not at fault. Where there is one this test has nothing to say.
  const Json doctor = run_rarefy("doctor --json").json();
  for (const Json& library : doctor.at("gpu").at("libraries"))
    if (library.at("name") == "driver" && library.at("error").get<std::string>().empty())
      GTEST_SKIP() << "this machine has a driver";
  const Outcome run = run_rarefy("generate -m " + kModel + " -p Once -n 4 --no-measure");
  EXPECT_EQ(run.status, 0) << run.err;
  EXPECT_EQ(run.err, "");
}

TEST(GpuFaults, AReportIsMadeOnTheCpu) {
  const Fakes fakes{.gpu = "h100", .nvrtc = "13000"};
  const Outcome run =
      run_rarefy("report --device cuda -o r.html -m " + kModel, fakes.environment());
  EXPECT_EQ(run.status, 2);
  expect_lines(run, 1, "expected auto or cpu, got cuda");
}

TEST(GpuFaults, NothingIsCalibratedWithoutAGpu) {
  const Outcome run = run_rarefy("calibrate --device cuda", Fakes{.gpu = "none"}.environment());
  EXPECT_EQ(run.status, 2);
  EXPECT_EQ(run.out, "");
  expect_lines(run, 1, "the driver shows no GPU");
}

TEST(GpuFaults, DoctorSaysThemAll) {
  const auto said = [](const Fakes& fakes, const std::string& named) {
    const Outcome run = run_rarefy("doctor", fakes.environment());
    EXPECT_EQ(run.status, 0) << run.err;
    EXPECT_NE(run.out.find(named), std::string::npos) << named << "\n" << run.out;
  };
  said({.gpu = "old"}, "too old");
  said({.gpu = "broken"}, "cuInit: CUDA_ERROR_UNKNOWN");
  said({.gpu = "sm75"}, "Fake T4");
  said({.gpu = "sm75"}, "expected compute capability 8.0 or newer, found 7.5");
}

TEST(GpuFaults, DoctorKnowsCuSparseLt) {
  const auto found = [](const std::string& libraries, const std::string& version) {
    const Outcome run =
        run_rarefy("doctor --json", "env RAREFY_CUDA_LIBS=" RAREFY_FAKE_CUDA + libraries +
                                        " FAKE_CUSPARSELT=" + version + " ");
    EXPECT_EQ(run.status, 0) << run.err;
    const Json doctor = run.json();
    for (const Json& library : doctor.at("gpu").at("libraries"))
      if (library.at("name") == "cuSPARSELt") return library;
    ADD_FAILURE() << run.out;
    return Json();
  };
  const Json there = found("/sparselt", "0.7");
  EXPECT_EQ(there.at("version"), "0.7.1");
  EXPECT_EQ(there.at("place"), "RAREFY_CUDA_LIBS");
  EXPECT_EQ(there.at("error"), "");
  const std::string old = found("/sparselt", "0.5").at("error");
  EXPECT_NE(old.find("libcusparseLt.so.0: expected cuSPARSELt 0.6 or newer, found 0.5.1"),
            std::string::npos)
      << old;
}

}  // namespace
}  // namespace rarefy::testing
