#include "io/safetensors_header.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <tuple>

#include "base/check.h"
#include "base/json.h"

namespace rarefy::io {
namespace {

constexpr std::uint64_t kAlignment = 64;

/// A JSON number that is a whole number from 0 to 2^63-1; everything that safetensors counts.
std::int64_t natural(const Json& value, const std::string& what) {
  if (!value.is_number_unsigned() ||
      value.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max()) {
    fail(ErrorKind::kCorrupt, "{}: expected an integer from 0 to 2^63-1, found {}", what,
         value.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  return static_cast<std::int64_t>(value.get<std::uint64_t>());
}

const Json& field(const Json& entry, const char* name, const std::string& what) {
  const auto found = entry.find(name);
  if (found == entry.end())
    fail(ErrorKind::kCorrupt, "{}: expected a field '{}', found none", what, name);
  return *found;
}

TensorInfo parse_tensor(const std::string& name, const Json& entry, const std::string& file_name) {
  const std::string what = fmt::format("{}: tensor '{}'", file_name, name);
  if (!entry.is_object()) {
    fail(ErrorKind::kCorrupt, "{}: expected an object, found {}", what, entry.type_name());
  }
  for (const auto& [key, unused] : entry.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      fail(ErrorKind::kCorrupt, "{}: expected the fields dtype, shape and data_offsets, found '{}'",
           what, key);
    }
  }
  TensorInfo tensor;
  tensor.name = name;

  const Json& dtype = field(entry, "dtype", what);
  if (!dtype.is_string()) {
    fail(ErrorKind::kCorrupt, "{}: expected dtype to be a string, found {}", what,
         dtype.type_name());
  }
  const auto known = dtype_from_safetensors(dtype.get_ref<const std::string&>());
  if (!known) {
    fail(ErrorKind::kCorrupt, "{}: expected a dtype of the specification, found '{}'", what,
         dtype.get_ref<const std::string&>());
  }
  tensor.dtype = *known;

  const Json& shape = field(entry, "shape", what);
  if (!shape.is_array()) {
    fail(ErrorKind::kCorrupt, "{}: expected shape to be an array, found {}", what,
         shape.type_name());
  }
  for (const Json& dim : shape) tensor.shape.push_back(natural(dim, what + ": shape"));

  const Json& offsets = field(entry, "data_offsets", what);
  if (!offsets.is_array() || offsets.size() != 2) {
    fail(ErrorKind::kCorrupt, "{}: expected data_offsets to be [begin, end], found {}", what,
         offsets.is_array() ? fmt::format("{} numbers", offsets.size()) : offsets.type_name());
  }
  tensor.begin = static_cast<std::uint64_t>(natural(offsets[0], what + ": data_offsets"));
  tensor.end = static_cast<std::uint64_t>(natural(offsets[1], what + ": data_offsets"));
  if (tensor.begin > tensor.end) {
    fail(ErrorKind::kCorrupt, "{}: expected data_offsets begin <= end, found [{}, {}]", what,
         tensor.begin, tensor.end);
  }
  const std::uint64_t expected = checked_bytes(tensor.dtype, tensor.shape, what);
  if (tensor.end - tensor.begin != expected) {
    fail(ErrorKind::kCorrupt, "{}: expected {} bytes for {} {}, found {}", what, expected,
         safetensors_name(tensor.dtype), to_string(tensor.shape), tensor.end - tensor.begin);
  }
  return tensor;
}

std::map<std::string, std::string> parse_metadata(const Json& entry, const std::string& file_name) {
  if (!entry.is_object()) {
    fail(ErrorKind::kCorrupt, "{}: expected __metadata__ to be an object, found {}", file_name,
         entry.type_name());
  }
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) {
      fail(ErrorKind::kCorrupt, "{}: expected __metadata__ '{}' to be a string, found {}",
           file_name, key, value.type_name());
    }
    metadata.emplace(key, value.get<std::string>());
  }
  return metadata;
}

/// Tensors must tile the data section: no overlap, no hole, nothing after the last.
void check_layout(const std::vector<TensorInfo>& tensors, std::uint64_t data_bytes,
                  const std::string& file_name) {
  std::uint64_t at = 0;
  const TensorInfo* previous = nullptr;
  for (const TensorInfo& tensor : tensors) {
    if (tensor.begin != at) {
      fail(ErrorKind::kCorrupt,
           "{}: tensor '{}': expected data_offsets to begin at {}{}, found {} ({})", file_name,
           tensor.name, at, previous != nullptr ? ", the end of '" + previous->name + "'" : "",
           tensor.begin, tensor.begin < at ? "an overlap" : "a hole");
    }
    if (tensor.end > data_bytes) {
      fail(ErrorKind::kCorrupt,
           "{}: tensor '{}': expected data_offsets within the {} data bytes of the file, found "
           "[{}, {}]",
           file_name, tensor.name, data_bytes, tensor.begin, tensor.end);
    }
    at = tensor.end;
    previous = &tensor;
  }
  if (at != data_bytes) {
    fail(ErrorKind::kCorrupt, "{}: expected {} data bytes as the header says, found {}", file_name,
         at, data_bytes);
  }
}

}  // namespace

