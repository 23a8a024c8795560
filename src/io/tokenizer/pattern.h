// {"Regex": …} or {"String": …}: what Split and Replace look for.
#pragma once

#include <optional>
#include <string>

#include "io/tokenizer/fields.h"
#include "io/tokenizer/regex.h"

namespace rarefy::tokenizer {

class Pattern {
 public:
  explicit Pattern(std::string text) : text_(std::move(text)) {}
  explicit Pattern(Regex regex) : regex_(std::move(regex)) {}

  /// The literal text; nullptr for a regular expression.
  [[nodiscard]] const std::string* literal() const { return regex_ ? nullptr : &text_; }

  template <class Visit>
  void for_each_match(std::string_view text, Visit&& visit) const {
    if (regex_) {
      tokenizer::for_each_match(*regex_, text, visit);
      return;
    }
    for (std::size_t at = text.find(text_); at != std::string_view::npos;
         at = text.find(text_, at + text_.size()))
      visit(at, at + text_.size());
  }

 private:
  std::optional<Regex> regex_;
  std::string text_;  // not empty
};

/// The field "pattern".
inline Pattern read_pattern(const Fields& fields) {
  const Json& json = fields.object("pattern");
  const Fields pattern(json, fields.where() + ".pattern");
  if (json.contains("Regex")) return Pattern(Regex(pattern.text("Regex"), pattern.where()));
  std::string text = pattern.text("String");
  if (text.empty()) return Pattern(Regex("", pattern.where()));  // matches between characters
  return Pattern(std::move(text));
}

}  // namespace rarefy::tokenizer
