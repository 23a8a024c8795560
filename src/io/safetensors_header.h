// The JSON header of a safetensors file: checked when read, aligned when written.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "rarefy/error.h"
#include "rarefy/safetensors.h"

namespace rarefy::io {

/// The specification bounds the header so that a hostile file can't make a reader allocate.
inline constexpr std::uint64_t kMaxHeaderBytes = 100'000'000;
inline constexpr const char* kMetadataKey = "__metadata__";  ///< No tensor may be called so.
inline constexpr std::uint64_t kLengthBytes = 8;  ///< The little-endian length before the header.

struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  ///< In file order.
  std::map<std::string, std::string> metadata;
  std::uint64_t data_begin = 0;  ///< Offset of the data section within the file.
};

/// Checks a whole file and returns its header. `file_name` is for errors: all kCorrupt.
SafetensorsHeader parse_safetensors(std::string_view file, const std::string& file_name);

/// Bytes that `shape` takes as `dtype`. Throws `kind`, beginning with `what`, when that
/// overflows, is no whole number of bytes (the types narrower than a byte) or a dimension is
/// negative.
std::uint64_t checked_bytes(DType dtype, const Shape& shape, const std::string& what,
                            ErrorKind kind = ErrorKind::kCorrupt);

/// Whether `name` may be written: JSON carries UTF-8 only.
bool is_utf8(const std::string& name);

/// Length and header as they stand at the beginning of a file, padded with spaces to exactly
/// `total` bytes, or to the next multiple of 64 when `total` is 0 (so that the data of the first
/// tensor is aligned). Empty when it does not fit.
std::string render_safetensors_header(const std::vector<TensorInfo>& tensors,
                                      const std::map<std::string, std::string>& metadata,
                                      std::uint64_t total = 0);

}  // namespace rarefy::io
