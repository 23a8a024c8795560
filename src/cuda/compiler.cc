#include "cuda/compiler.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <string_view>

#include "base/check.h"
#include "cuda/abi.h"
#include "cuda/cubin_cache.h"
#include "cuda/device_text.h"
#include "cuda/driver.h"

namespace rarefy::cuda {
namespace {

#define RAREFY_NVRTC_FUNCTIONS(X)                                                                \
  X(nvrtcVersion, (int*, int*))                                                                  \
  X(nvrtcGetNumSupportedArchs, (int*))                                                           \
  X(nvrtcGetSupportedArchs, (int*))                                                              \
  X(nvrtcCreateProgram,                                                                          \
    (abi::nvrtcProgram*, const char*, const char*, int, const char* const*, const char* const*)) \
  X(nvrtcDestroyProgram, (abi::nvrtcProgram*))                                                   \
  X(nvrtcCompileProgram, (abi::nvrtcProgram, int, const char* const*))                           \
  X(nvrtcGetCUBINSize, (abi::nvrtcProgram, std::size_t*))                                        \
  X(nvrtcGetCUBIN, (abi::nvrtcProgram, char*))                                                   \
  X(nvrtcGetProgramLogSize, (abi::nvrtcProgram, std::size_t*))                                   \
  X(nvrtcGetProgramLog, (abi::nvrtcProgram, char*))

// NOLINTBEGIN(bugprone-macro-parentheses): the arguments are declarators.
struct Nvrtc {
#define RAREFY_NVRTC_MEMBER(name, parameters) abi::nvrtcResult(*name) parameters = nullptr;
  RAREFY_NVRTC_FUNCTIONS(RAREFY_NVRTC_MEMBER)
#undef RAREFY_NVRTC_MEMBER
};
// NOLINTEND(bugprone-macro-parentheses)

struct Compiler {
  CompilerState state;
  Nvrtc functions;
};

/// Majors that we know, best first: those that the driver is as new as, the newest of them first.
std::vector<int> preferred_majors() {
  std::vector<int> majors{13, 12};
  if (!driver_state().error.empty()) return majors;
  const int driver_major = driver_state().version / 1000;
  std::stable_partition(majors.begin(), majors.end(), [&](int m) { return m <= driver_major; });
  return majors;
}

/// NVRTC opens its builtins by name. Where it lies off the loader's path they must be open before.
void open_builtins(const std::filesystem::path& nvrtc) {
  std::error_code error;
  std::filesystem::directory_iterator it(nvrtc.parent_path(), error);
  for (const std::filesystem::directory_iterator end; !error && it != end; it.increment(error)) {
    if (it->path().filename().string().starts_with("libnvrtc-builtins.so.")) keep_open(it->path());
  }
}

Compiler load_compiler() {
  Compiler compiler;
  CompilerState& state = compiler.state;
  state.library = open_library({.stem = "libnvrtc", .majors = preferred_majors()});
  if (!state.library) {
    state.error = "no NVRTC: " + state.library.error;
    return compiler;
  }
  open_builtins(state.library.file);
  // NOLINTBEGIN(bugprone-macro-parentheses)
#define RAREFY_LOAD(name, parameters)                                                \
  compiler.functions.name =                                                          \
      reinterpret_cast<abi::nvrtcResult(*) parameters>(state.library.symbol(#name)); \
  if (compiler.functions.name == nullptr && state.error.empty())                     \
    state.error = state.library.file + ": too old: no " #name;
  RAREFY_NVRTC_FUNCTIONS(RAREFY_LOAD)
#undef RAREFY_LOAD
  // NOLINTEND(bugprone-macro-parentheses)
  if (!state.error.empty()) return compiler;
  int major = 0;
  int minor = 0;
  compiler.functions.nvrtcVersion(&major, &minor);
  state.version = major * 1000 + minor * 10;
  int count = 0;
  compiler.functions.nvrtcGetNumSupportedArchs(&count);
  state.archs.resize(static_cast<std::size_t>(count));
  compiler.functions.nvrtcGetSupportedArchs(state.archs.data());
  return compiler;
}

const Compiler& compiler() {
  static const Compiler loaded = load_compiler();
  return loaded;
}

std::vector<std::string> options_for(const Arch& arch) {
  return {"--gpu-architecture=" + arch.name(), "--std=c++17", "--device-as-default-execution-space",
          "--extra-device-vectorization"};
}

/// Owns a program of NVRTC.
class Program {
 public:
  Program(const Nvrtc& nvrtc, const std::string& text, const std::string& name) : nvrtc_(&nvrtc) {
    if (nvrtc.nvrtcCreateProgram(&handle_, text.c_str(), name.c_str(), 0, nullptr, nullptr) != 0)
      fail(ErrorKind::kInternal, "{}: NVRTC takes no program", name);
  }
  ~Program() { nvrtc_->nvrtcDestroyProgram(&handle_); }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  bool compile(const std::vector<std::string>& options) {
    std::vector<const char*> pointers;
    pointers.reserve(options.size());
    for (const std::string& option : options) pointers.push_back(option.c_str());
    return nvrtc_->nvrtcCompileProgram(handle_, static_cast<int>(pointers.size()),
                                       pointers.data()) == 0;
  }

  [[nodiscard]] std::string log() const {
    std::size_t size = 0;
    if (nvrtc_->nvrtcGetProgramLogSize(handle_, &size) != 0 || size == 0) return {};
    std::string text(size, '\0');
    nvrtc_->nvrtcGetProgramLog(handle_, text.data());
    text.resize(size - 1);
    return text;
  }

  [[nodiscard]] std::vector<std::byte> cubin() const {
    std::size_t size = 0;
    if (nvrtc_->nvrtcGetCUBINSize(handle_, &size) != 0 || size == 0) return {};
    std::vector<std::byte> image(size);
    if (nvrtc_->nvrtcGetCUBIN(handle_, reinterpret_cast<char*>(image.data())) != 0) return {};
    return image;
  }

 private:
  const Nvrtc* nvrtc_;
  abi::nvrtcProgram handle_ = nullptr;
};

/// The first line of a log that complains: the rest follows from it.
std::string first_complaint(const std::string& log) {
  for (std::size_t begin = 0; begin < log.size();) {
    const std::size_t end = std::min(log.find('\n', begin), log.size());
    const std::string line = log.substr(begin, end - begin);
    if (line.find("error") != std::string::npos || line.find("fatal") != std::string::npos)
      return line;
    begin = end + 1;
  }
  return log.empty() ? "no message" : log.substr(0, log.find('\n'));
}

std::vector<std::byte> run_compiler(const Source& source, const std::string& text,
                                    const Arch& arch) {
  Program program(compiler().functions, text, source.name);
  if (!program.compile(options_for(arch)))
    fail(ErrorKind::kUnsupported, "{} for {}: {}", source.name, arch.name(),
         first_complaint(program.log()));
  std::vector<std::byte> image = program.cubin();
  if (image.empty())
    fail(ErrorKind::kUnsupported, "{} for {}: NVRTC made no cubin", source.name, arch.name());
  return image;
}

void require_compiler(const Source& source, const Arch& arch) {
  if (const Support support = can_compile(arch); !support)
    fail(ErrorKind::kUnsupported, "{}: {}", source.name, support.reason);
}

std::string key_of(const std::string& text, const Arch& arch) {
  std::string key = fmt::format("nvrtc {}", compiler().state.version);
  for (const std::string& option : options_for(arch)) key += ' ' + option;
  return key + '\n' + text;
}

void append_text(std::string& out, std::string_view text, std::string_view name,
                 std::set<std::string, std::less<>>& included) {
  out += fmt::format("#line 1 \"{}\"\n", name);
  int line_number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    ++line_number;
    constexpr std::string_view kInclude = "#include \"";
    if (!line.starts_with(kInclude)) {
      out.append(line).push_back('\n');
      continue;
    }
    const std::string_view rest = line.substr(kInclude.size());
    const std::string_view file = rest.substr(0, rest.find('"'));
    if (included.emplace(file).second) append_text(out, device_text(file), file, included);
    out += fmt::format("#line {} \"{}\"\n", line_number + 1, name);
  }
}

}  // namespace

const CompilerState& compiler_state() {
  return compiler().state;
}

Support can_compile(const Arch& arch) {
  const CompilerState& state = compiler_state();
  if (!state.error.empty()) return Support::no(state.error);
  if (std::find(state.archs.begin(), state.archs.end(), arch.number()) == state.archs.end())
    return Support::no(fmt::format("NVRTC {}.{} does not know {}", state.version / 1000,
                                   state.version % 1000 / 10, arch.name()));
  return Support::yes();
}

std::string expand(const Source& source) {
  std::string out;
  for (const std::string& define : source.defines) {
    const std::size_t equals = define.find('=');
    out += "#define " + define.substr(0, equals);
    if (equals != std::string::npos) out += ' ' + define.substr(equals + 1);
    out += '\n';
  }
  std::set<std::string, std::less<>> included;
  append_text(out, source.text, source.name, included);
  return out;
}

Cubin compile(const Source& source, const Arch& arch) {
  require_compiler(source, arch);
  const std::string text = expand(source);
  const std::string key = key_of(text, arch);
  const CubinCache cache = CubinCache::standard();
  if (std::optional<std::vector<std::byte>> image = cache.find(key)) {
    try {
      return Cubin(*std::move(image));
    } catch (const Error&) {
      // Not a cubin after all: made again below.
    }
  }
  Cubin cubin(run_compiler(source, text, arch));
  cache.store(key, cubin.image);
  return cubin;
}

Cubin compile_fresh(const Source& source, const Arch& arch) {
  require_compiler(source, arch);
  return Cubin(run_compiler(source, expand(source), arch));
}

}  // namespace rarefy::cuda
