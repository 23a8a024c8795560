// Fields of the objects in tokenizer.json: all have a "type", all errors name file and field.
#pragma once

#include <string>

#include "base/json.h"
#include "io/json_fields.h"

namespace rarefy::tokenizer {

class Fields {
 public:
  /// Throws kCorrupt unless `json` is an object. `where` names it: "tokenizer.json: decoder".
  Fields(const Json& json, std::string where);

  [[nodiscard]] std::string type() const { return text("type"); }
  [[nodiscard]] std::string text(const char* key) const;
  [[nodiscard]] std::string text(const char* key, const std::string& otherwise) const;
  [[nodiscard]] bool boolean(const char* key, bool otherwise) const;
  [[nodiscard]] std::int64_t integer(const char* key, std::int64_t least, std::int64_t most) const;
  /// A string of exactly one character.
  [[nodiscard]] char32_t character(const char* key, const std::string& otherwise) const;
  [[nodiscard]] const Json& array(const char* key) const;
  [[nodiscard]] const Json& object(const char* key) const;
  /// The value; null when absent.
  [[nodiscard]] const Json& any(const char* key) const;

  [[nodiscard]] const std::string& where() const { return fields_.where(); }
  /// kCorrupt: "where: expected <expected> for 'key', found …".
  [[noreturn]] void mismatch(const char* key, const std::string& expected) const;
  /// kUnsupported: a type, or another value of a field, that Rarefy does not run.
  [[noreturn]] void unsupported_type(const std::string& known) const;
  [[noreturn]] void unsupported(const char* key, const std::string& expected) const;

 private:
  io::JsonFields fields_;
};

}  // namespace rarefy::tokenizer