std::uint64_t checked_bytes(DType dtype, const Shape& shape, const std::string& what,
                            ErrorKind kind) {
  // An empty dimension makes the product 0 however large the others are, as in every reader.
  std::uint64_t bits = static_cast<std::uint64_t>(bits_of(dtype));
  bool empty = false;
  for (const std::int64_t dim : shape) {
    if (dim < 0) fail(kind, "{}: expected a shape >= 0, found {}", what, to_string(shape));
    empty = empty || dim == 0;
  }
  if (empty) return 0;
  for (const std::int64_t dim : shape) {
    if (__builtin_mul_overflow(bits, static_cast<std::uint64_t>(dim), &bits) ||
        bits > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      fail(kind, "{}: expected a shape of less than 2^63 bits, found {} of {}", what,
           to_string(shape), safetensors_name(dtype));
    }
  }
  if (bits % 8 != 0) {
    fail(kind, "{}: expected a whole number of bytes, found {} bits for {} {}", what, bits,
         safetensors_name(dtype), to_string(shape));
  }
  return bits / 8;
}

bool is_utf8(const std::string& name) {
  try {
    (void)Json(name).dump();
    return true;
  } catch (const Json::exception&) {
    return false;
  }
}

SafetensorsHeader parse_safetensors(std::string_view file, const std::string& file_name) {
  if (file.size() < kLengthBytes) {
    fail(ErrorKind::kCorrupt, "{}: expected at least {} bytes (the header's length), found {}",
         file_name, kLengthBytes, file.size());
  }
  std::uint64_t length = 0;
  std::memcpy(&length, file.data(), kLengthBytes);
  if (length > kMaxHeaderBytes) {
    fail(ErrorKind::kCorrupt, "{}: expected a header of at most {} bytes, found {}", file_name,
         kMaxHeaderBytes, length);
  }
  if (length > file.size() - kLengthBytes) {
    fail(ErrorKind::kCorrupt, "{}: expected a header of {} bytes, found {} (truncated?)", file_name,
         length, file.size() - kLengthBytes);
  }
  const std::string_view text = file.substr(kLengthBytes, length);
  if (text.empty() || text.front() != '{') {
    fail(ErrorKind::kCorrupt, "{}: expected the header to begin with '{{', found {}", file_name,
         text.empty() ? "nothing"
                      : fmt::format("byte 0x{:02x}", static_cast<unsigned char>(text[0])));
  }
  const Json json = parse_json(text, file_name + ": header");
  if (!json.is_object()) {
    fail(ErrorKind::kCorrupt, "{}: expected the header to be an object, found {}", file_name,
         json.type_name());
  }

  SafetensorsHeader header;
  header.data_begin = kLengthBytes + length;
  for (const auto& [name, entry] : json.items()) {
    if (name == kMetadataKey) {
      header.metadata = parse_metadata(entry, file_name);
    } else {
      header.tensors.push_back(parse_tensor(name, entry, file_name));
    }
  }
  // Empty tensors share their offset with the tensor after them, and come before it.
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const TensorInfo& a, const TensorInfo& b) {
              return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
            });
  check_layout(header.tensors, file.size() - header.data_begin, file_name);
  return header;
}

std::string render_safetensors_header(const std::vector<TensorInfo>& tensors,
                                      const std::map<std::string, std::string>& metadata,
                                      std::uint64_t total) {
  std::string text = "{";
  const auto add = [&text](const std::string& key, const Json& value) {
    if (text.size() > 1) text += ',';
    text += Json(key).dump() + ':' + value.dump();
  };
  if (!metadata.empty()) add(kMetadataKey, metadata);
  for (const TensorInfo& tensor : tensors) {
    add(tensor.name, {{"dtype", safetensors_name(tensor.dtype)},
                      {"shape", tensor.shape},
                      {"data_offsets", {tensor.begin, tensor.end}}});
  }
  text += '}';
  const std::uint64_t used = kLengthBytes + text.size();
  if (total == 0) total = (used + kAlignment - 1) / kAlignment * kAlignment;
  if (used > total || total - kLengthBytes > kMaxHeaderBytes) return {};
  text.resize(total - kLengthBytes, ' ');
  const std::uint64_t length = text.size();
  std::string out(kLengthBytes, '\0');
  std::memcpy(out.data(), &length, kLengthBytes);
  return out + text;
}

}  // namespace rarefy::io
