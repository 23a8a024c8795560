#include "io/json_fields.h"

#include <cmath>
#include <utility>

#include "base/check.h"

namespace rarefy::io {
namespace {

/// The value as an integer, if it is one.
std::optional<std::int64_t> as_integer(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<std::uint64_t>();
    if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return {};
    return static_cast<std::int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<std::int64_t>();
  return {};
}

}  // namespace

std::string excerpt(const Json& json) {
  constexpr std::size_t kLongest = 60;
  if (json.is_structured() && json.size() > 16)
    return fmt::format("{} of {}", json.type_name(), json.size());
  std::string text = json.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "…";
  return text;
}

JsonFields::JsonFields(const Json& json, std::string where)
    : json_(&json), where_(std::move(where)) {
  if (!json.is_object()) {
    fail(ErrorKind::kCorrupt, "{}: expected an object, found {}", where_, excerpt(json));
  }
}

const Json* JsonFields::find(const char* key) const {
  const auto found = json_->find(key);
  return found == json_->end() || found->is_null() ? nullptr : &*found;
}

void JsonFields::mismatch(const char* key, const std::string& expected) const {
  const Json* value = find(key);
  fail(ErrorKind::kCorrupt, "{}: expected {} for '{}', found {}", where_, expected, key,
       value == nullptr ? "none" : excerpt(*value));
}

std::optional<std::int64_t> JsonFields::maybe_integer(const char* key, std::int64_t least,
                                                      std::int64_t most) const {
  const Json* value = find(key);
  if (value == nullptr) return {};
  const auto number = as_integer(*value);
  if (!number || *number < least || *number > most) {
    mismatch(key, fmt::format("an integer from {} to {}", least, most));
  }
  return number;
}

std::int64_t JsonFields::integer(const char* key, std::int64_t least, std::int64_t most) const {
  const auto number = maybe_integer(key, least, most);
  if (!number) mismatch(key, fmt::format("an integer from {} to {}", least, most));
  return *number;
}

std::optional<double> JsonFields::maybe_number(const char* key, double least, double most) const {
  const Json* value = find(key);
  if (value == nullptr) return {};
  const double number = value->is_number() ? value->get<double>() : std::nan("");
  if (!(number >= least && number <= most)) {
    mismatch(key, fmt::format("a number from {} to {}", least, most));
  }
  return number;
}

bool JsonFields::boolean(const char* key, bool otherwise) const {
  const Json* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) mismatch(key, "true or false");
  return value->get<bool>();
}

std::optional<std::string> JsonFields::maybe_string(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr) return {};
  if (!value->is_string()) mismatch(key, "a string");
  return value->get<std::string>();
}

std::optional<JsonFields> JsonFields::maybe_object(const char* key) const {
  const Json* value = find(key);
  if (value == nullptr) return {};
  return JsonFields(*value, where_ + ": " + key);
}

}  // namespace rarefy::io
