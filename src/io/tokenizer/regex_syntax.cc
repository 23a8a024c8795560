#include "io/tokenizer/regex_syntax.h"

#include <fmt/format.h>

#include <cctype>
#include <optional>
#include <vector>

#include "base/check.h"
#include "io/tokenizer/regex_properties.h"
#include "io/tokenizer/unicode.h"

namespace rarefy::tokenizer {
namespace {

// What an escape stands for: text to copy, or a set of characters, perhaps its complement.
struct Escape {
  std::string text;
  bool is_set = false;
  bool negated = false;
};

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where)
      : pattern_(pattern), where_(where) {}

  std::string run() {
    while (at_ < pattern_.size()) item();
    out_.append(groups_.back().options, ')');
    return std::move(out_);
  }

 private:
  struct Group {
    std::size_t start = 0;    // in out_
    std::size_t options = 0;  // "(?i:" opened for options that last to the group's end
  };

  [[noreturn]] void unsupported(const std::string& what) const {
    fail(ErrorKind::kUnsupported, "{}: expected a pattern that PCRE2 can run, found {} in '{}'",
         where_, what, pattern_);
  }
  [[nodiscard]] bool looking_at(std::string_view text) const {
    return pattern_.substr(at_, text.size()) == text;
  }
  [[nodiscard]] char peek(std::size_t ahead = 0) const {
    return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0';
  }

  void item() {
    const char c = peek();
    if (c == '{' && interval()) return;
    const std::size_t start = out_.size();
    if (c == '*' || c == '+' || c == '?') {
      out_ += pattern_[at_++];  // possessive and lazy marks are the same in both
      return;
    }
    if (c == '\\') {
      ++at_;
      outside_escape();
    } else if (c == '[') {
      ++at_;
      out_ += char_class();
    } else if (c == '(') {
      open_group();
      return;
    } else if (c == ')') {
      ++at_;
      if (groups_.size() == 1) unsupported("an unmatched ')'");
      out_.append(groups_.back().options, ')');
      out_ += ')';
      atom_ = groups_.back().start;
      groups_.pop_back();
      return;
    } else {
      const std::size_t length = code_point_at(pattern_, at_).length;
      out_ += pattern_.substr(at_, length);
      at_ += length;
    }
    atom_ = start;
  }

  // {n}, {n,}, {,n}, {n,m}; anything else is literal.
  bool interval() {
    std::size_t end = at_ + 1;
    const auto digits = [&] {
      const std::size_t begin = end;
      while (end < pattern_.size() && std::isdigit(static_cast<unsigned char>(pattern_[end])))
        ++end;
      return std::string(pattern_.substr(begin, end - begin));
    };
    std::string low = digits(), high;
    const bool comma = end < pattern_.size() && pattern_[end] == ',';
    if (comma) {
      ++end;
      high = digits();
    }
    if (end >= pattern_.size() || pattern_[end] != '}' || (low.empty() && high.empty())) {
      return false;
    }
    if (low.empty()) low = "0";
    at_ = end + 1;
    out_ += comma ? fmt::format("{{{},{}}}", low, high) : fmt::format("{{{}}}", low);
    // A '+' here repeats the repetition, and {n}? makes it optional: possessive and lazy in PCRE2.
    if (peek() == '+' || (peek() == '?' && !comma)) {
      out_.insert(atom_, "(?:");
      out_ += ')';
    }
    return true;
  }

  void open_group() {
    const std::size_t start = out_.size();
    ++at_;
    if (peek() != '?') {
      groups_.push_back({start, 0});
      out_ += '(';
      return;
    }
    ++at_;
    if (peek() == '#') {
      const std::size_t end = pattern_.find(')', at_);
      at_ = end == std::string_view::npos ? pattern_.size() : end + 1;
      return;
    }
    for (const std::string_view kind : {":", "=", "!", ">", "<=", "<!", "<", "'"}) {
      if (!looking_at(kind)) continue;
      groups_.push_back({start, 0});
      out_ += "(?";
      out_ += kind;
      at_ += kind.size();
      return;
    }
    std::string options;
    for (; peek() != ':' && peek() != ')'; ++at_) {
      switch (peek()) {
        case 'i':
        case 'x':
        case '-':
          options += peek();
          break;
        case 'm':
          options += 's';  // Ruby's "multi-line": the dot matches a newline
          break;
        default:
          unsupported(fmt::format("a group '(?{}'", peek()));
      }
    }
    out_ += "(?" + options + ":";
    if (peek() == ':') {
      groups_.push_back({start, 0});
    } else {
      ++groups_.back().options;
    }
    ++at_;
  }

