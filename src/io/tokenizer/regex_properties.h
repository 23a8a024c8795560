// Names of character sets in regular expressions: \p{…}, [:…:], \w and their kin.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace rarefy::tokenizer {

/// Items for the inside of a PCRE2 character class. \w counts ² ³ ¹ ¼ ½ ¾ as Oniguruma does: its
/// table for the first 256 characters says so, unlike its own [:word:].
inline constexpr std::string_view kSpaceItems =
    R"(\x{9}-\x{d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
inline constexpr std::string_view kWordItems =
    R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";
/// \w of Rust's regular expressions.
inline constexpr std::string_view kRustWordItems =
    R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{200c}\x{200d})";
inline constexpr std::string_view kDigitItems = R"(\p{Nd})";
inline constexpr std::string_view kHexItems = "0-9A-Fa-f";

/// Items of [:name:]; nullopt when there is no such set (or none that PCRE2 can spell).
std::optional<std::string> posix_items(std::string_view name);

/// Items of \p{name}: a general category, a POSIX set, a binary property or a script. PCRE2
/// refuses names that it does not know.
std::string property_items(std::string_view name);

}  // namespace rarefy::tokenizer
