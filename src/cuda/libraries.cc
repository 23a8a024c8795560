#include "cuda/libraries.h"

#include <dlfcn.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <link.h>

#include <algorithm>
#include <cstdlib>
#include <string_view>

namespace rarefy::cuda {
namespace {

namespace fs = std::filesystem;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

std::vector<std::string> split_path(const std::string& text) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(':', begin), text.size());
    if (end > begin) parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

/// Folders directly below `parent` whose name starts with `prefix`, in falling order of name
/// (python3.12 before python3.11); none when `parent` cannot be read.
std::vector<fs::path> folders_below(const fs::path& parent, std::string_view prefix) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(parent, error), end; !error && it != end; it.increment(error)) {
    if (it->path().filename().string().starts_with(prefix)) found.push_back(it->path());
  }
  std::sort(found.rbegin(), found.rend());
  return found;
}

/// Adds the nvidia/*/lib folders of a Python installed at `prefix`: pip's wheels of CUDA.
void add_python(std::vector<LibraryPlace>& places, const fs::path& prefix, const std::string& why) {
  for (const fs::path& python : folders_below(prefix / "lib", "python3")) {
    for (const char* packages : {"site-packages", "dist-packages"}) {
      for (const fs::path& wheel : folders_below(python / packages / "nvidia", "")) {
        const fs::path folder = wheel / "lib";
        std::error_code error;
        const bool known = std::any_of(places.begin(), places.end(),
                                       [&](const LibraryPlace& p) { return p.folder == folder; });
        if (!known && fs::is_directory(folder, error)) places.push_back({why, folder});
      }
    }
  }
}

/// The folder above the bin/ that holds the first python3 of $PATH: a virtual environment's own
/// when one is active, links not followed.
fs::path python_prefix() {
  for (const std::string& folder : split_path(environment("PATH"))) {
    std::error_code error;
    const fs::path python = fs::path(folder) / "python3";
    if (fs::exists(python, error)) return fs::path(folder).parent_path();
  }
  return {};
}

/// The path of an opened library, as the loader knows it.
std::string path_of(void* handle) {
  const link_map* map = nullptr;
  if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0 || map == nullptr) return {};
  return map->l_name;
}

std::string file_name(const LibraryName& name, int major) {
  return fmt::format("{}.so.{}", name.stem, major);
}

}  // namespace

void* Library::symbol(const char* name) const {
  return handle != nullptr ? dlsym(handle, name) : nullptr;
}

std::vector<LibraryPlace> library_places() {
  std::vector<LibraryPlace> places;
  for (const std::string& folder : split_path(environment("RAREFY_CUDA_LIBS")))
    places.push_back({"RAREFY_CUDA_LIBS", folder});
  places.push_back({"the loader's path", {}});
  for (const char* variable : {"CUDA_HOME", "CUDA_PATH"}) {
    if (const std::string root = environment(variable); !root.empty())
      places.push_back({variable, fs::path(root) / "lib64"});
  }
  places.push_back({"the toolkit's usual folder", "/usr/local/cuda/lib64"});
  if (const std::string venv = environment("VIRTUAL_ENV"); !venv.empty())
    add_python(places, venv, "VIRTUAL_ENV's Python packages");
  if (const std::string conda = environment("CONDA_PREFIX"); !conda.empty())
    add_python(places, conda, "CONDA_PREFIX's Python packages");
  if (const fs::path prefix = python_prefix(); !prefix.empty()) {
    add_python(places, prefix, "the active Python's packages");
    add_python(places, prefix / "local", "the active Python's packages");
  }
  if (const std::string home = environment("HOME"); !home.empty())
    add_python(places, fs::path(home) / ".local", "the user's Python packages");
  return places;
}

Library open_library(const LibraryName& name, const std::vector<LibraryPlace>& places) {
  Library library;
  std::string refused;  // A file that is there but does not open says more than a list of folders.
  for (const LibraryPlace& place : places) {
    for (int major : name.majors) {
      const std::string file = file_name(name, major);
      std::error_code error;
      const bool loader = place.folder.empty();
      if (!loader && !fs::exists(place.folder / file, error)) continue;
      const std::string path = loader ? file : (place.folder / file).string();
      library.handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (library.handle != nullptr) {
        library.file = path_of(library.handle);
        library.place = place.why;
        return library;
      }
      if (!loader && refused.empty()) refused = dlerror();
    }
  }
  std::vector<std::string> files;
  files.reserve(name.majors.size());
  for (int major : name.majors) files.push_back(file_name(name, major));
  std::vector<std::string> looked;
  looked.reserve(places.size());
  for (const LibraryPlace& place : places)
    looked.push_back(place.folder.empty() ? place.why : place.folder.string());
  library.error = fmt::format("no {} in {}", fmt::join(files, " or "), fmt::join(looked, ", "));
  if (!refused.empty()) library.error = refused;
  return library;
}

void keep_open(const fs::path& file) {
  // Never closed: the handle is not needed any more.
  (void)dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
}

}  // namespace rarefy::cuda
