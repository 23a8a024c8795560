#include <optional>
#include <set>
#include <utility>

#include "base/check.h"
#include "base/files.h"
#include "io/safetensors_header.h"
#include "rarefy/safetensors.h"

namespace rarefy {

struct SafetensorsWriter::Impl {
  std::filesystem::path path;
  std::map<std::string, std::string> metadata;
  std::vector<TensorInfo> tensors;
  std::set<std::string> names;
  std::optional<AtomicFile> file;  // from the first byte of data on
  std::uint64_t written = 0;       // data bytes
  bool finished = false;

  [[nodiscard]] std::uint64_t declared() const { return tensors.empty() ? 0 : tensors.back().end; }

  void start() {
    const std::string header = io::render_safetensors_header(tensors, metadata);
    require(!header.empty(), "{}: expected a header of at most {} bytes, got {} tensors",
            path.string(), io::kMaxHeaderBytes, tensors.size());
    file.emplace(path);
    file->write(header);
  }
};

SafetensorsWriter::SafetensorsWriter(std::filesystem::path path,
                                     std::map<std::string, std::string> metadata)
    : impl_(std::make_unique<Impl>()) {
  impl_->path = std::move(path);
  for (const auto& [key, value] : metadata) {
    require(io::is_utf8(key) && io::is_utf8(value), "{}: expected metadata in UTF-8",
            impl_->path.string());
  }
  impl_->metadata = std::move(metadata);
}

SafetensorsWriter::~SafetensorsWriter() = default;

void SafetensorsWriter::declare(const std::string& name, DType dtype, const Shape& shape) {
  const std::string what = fmt::format("{}: tensor '{}'", impl_->path.string(), name);
  require(!impl_->file, "{}: expected all tensors to be declared before data is written", what);
  require(name != io::kMetadataKey, "{}: the name is taken by the format", what);
  require(io::is_utf8(name), "{}: expected a name in UTF-8", what);
  require(impl_->names.insert(name).second, "{}: expected distinct names, got this one twice",
          what);
  const std::uint64_t bytes = io::checked_bytes(dtype, shape, what, ErrorKind::kInvalidArgument);
  const std::uint64_t begin = impl_->declared();
  impl_->tensors.push_back({name, dtype, shape, begin, begin + bytes});
}

void SafetensorsWriter::write(const void* data, std::size_t bytes) {
  if (!impl_->file) impl_->start();
  require(bytes <= impl_->declared() - impl_->written,
          "{}: expected {} data bytes as declared, got {} more", impl_->path.string(),
          impl_->declared(), impl_->written + bytes - impl_->declared());
  impl_->file->write(data, bytes);
  impl_->written += bytes;
}

void SafetensorsWriter::finish(bool durable) {
  require(!impl_->finished, "{}: expected one finish, got two", impl_->path.string());
  if (!impl_->file) impl_->start();
  require(impl_->written == impl_->declared(),
          "{}: expected {} data bytes as declared, got {} before finish", impl_->path.string(),
          impl_->declared(), impl_->written);
  if (durable) {
    impl_->file->commit();
  } else {
    impl_->file->publish();
  }
  impl_->finished = true;
}

}  // namespace rarefy
