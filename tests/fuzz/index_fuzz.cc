#include "io/shards.h"
#include "mutator.h"

namespace rarefy {
namespace {

void parse(std::string_view input) {
  for (const auto& [tensor, file] : io::parse_index(input, "model.safetensors.index.json")) {
    const std::filesystem::path path = std::filesystem::path("model") / file;
    if (path.parent_path() != "model" || path.filename() == "..") {
      throw std::logic_error("left the folder: " + file);
    }
  }
}

}  // namespace

RAREFY_FUZZ_TARGET(
    Index, parse,
    (fuzz::Corpus{
        .seeds = {R"({"weight_map":{}})",
                  R"({"metadata":{"total_size":12},"weight_map":{"a":"model-1.safetensors",)"
                  R"("b.weight":"model-2.safetensors"}})"},
        .words = {"\"weight_map\"", "\"", "../", "/", "\\\\", "\\u0000", ".safetensors", "null",
                  "{}", "[]", ":", ","}}))

}  // namespace rarefy
