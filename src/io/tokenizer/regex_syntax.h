// From Oniguruma's regular expressions, which tokenizer.json is written in, to PCRE2's.
#pragma once

#include <string>
#include <string_view>

namespace rarefy::tokenizer {

/// The same expression for PCRE2 with UTF, UCP and MULTILINE. What differs between the two and is
/// rewritten: the sets of \s \w \d \b and of POSIX brackets, \h (hexadecimal) \v (one character)
/// \u \O, nested classes and `&&`, (?m) (dot matches newline), options inside alternations,
/// `{n,m}+` (repeats, is not possessive), `{n}?` (optional) and `{,n}`, \p{Script} without script
/// extensions. Throws kUnsupported, naming `where`, for what PCRE2 has no equal of.
std::string to_pcre2(std::string_view pattern, const std::string& where);

}  // namespace rarefy::tokenizer
