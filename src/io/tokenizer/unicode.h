// UTF-8 and the character classes that tokenizers names in Rust terms.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace rarefy::tokenizer {

/// One code point read from text; `length` bytes of UTF-8.
struct CodePoint {
  char32_t value = 0;
  std::size_t length = 0;
};

/// The code point at `at` of valid UTF-8.
inline CodePoint code_point_at(std::string_view text, std::size_t at) {
  const auto byte = [&](std::size_t i) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[at + i]));
  };
  const char32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  if (first < 0xE0) return {(first & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (first < 0xF0) return {(first & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  return {(first & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F),
          4};
}

/// The code point that ends before `end` > 0 of valid UTF-8.
inline CodePoint code_point_before(std::string_view text, std::size_t end) {
  std::size_t at = end - 1;
  while ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return code_point_at(text, at);
}

void append_utf8(std::string& out, char32_t value);

/// How the bytes at `at` read as UTF-8.
struct Utf8Step {
  std::size_t length = 0;   ///< Of the character, or of the part that one U+FFFD replaces.
  bool valid = false;       ///< Well-formed (no surrogates, no overlong forms, at most U+10FFFF).
  bool incomplete = false;  ///< Not valid, but more bytes could make it so.
};
Utf8Step utf8_step(std::string_view bytes, std::size_t at);

bool is_utf8(std::string_view bytes);

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

/// Each maximal part of an ill-formed sequence becomes one U+FFFD, as in Rust's from_utf8_lossy and
/// Unicode's recommendation (chapter 3.9).
void append_lossy(std::string& out, std::string_view bytes);

bool is_white_space(char32_t c);  ///< The property White_Space (Rust's char::is_whitespace).
bool is_numeric(char32_t c);      ///< Nd, Nl, No (Rust's char::is_numeric).
bool is_mark(char32_t c);         ///< Mn, Mc, Me.
bool is_punctuation(char32_t c);  ///< ASCII punctuation, or a category P.
/// The full lower-case mapping of one character, without context.
void append_lower_case(std::string& out, char32_t c);

/// GPT-2's alphabet: each byte as a printable character below U+0144.
char32_t byte_to_char(unsigned char byte);
/// The byte of such a character, or -1.
int char_to_byte(char32_t c);
/// The bytes of `text`, each as its character.
void append_byte_level(std::string& out, std::string_view text);

}  // namespace rarefy::tokenizer
