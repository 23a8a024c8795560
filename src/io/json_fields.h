// Fields of a JSON object with strict types: absent and null take the default, anything of another
// type or out of range is an error that names file, field, expected and found.
#pragma once

#include <cstdint>
#include <limits>
#include <optional>
#include <string>

#include "base/json.h"

namespace rarefy::io {

class JsonFields {
 public:
  /// `where` names file and object in errors. `json` must outlive this. Throws kCorrupt unless it
  /// is an object.
  JsonFields(const Json& json, std::string where);

  /// True when the key is there, even as null.
  [[nodiscard]] bool contains(const char* key) const { return json_->contains(key); }
  /// The value; nullptr when absent or null.
  [[nodiscard]] const Json* find(const char* key) const;

  [[nodiscard]] std::int64_t integer(const char* key, std::int64_t least, std::int64_t most) const;
  [[nodiscard]] std::optional<std::int64_t> maybe_integer(const char* key, std::int64_t least,
                                                          std::int64_t most) const;
  /// A finite number, whole or not, in [least, most].
  [[nodiscard]] std::optional<double> maybe_number(const char* key, double least,
                                                   double most) const;
  [[nodiscard]] bool boolean(const char* key, bool otherwise) const;
  [[nodiscard]] std::optional<std::string> maybe_string(const char* key) const;
  /// An object inside this one.
  [[nodiscard]] std::optional<JsonFields> maybe_object(const char* key) const;

  [[nodiscard]] const std::string& where() const { return where_; }
  [[nodiscard]] const Json& json() const { return *json_; }
  /// Throws kCorrupt: "where: expected <expected> for 'key', found <value>".
  [[noreturn]] void mismatch(const char* key, const std::string& expected) const;

 private:
  const Json* json_;
  std::string where_;
};

/// `json` on one line, cut to a length that suits a message.
std::string excerpt(const Json& json);

}  // namespace rarefy::io
