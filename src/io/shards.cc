#include "io/shards.h"

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/files.h"
#include "base/json.h"

namespace rarefy::io {
namespace fs = std::filesystem;
namespace {

/// As fs::exists, but what can't even be asked about (a name too long) does not exist.
bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

void add_file(Shards& shards, const fs::path& path) {
  const auto file = SafetensorsFile::open(path);
  shards.files.push_back(path);
  for (const TensorInfo& tensor : file->tensors()) {
    const auto [at, inserted] = shards.arrays.emplace(tensor.name, StoredArray{file, &tensor});
    if (!inserted) {
      fail(ErrorKind::kCorrupt, "{}: tensor '{}': expected in one shard only, found in {} too",
           path.string(), tensor.name, at->second.file->path().filename().string());
    }
  }
}

void open_indexed(Shards& shards, const fs::path& index_path) {
  const auto index = parse_index(read_text(index_path), index_path.string());
  std::set<std::string> names;
  for (const auto& [tensor, file] : index) names.insert(file);
  for (const std::string& name : names) {
    if (!is_there(shards.directory / name)) {
      fail(ErrorKind::kIo, "{}: expected the shard '{}', found no such file", index_path.string(),
           name);
    }
    add_file(shards, shards.directory / name);
  }
  for (const auto& [tensor, file] : index) {
    const auto found = shards.arrays.find(tensor);
    if (found == shards.arrays.end()) {
      fail(ErrorKind::kCorrupt, "{}: tensor '{}': expected in '{}', found nowhere",
           index_path.string(), tensor, file);
    }
    const std::string holder = found->second.file->path().filename().string();
    if (holder != file) {
      fail(ErrorKind::kCorrupt, "{}: tensor '{}': expected in '{}', found in '{}'",
           index_path.string(), tensor, file, holder);
    }
  }
  for (const auto& [tensor, array] : shards.arrays) {
    if (!index.contains(tensor)) {
      fail(ErrorKind::kCorrupt,
           "{}: tensor '{}': expected in the index {}, found only in the shard",
           array.file->path().string(), tensor, index_path.filename().string());
    }
  }
}

fs::path only_safetensors(const fs::path& directory) {
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    if (entry.path().extension() == ".safetensors") found.push_back(entry.path());
  }
  if (found.size() == 1) return found.front();
  fail(ErrorKind::kIo, "{}: expected {}, {} or one *.safetensors file, found {}",
       directory.string(), kSingleFile, kIndexFile,
       found.empty() ? "none" : fmt::format("{} and no index", found.size()));
}

}  // namespace

std::map<std::string, std::string> parse_index(std::string_view text,
                                               const std::string& file_name) {
  const Json json = parse_json(text, file_name);
  const auto map = json.is_object() ? json.find("weight_map") : json.end();
  if (!json.is_object() || map == json.end() || !map->is_object()) {
    fail(ErrorKind::kCorrupt, "{}: expected an object with an object 'weight_map', found {}",
         file_name,
         !json.is_object()   ? json.type_name()
         : map == json.end() ? "no 'weight_map'"
                             : map->type_name());
  }
  std::map<std::string, std::string> index;
  for (const auto& [tensor, file] : map->items()) {
    if (!file.is_string()) {
      fail(ErrorKind::kCorrupt, "{}: tensor '{}': expected a file name, found {}", file_name,
           tensor, file.type_name());
    }
    const auto& name = file.get_ref<const std::string&>();
    if (name.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos ||
        !name.ends_with(".safetensors")) {
      fail(ErrorKind::kCorrupt,
           "{}: tensor '{}': expected the name of a .safetensors file in the same folder, found "
           "'{}'",
           file_name, tensor, name);
    }
    index.emplace(tensor, name);
  }
  return index;
}

Shards open_shards(const fs::path& path) {
  Shards shards;
  if (!is_there(path))
    fail(ErrorKind::kIo, "{}: expected a model folder, found nothing", path.string());
  std::error_code ignored;
  if (!fs::is_directory(path, ignored)) {
    shards.directory = path.has_parent_path() ? path.parent_path() : fs::path(".");
    add_file(shards, path);
    return shards;
  }
  shards.directory = path;
  if (is_there(path / kSingleFile)) {
    add_file(shards, path / kSingleFile);
  } else if (is_there(path / kIndexFile)) {
    open_indexed(shards, path / kIndexFile);
  } else {
    add_file(shards, only_safetensors(path));
  }
  return shards;
}

}  // namespace rarefy::io
