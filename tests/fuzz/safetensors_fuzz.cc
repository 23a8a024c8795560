#include <cstdint>
#include <cstring>

#include "io/safetensors_header.h"
#include "mutator.h"

namespace rarefy {
namespace {

std::string file_of(std::string_view header, std::string_view data) {
  const std::uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file.append(header).append(data);
}

/// The input as it is, and with the length that its header would have: lengths rarely survive.
void parse(std::string_view input) {
  const auto use = [](std::string_view file) {
    const io::SafetensorsHeader header = io::parse_safetensors(file, "x.safetensors");
    // What was accepted lies within the file and is what the shape says.
    std::uint64_t end = 0;
    for (const TensorInfo& tensor : header.tensors) {
      if (tensor.begin != end || tensor.end < tensor.begin ||
          header.data_begin + tensor.end > file.size() ||
          static_cast<std::uint64_t>(tensor.elements()) *
                  static_cast<std::uint64_t>(bits_of(tensor.dtype)) !=
              8 * (tensor.end - tensor.begin)) {
        throw std::logic_error("accepted a tensor that lies: " + tensor.name);
      }
      end = tensor.end;
    }
    const std::string again = io::render_safetensors_header(header.tensors, header.metadata);
    io::parse_safetensors(again + std::string(file.substr(header.data_begin)), "y.safetensors");
  };
  if (input.size() > 8) {
    const std::string_view body = input.substr(8);
    const std::size_t close = body.rfind('}');
    const std::size_t split = close == std::string_view::npos ? body.size() : close + 1;
    const std::string repaired = file_of(body.substr(0, split), body.substr(split));
    fuzz::run_one(use, repaired);
  }
  use(input);
}

const std::string kData(16, 'x');

}  // namespace

RAREFY_FUZZ_TARGET(
    Safetensors, parse,
    (fuzz::Corpus{
        .seeds = {file_of("{}", ""), file_of(R"({"__metadata__":{"format":"pt"}})", ""),
                  file_of(R"({"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}})", kData),
                  file_of(R"({"__metadata__":{"k":"v"},)"
                          R"("b":{"dtype":"F4","shape":[2,3],"data_offsets":[12,15]},)"
                          R"("c":{"dtype":"BOOL","shape":[],"data_offsets":[15,16]},)"
                          R"("e":{"dtype":"I64","shape":[0,9],"data_offsets":[12,12]},)"
                          R"("a":{"dtype":"BF16","shape":[6],"data_offsets":[0,12]}}   )",
                          kData)},
        .words = {"\"dtype\":", "\"shape\":[", "\"data_offsets\":[", "]", "{", "}", ",", "\"",
                  "\"F6_E2M3\"", "\"C64\"", "\"F8_E8M0\"", "__metadata__", "null", "[0,0]",
                  "\"a\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[0,0]},", "\\u0000",
                  "4611686018427387904", "[[[[[[[["}}))

}  // namespace rarefy