  void outside_escape() {
    switch (peek()) {
      case 'b':
      case 'B': {
        const std::string word = fmt::format("[{}]", kWordItems);
        out_ += peek() == 'b' ? fmt::format("(?:(?<={0})(?!{0})|(?<!{0})(?={0}))", word)
                              : fmt::format("(?:(?<={0})(?={0})|(?<!{0})(?!{0}))", word);
        ++at_;
        return;
      }
      case 'A':
      case 'Z':
      case 'z':
      case 'G':
      case 'K':
      case 'R':
      case 'X':
      case 'N':
        out_ += '\\';
        out_ += pattern_[at_++];
        return;
      case 'O':
        ++at_;
        out_ += "(?s:.)";
        return;
      case 'k':
      case 'g': {
        const std::size_t end = pattern_.find(peek(1) == '\'' ? '\'' : '>', at_ + 2);
        if ((peek(1) != '<' && peek(1) != '\'') || end == std::string_view::npos) break;
        out_ += '\\';
        out_ += pattern_.substr(at_, end + 1 - at_);
        at_ = end + 1;
        return;
      }
      default:
        if (peek() >= '1' && peek() <= '9') {  // a back reference
          out_ += '\\';
          while (std::isdigit(static_cast<unsigned char>(peek()))) out_ += pattern_[at_++];
          return;
        }
    }
    const Escape found = escape();
    if (!found.is_set) {
      out_ += found.text;
    } else {
      out_ += fmt::format("[{}{}]", found.negated ? "^" : "", found.text);
    }
  }

  // After a backslash, inside a class or outside.
  Escape escape() {
    if (at_ >= pattern_.size()) unsupported("a backslash at the end");
    const char c = pattern_[at_];
    const auto set = [&](std::string_view items, bool negated) {
      ++at_;
      return Escape{std::string(items), true, negated};
    };
    const auto code = [&](std::size_t length, int value) {
      at_ += length;
      return Escape{fmt::format("\\x{{{:x}}}", value)};
    };
    switch (c) {
      case 'd':
      case 'D':
        return set(kDigitItems, c == 'D');
      case 's':
      case 'S':
        return set(kSpaceItems, c == 'S');
      case 'w':
      case 'W':
        return set(kWordItems, c == 'W');
      case 'h':
      case 'H':
        return set(kHexItems, c == 'H');
      case 'p':
      case 'P':
        if (peek(1) == '{') return property();
        return code(1, c);
      case 't':
        return code(1, '\t');
      case 'n':
        return code(1, '\n');
      case 'r':
        return code(1, '\r');
      case 'f':
        return code(1, '\f');
      case 'v':
        return code(1, '\v');
      case 'a':
        return code(1, '\a');
      case 'e':
        return code(1, 0x1B);
      case 'u':
        return {fmt::format("\\x{{{:x}}}", hexadecimal(1, 4, 4))};
      case 'x':
        return {fmt::format("\\x{{{:x}}}", hex_escape())};
      case 'c':
      case 'C':
      case 'M':
      case 'y':
      case 'Y':
        unsupported(fmt::format("'\\{}'", c));
      default:
        break;
    }
    if (c >= '0' && c <= '7') {
      int value = 0, length = 0;
      for (; length < 3 && peek(length) >= '0' && peek(length) <= '7'; ++length)
        value = 8 * value + (peek(length) - '0');
      if (value > 0x7F) unsupported("an octal byte past 177");
      return code(length, value);
    }
    const std::size_t length = code_point_at(pattern_, at_).length;
    const std::string text(pattern_.substr(at_, length));
    at_ += length;
    // Other letters stand for themselves; PCRE2 would refuse them.
    if (length > 1 || std::isalnum(static_cast<unsigned char>(c))) return {text};
    return {"\\" + text};
  }

