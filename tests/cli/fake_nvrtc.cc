// NVRTC that compiles nothing: every text has an error in its third line. FAKE_NVRTC: its version,
// such as 13000; "old" is a 13.0 that knows no GPU from sm_80 on.
#include <cstddef>
#include <cstdlib>
#include <cstring>

namespace {

constexpr char kLog[] = "kernel.cu(3): error: identifier \"frobnicate\" is undefined\n";
constexpr int kCompilationFailed = 6;

bool is_old() {
  const char* wanted = std::getenv("FAKE_NVRTC");
  return wanted != nullptr && std::strcmp(wanted, "old") == 0;
}

}  // namespace

// NOLINTBEGIN(readability-identifier-naming): the names are NVIDIA's.
extern "C" {

int nvrtcVersion(int* major, int* minor) {
  const char* wanted = std::getenv("FAKE_NVRTC");
  const int version = is_old() || wanted == nullptr ? 13000 : std::atoi(wanted);
  *major = version / 1000;
  *minor = version % 1000 / 10;
  return 0;
}
int nvrtcGetNumSupportedArchs(int* count) {
  *count = 1;
  return 0;
}
int nvrtcGetSupportedArchs(int* archs) {
  archs[0] = is_old() ? 75 : 90;
  return 0;
}
int nvrtcCreateProgram(void** program, const char*, const char*, int, const char* const*,
                       const char* const*) {
  *program = nullptr;
  return 0;
}
int nvrtcDestroyProgram(void**) {
  return 0;
}
int nvrtcCompileProgram(void*, int, const char* const*) {
  return kCompilationFailed;
}
int nvrtcGetCUBINSize(void*, std::size_t* size) {
  *size = 0;
  return 0;
}
int nvrtcGetCUBIN(void*, char*) {
  return 0;
}
int nvrtcGetProgramLogSize(void*, std::size_t* size) {
  *size = sizeof kLog;
  return 0;
}
int nvrtcGetProgramLog(void*, char* log) {
  std::memcpy(log, kLog, sizeof kLog);
  return 0;
}

}  // extern "C"
// NOLINTEND(readability-identifier-naming)
