#include "io/tokenizer/fields.h"

#include "base/check.h"
#include "io/tokenizer/unicode.h"

namespace rarefy::tokenizer {

Fields::Fields(const Json& json, std::string where) : fields_(json, std::move(where)) {}

std::string Fields::text(const char* key) const {
  const auto value = fields_.maybe_string(key);
  if (!value) mismatch(key, "a string");
  return *value;
}

std::string Fields::text(const char* key, const std::string& otherwise) const {
  return fields_.maybe_string(key).value_or(otherwise);
}

bool Fields::boolean(const char* key, bool otherwise) const {
  return fields_.boolean(key, otherwise);
}

std::int64_t Fields::integer(const char* key, std::int64_t least, std::int64_t most) const {
  return fields_.integer(key, least, most);
}

char32_t Fields::character(const char* key, const std::string& otherwise) const {
  const std::string value = text(key, otherwise);
  if (value.empty() || code_point_at(value, 0).length != value.size())
    mismatch(key, "one character");
  return code_point_at(value, 0).value;
}

const Json& Fields::array(const char* key) const {
  const Json& value = any(key);
  if (!value.is_array()) mismatch(key, "an array");
  return value;
}

const Json& Fields::object(const char* key) const {
  const Json& value = any(key);
  if (!value.is_object()) mismatch(key, "an object");
  return value;
}

const Json& Fields::any(const char* key) const {
  static const Json null;
  const Json* value = fields_.find(key);
  return value == nullptr ? null : *value;
}

void Fields::mismatch(const char* key, const std::string& expected) const {
  fields_.mismatch(key, expected);
}

void Fields::unsupported_type(const std::string& known) const {
  fail(ErrorKind::kUnsupported, "{}: expected the type {}, found {}", where(), known, type());
}

void Fields::unsupported(const char* key, const std::string& expected) const {
  fail(ErrorKind::kUnsupported, "{}: expected {} for '{}', found {}", where(), expected, key,
       io::excerpt(any(key)));
}

}  // namespace rarefy::tokenizer
