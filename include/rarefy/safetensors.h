// safetensors files: read by mapping, written atomically.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "rarefy/dtype.h"
#include "rarefy/tensor.h"

namespace rarefy {

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  std::uint64_t begin = 0, end = 0;  ///< Byte range within the data section.

  [[nodiscard]] std::int64_t elements() const;
  [[nodiscard]] std::size_t bytes() const { return end - begin; }
};

/// One mapped file. The header is checked strictly: length, JSON, duplicate keys, dtypes, shapes
/// against byte ranges, overlaps, holes, end of file. Throws `Error` that names file, tensor,
/// expected and found.
class SafetensorsFile {
 public:
  static std::shared_ptr<const SafetensorsFile> open(const std::filesystem::path& path);
  ~SafetensorsFile();

  [[nodiscard]] const std::filesystem::path& path() const;
  [[nodiscard]] const std::vector<TensorInfo>& tensors() const;  ///< In file order.
  [[nodiscard]] const TensorInfo* find(const std::string& name) const;
  [[nodiscard]] const std::byte* data(const TensorInfo& tensor) const;
  [[nodiscard]] const std::map<std::string, std::string>& metadata() const;

  /// Tells the kernel that the pages behind `tensor` will not be needed again soon; they are read
  /// back from the file when they are.
  void drop_pages(const TensorInfo& tensor) const;

 private:
  struct Impl;
  explicit SafetensorsFile(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Writes a file in one go: declare every tensor, then stream the data in the declared order. The
/// file appears under its name only when `finish` succeeds; until then, and after any failure, an
/// older file of that name stays as it was.
class SafetensorsWriter {
 public:
  explicit SafetensorsWriter(std::filesystem::path path,
                             std::map<std::string, std::string> metadata = {{"format", "pt"}});
  ~SafetensorsWriter();  ///< Without `finish`, removes the temporary file.

  void declare(const std::string& name, DType dtype, const Shape& shape);
  /// Data of the next declared tensor, or a part of it.
  void write(const void* data, std::size_t bytes);
  /// @param durable false leaves it to the OS when the data reach the disk: for what can be made
  /// again.
  void finish(bool durable = true);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace rarefy
