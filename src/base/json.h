// Strict JSON: one document, no duplicate keys, bounded depth.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace rarefy {

using Json = nlohmann::json;

/// Parses `text`; `where` names the file in errors (kCorrupt): syntax, duplicate keys, nesting
/// deeper than 128, invalid UTF-8.
Json parse_json(std::string_view text, const std::string& where);

}  // namespace rarefy
