#include "io/text_scanner.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <system_error>

#include "base/check.h"

namespace rarefy::io {
namespace {

bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == ',' || c == '\r';
}

}  // namespace

std::int64_t TextScanner::line_number() const {
  return 1 + std::count(text_.begin(), text_.begin() + static_cast<std::ptrdiff_t>(at_), '\n');
}

std::string TextScanner::here() const {
  if (at_ == text_.size()) return "the end of the file";
  if (text_[at_] == '\n') return "the end of the line";
  constexpr std::size_t kLongest = 24;
  std::string word;
  for (std::size_t i = at_; i < text_.size() && word.size() < kLongest; ++i) {
    if (is_blank(text_[i]) || text_[i] == '\n') break;
    // Binary files come by too: messages stay printable.
    word += text_[i] >= ' ' && text_[i] <= '~' ? text_[i] : '?';
  }
  return "'" + word + "'";
}

void TextScanner::mismatch(const std::string& expected) const {
  fail(ErrorKind::kCorrupt, "{}:{}: expected {}, found {}", file_name_, line_number(), expected,
       here());
}

void TextScanner::skip_blanks() {
  while (at_ < text_.size() && is_blank(text_[at_])) ++at_;
}

std::int64_t TextScanner::integer(const char* what, std::int64_t least, std::int64_t most) {
  skip_blanks();
  std::int64_t value = 0;
  const char* const begin = text_.data() + at_;
  const char* const end = text_.data() + text_.size();
  const auto [stop, error] = std::from_chars(begin, end, value);
  const bool whole = stop == end || is_blank(*stop) || *stop == '\n';
  if (error != std::errc() || !whole || value < least || value > most) {
    mismatch(fmt::format("{} from {} to {}", what, least, most));
  }
  at_ += static_cast<std::size_t>(stop - begin);
  return value;
}

float TextScanner::real(const char* what) {
  skip_blanks();
  const char* begin = text_.data() + at_;
  const char* const end = text_.data() + text_.size();
  if (begin != end && *begin == '+') ++begin;
  double value = 0;
  const auto [stop, error] = std::from_chars(begin, end, value);
  const bool whole = stop == end || is_blank(*stop) || *stop == '\n';
  // Too small is a zero or a subnormal, and no reason to refuse a file; too large is.
  if (error == std::errc::result_out_of_range && whole) {
    value = std::strtod(std::string(begin, stop).c_str(), nullptr);
  } else if (error != std::errc() || !whole) {
    mismatch(what);
  }
  const auto narrow = static_cast<float>(value);
  if (std::isinf(narrow) && (!std::isinf(value) || error != std::errc())) {
    mismatch(fmt::format("{} that a 32-bit float holds", what));
  }
  at_ = static_cast<std::size_t>(stop - text_.data());
  return narrow;
}

void TextScanner::end_of_line() {
  skip_blanks();
  if (at_ == text_.size()) return;
  if (text_[at_] != '\n') mismatch("the end of the line");
  ++at_;
}

void TextScanner::end_of_text() {
  while (at_ < text_.size() && (is_blank(text_[at_]) || text_[at_] == '\n')) ++at_;
  if (at_ != text_.size()) mismatch("the end of the file");
}

std::string_view TextScanner::line() {
  const std::size_t end = std::min(text_.find('\n', at_), text_.size());
  const std::string_view line = text_.substr(at_, end - at_);
  at_ = std::min(end + 1, text_.size());
  return line;
}

void TextScanner::skip_comments(char mark) {
  while (at_ < text_.size()) {
    const std::size_t before = at_;
    skip_blanks();
    const bool blank = at_ == text_.size() || text_[at_] == '\n';
    if (!blank && text_[before] != mark) {
      at_ = before;
      return;
    }
    line();
  }
}

}  // namespace rarefy::io
