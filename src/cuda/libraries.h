// NVIDIA's libraries, opened at run time: where they were found, or where they were looked for.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace rarefy::cuda {

/// A library to look for. File names are "<stem>.so.<major>" for each major, best first.
struct LibraryName {
  std::string stem;         ///< "libnvrtc"
  std::vector<int> majors;  ///< {13, 12}
};

/// A library that stays open until the process ends, or the reason why there is none.
struct Library {
  void* handle = nullptr;
  std::string file;   ///< Full path of the opened library.
  std::string place;  ///< How it was found: "RAREFY_CUDA_LIBS", "the loader's path", …
  std::string error;  ///< Why `handle` is null: what was looked for, and where.

  explicit operator bool() const { return handle != nullptr; }
  /// Address of `name`, or nullptr.
  [[nodiscard]] void* symbol(const char* name) const;
};

/// A place where libraries may lie, and why we think so. An empty folder stands for the loader's
/// own search.
struct LibraryPlace {
  std::string why;
  std::filesystem::path folder;
};

/// Where to look, best first: the folders named in $RAREFY_CUDA_LIBS (separated by colons), the
/// loader's path, $CUDA_HOME and $CUDA_PATH, /usr/local/cuda, and the folders nvidia/*/lib of the
/// active Python's site-packages: $VIRTUAL_ENV, $CONDA_PREFIX, the python3 of $PATH, the user's.
std::vector<LibraryPlace> library_places();

/// Opens the first of `name` in `places` that opens. A process that has the library loaded already
/// (PyTorch's) gets that one with the loader's path.
Library open_library(const LibraryName& name, const std::vector<LibraryPlace>& places);
inline Library open_library(const LibraryName& name) {
  return open_library(name, library_places());
}

/// Opens a file for what comes later to find it by its name; does nothing when it does not open.
void keep_open(const std::filesystem::path& file);

}  // namespace rarefy::cuda
