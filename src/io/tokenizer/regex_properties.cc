#include "io/tokenizer/regex_properties.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <utility>

namespace rarefy::tokenizer {
namespace {

using Entry = std::pair<std::string_view, std::string_view>;

constexpr std::array<Entry, 12> kPosix{{
    {"alpha", R"(\p{Alphabetic})"},
    {"digit", R"(\p{Nd})"},
    {"alnum", R"(\p{Alphabetic}\p{Nd})"},
    {"upper", R"(\p{Uppercase})"},
    {"lower", R"(\p{Lowercase})"},
    {"space", kSpaceItems},
    {"blank", R"(\x{9}\p{Zs})"},
    {"cntrl", R"(\p{Cc})"},
    {"punct", R"(\p{P}\p{S})"},
    {"xdigit", kHexItems},
    {"word", R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})"},
    {"ascii", R"(\x{0}-\x{7f})"},
}};

// Long names of general categories; PCRE2 knows the short ones only.
constexpr std::array<Entry, 38> kCategories{{
    {"other", "C"},
    {"control", "Cc"},
    {"format", "Cf"},
    {"unassigned", "Cn"},
    {"privateuse", "Co"},
    {"surrogate", "Cs"},
    {"letter", "L"},
    {"lowercaseletter", "Ll"},
    {"modifierletter", "Lm"},
    {"otherletter", "Lo"},
    {"titlecaseletter", "Lt"},
    {"uppercaseletter", "Lu"},
    {"casedletter", "L&"},
    {"lc", "L&"},
    {"mark", "M"},
    {"combiningmark", "M"},
    {"spacingmark", "Mc"},
    {"enclosingmark", "Me"},
    {"nonspacingmark", "Mn"},
    {"number", "N"},
    {"decimalnumber", "Nd"},
    {"letternumber", "Nl"},
    {"othernumber", "No"},
    {"punctuation", "P"},
    {"connectorpunctuation", "Pc"},
    {"dashpunctuation", "Pd"},
    {"closepunctuation", "Pe"},
    {"finalpunctuation", "Pf"},
    {"initialpunctuation", "Pi"},
    {"otherpunctuation", "Po"},
    {"openpunctuation", "Ps"},
    {"symbol", "S"},
    {"currencysymbol", "Sc"},
    {"modifiersymbol", "Sk"},
    {"mathsymbol", "Sm"},
    {"othersymbol", "So"},
    {"separator", "Z"},
    {"spaceseparator", "Zs"},
}};

// Binary properties that patterns of tokenizers may name; other long names are scripts.
constexpr std::array<std::string_view, 22> kBinary{
    "any",
    "ascii",
    "alphabetic",
    "uppercase",
    "lowercase",
    "whitespace",
    "emoji",
    "emojipresentation",
    "emojimodifier",
    "emojimodifierbase",
    "emojicomponent",
    "extendedpictographic",
    "ideographic",
    "unifiedideograph",
    "math",
    "dash",
    "diacritic",
    "idstart",
    "idcontinue",
    "xidstart",
    "xidcontinue",
    "variationselector",
};

template <std::size_t Size>
std::optional<std::string> look_up(const std::array<Entry, Size>& table, std::string_view name) {
  const auto* found = std::find_if(table.begin(), table.end(),
                                   [&](const Entry& entry) { return entry.first == name; });
  if (found == table.end()) return std::nullopt;
  return std::string(found->second);
}

}  // namespace

std::optional<std::string> posix_items(std::string_view name) {
  return look_up(kPosix, name);
}

std::string property_items(std::string_view name) {
  std::string plain;  // case, blanks, hyphens and underscores do not count
  for (const char c : name) {
    if (c != ' ' && c != '-' && c != '_')
      plain += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  if (plain.size() <= 2 && plain != "lc" && !plain.empty()) {
    plain[0] = static_cast<char>(std::toupper(static_cast<unsigned char>(plain[0])));
    return "\\p{" + plain + "}";
  }
  if (const auto category = look_up(kCategories, plain)) return "\\p{" + *category + "}";
  if (plain == "punct") return R"(\p{P})";  // unlike [:punct:], without symbols
  if (const auto items = posix_items(plain)) return *items;
  if (std::find(kBinary.begin(), kBinary.end(), plain) != kBinary.end())
    return "\\p{" + plain + "}";
  return "\\p{sc:" + plain + "}";
}

}  // namespace rarefy::tokenizer
