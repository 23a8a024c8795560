#include <functional>
#include <numeric>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "base/files.h"
#include "io/safetensors_header.h"
#include "rarefy/safetensors.h"

namespace rarefy {

struct SafetensorsFile::Impl {
  explicit Impl(const std::filesystem::path& p) : path(p), file(p) {
    header = io::parse_safetensors({reinterpret_cast<const char*>(file.data()), file.size()},
                                   path.string());
    for (const TensorInfo& tensor : header.tensors) by_name.emplace(tensor.name, &tensor);
  }
  std::filesystem::path path;
  MappedFile file;
  io::SafetensorsHeader header;
  std::unordered_map<std::string_view, const TensorInfo*> by_name;  // views into header.tensors
};

std::int64_t TensorInfo::elements() const {
  if (bytes() == 0) return 0;  // The product of the other dimensions may overflow.
  return std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>());
}

SafetensorsFile::SafetensorsFile(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
SafetensorsFile::~SafetensorsFile() = default;

std::shared_ptr<const SafetensorsFile> SafetensorsFile::open(const std::filesystem::path& path) {
  return std::shared_ptr<const SafetensorsFile>(new SafetensorsFile(std::make_unique<Impl>(path)));
}

const std::filesystem::path& SafetensorsFile::path() const {
  return impl_->path;
}

const std::vector<TensorInfo>& SafetensorsFile::tensors() const {
  return impl_->header.tensors;
}

const TensorInfo* SafetensorsFile::find(const std::string& name) const {
  const auto found = impl_->by_name.find(name);
  return found == impl_->by_name.end() ? nullptr : found->second;
}

const std::byte* SafetensorsFile::data(const TensorInfo& tensor) const {
  return impl_->file.data() + impl_->header.data_begin + tensor.begin;
}

void SafetensorsFile::drop_pages(const TensorInfo& tensor) const {
  const std::size_t begin = impl_->header.data_begin + tensor.begin;
  impl_->file.drop_pages(begin, begin + tensor.bytes());
}

const std::map<std::string, std::string>& SafetensorsFile::metadata() const {
  return impl_->header.metadata;
}

}  // namespace rarefy
