// Numbers out of a text, one after the other, with the line for errors.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rarefy::io {

class TextScanner {
 public:
  TextScanner(std::string_view text, std::string file_name)
      : text_(text), file_name_(std::move(file_name)) {}

  /// Throws kCorrupt: "file:line: expected <expected>, found <what stands here>".
  [[noreturn]] void mismatch(const std::string& expected) const;

  /// The next number, behind blanks and commas. An integer must lie in [least, most].
  std::int64_t integer(const char* what, std::int64_t least, std::int64_t most);
  /// A number that a float can hold (infinities and NaN in words are).
  float real(const char* what);
  /// Only blanks up to the end of the line, which is passed.
  void end_of_line();
  /// Nothing but blanks and empty lines up to the end of the text.
  void end_of_text();
  /// The rest of the line, which is passed.
  std::string_view line();
  /// Passes blank lines and lines that begin with `mark`.
  void skip_comments(char mark);

  [[nodiscard]] std::size_t remaining() const { return text_.size() - at_; }
  [[nodiscard]] std::int64_t line_number() const;
  [[nodiscard]] const std::string& file_name() const { return file_name_; }

 private:
  void skip_blanks();
  [[nodiscard]] std::string here() const;

  std::string_view text_;
  std::string file_name_;
  std::size_t at_ = 0;
};

}  // namespace rarefy::io
