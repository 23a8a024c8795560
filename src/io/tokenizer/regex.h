// Regular expressions of tokenizer.json, run by PCRE2.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace rarefy::tokenizer {

/// Half-open range of bytes.
struct Span {
  std::size_t begin = 0, end = 0;
};

/// A compiled pattern; immutable, safe to share between threads. Matching is bounded: a pattern
/// that backtracks without end on some text throws kUnsupported instead of running on.
class Regex {
 public:
  /// `pattern` in Oniguruma's syntax; `where` names the field of the file in errors.
  Regex(std::string_view pattern, std::string where);

  /// The first match that starts at `from` or later; text before `from` is seen by lookbehinds.
  /// `text` must be valid UTF-8.
  [[nodiscard]] std::optional<Span> find(std::string_view text, std::size_t from) const;

 private:
  struct Code;
  std::string pattern_, where_;
  std::shared_ptr<const Code> code_;
};

/// Calls visit(begin, end) for each match from left to right. An empty match right after another
/// match does not count, as in Oniguruma's find_iter.
template <class Visit>
void for_each_match(const Regex& regex, std::string_view text, Visit&& visit) {
  std::size_t from = 0, last_end = 0;
  bool any = false;
  while (from <= text.size()) {
    const std::optional<Span> match = regex.find(text, from);
    if (!match) return;
    if (match->end == match->begin && any && match->end == last_end) {
      do {
        ++from;
      } while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0) == 0x80);
      continue;
    }
    from = last_end = match->end;
    any = true;
    visit(match->begin, match->end);
  }
}

}  // namespace rarefy::tokenizer