  // `least`…`most` hexadecimal digits `skip` characters ahead; moves past them.
  int hexadecimal(std::size_t skip, int least, int most) {
    int value = 0, count = 0;
    for (; count < most && std::isxdigit(static_cast<unsigned char>(peek(skip + count))); ++count) {
      const char c = peek(skip + count);
      value = 16 * value + (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
    }
    if (count < least) unsupported("a hexadecimal escape with too few digits");
    at_ += skip + count;
    return value;
  }

  // \x{…}, or \xHH: bytes of UTF-8 that follow each other.
  int hex_escape() {
    if (peek(1) == '{') {
      const int value = hexadecimal(2, 1, 7);
      if (peek() != '}') unsupported("a code point without '}'");
      ++at_;
      return value;
    }
    std::string bytes(1, static_cast<char>(hexadecimal(1, 1, 2)));
    while (utf8_step(bytes, 0).incomplete && looking_at("\\x")) {
      ++at_;
      bytes += static_cast<char>(hexadecimal(1, 1, 2));
    }
    if (!is_utf8(bytes)) unsupported("bytes that are not UTF-8");
    return static_cast<int>(code_point_at(bytes, 0).value);
  }

  Escape property() {
    const bool capital = peek() == 'P';
    const std::size_t end = pattern_.find('}', at_);
    if (end == std::string_view::npos) unsupported("a property without '}'");
    std::string_view name = pattern_.substr(at_ + 2, end - at_ - 2);
    const bool caret = !name.empty() && name[0] == '^';
    if (caret) name.remove_prefix(1);
    at_ = end + 1;
    return {property_items(name), true, capital != caret};
  }

  // After '[': a fragment that matches exactly one character. Complements of sets, nested classes
  // and intersections, which PCRE2 has no syntax for, become alternatives and lookaheads.
  std::string char_class() {
    if (++depth_ > 50) unsupported("classes nested deeper than 50");
    const bool negated = peek() == '^';
    if (negated) ++at_;
    std::vector<std::string> parts;
    std::string items;
    std::vector<std::string> nested;
    bool after_set = false;  // then a hyphen is a hyphen
    const auto finish_part = [&] {
      std::string part = items.empty() ? "" : "[" + items + "]";
      for (const std::string& one : nested) part += (part.empty() ? "" : "|") + one;
      if (part.empty()) part = "(?!)";
      parts.push_back(nested.empty() ? part : "(?:" + part + ")");
    };
    for (bool first = true;; first = false) {
      if (at_ >= pattern_.size()) unsupported("a class without ']'");
      const char c = peek();
      if (c == ']' && !first) break;
      const bool was_set = after_set;
      after_set = false;
      if (looking_at("&&")) {
        at_ += 2;
        finish_part();
        items.clear();
        nested.clear();
      } else if (looking_at("[:") && pattern_.find(":]", at_) != std::string_view::npos) {
        posix(items, nested);
        after_set = true;
      } else if (c == '[') {
        ++at_;
        nested.push_back(char_class());
        after_set = true;
      } else if (c == '\\') {
        ++at_;
        const Escape found = peek() == 'b' ? (++at_, Escape{"\\x{8}"}) : escape();
        if (found.negated) {
          nested.push_back("[^" + found.text + "]");
        } else {
          items += found.text;
        }
        after_set = found.is_set;
      } else {
        const std::size_t length = code_point_at(pattern_, at_).length;
        if (c == ']' || c == '^' || (c == '-' && was_set)) items += '\\';
        items += pattern_.substr(at_, length);
        at_ += length;
      }
    }
    ++at_;
    --depth_;
    if (negated && parts.empty() && nested.empty() && !items.empty()) return "[^" + items + "]";
    finish_part();
    std::string whole;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) whole += "(?=" + parts[i] + ")";
    whole += parts.back();
    if (negated) return "(?:(?!" + whole + ")(?s:.))";
    return parts.size() > 1 ? "(?:" + whole + ")" : whole;
  }

  void posix(std::string& items, std::vector<std::string>& nested) {
    const std::size_t end = pattern_.find(":]", at_);
    std::string_view name = pattern_.substr(at_ + 2, end - at_ - 2);
    const bool negated = !name.empty() && name[0] == '^';
    if (negated) name.remove_prefix(1);
    const auto found = posix_items(name);
    if (!found) unsupported(fmt::format("'[:{}:]'", name));
    if (negated) {
      nested.push_back("[^" + *found + "]");
    } else {
      items += *found;
    }
    at_ = end + 2;
  }

  std::string_view pattern_;
  const std::string& where_;
  std::size_t at_ = 0;
  int depth_ = 0;
  std::string out_;
  std::size_t atom_ = 0;          // where the last atom starts in out_
  std::vector<Group> groups_{1};  // the innermost last; the first is the whole pattern
};

}  // namespace

std::string to_pcre2(std::string_view pattern, const std::string& where) {
  return Translator(pattern, where).run();
}

}  // namespace rarefy::tokenizer
