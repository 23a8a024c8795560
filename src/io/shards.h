// The safetensors files of a model folder and what each holds.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "rarefy/safetensors.h"

namespace rarefy::io {

inline constexpr const char* kSingleFile = "model.safetensors";
inline constexpr const char* kIndexFile = "model.safetensors.index.json";

/// An array as a file holds it.
struct StoredArray {
  std::shared_ptr<const SafetensorsFile> file;
  const TensorInfo* info = nullptr;

  [[nodiscard]] const std::byte* data() const { return file->data(*info); }
};

using StoredArrays = std::map<std::string, StoredArray>;

struct Shards {
  std::filesystem::path directory;
  std::vector<std::filesystem::path> files;
  StoredArrays arrays;
};

/// Opens a folder as transformers does: model.safetensors, or else the shards that the index names,
/// or else the only *.safetensors there; or the file itself when `path` is one. Checks that index
/// and shards agree tensor by tensor. Throws kIo for a missing file, kCorrupt for the rest.
Shards open_shards(const std::filesystem::path& path);

/// tensor → file name of an index. Names must stay in the folder: no separator, no "..".
std::map<std::string, std::string> parse_index(std::string_view text, const std::string& file_name);

}  // namespace rarefy::io
