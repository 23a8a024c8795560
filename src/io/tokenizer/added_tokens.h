// Tokens that are found in text as they stand, before any model sees it.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "io/tokenizer/bpe.h"
#include "io/tokenizer/normalizer.h"
#include "io/tokenizer/regex.h"
#include "rarefy/tokenizer.h"

namespace rarefy::tokenizer {

struct AddedToken {
  TokenId id = -1;
  std::string content;
  bool single_word = false;             ///< Only where no word character touches it.
  bool lstrip = false, rstrip = false;  ///< Takes the white space beside it.
  bool normalized = true;  ///< Looked for in normalised text, else in the text as given.
  bool special = false;
};

/// Reads "added_tokens". kCorrupt: ids that are negative, duplicate, or other than the vocabulary's
/// own for the same content.
std::vector<AddedToken> read_added_tokens(const Json& json, const std::string& where,
                                          const Bpe& model);

/// Part of a text: an added token (id ≥ 0), or what lies between two.
struct TextPart {
  TokenId id = -1;
  Span span;
};

/// Finds tokens, the leftmost first, of those that start there the longest. Immutable.
class AddedTokenFinder {
 public:
  AddedTokenFinder();
  void add(const AddedToken& token, std::string_view pattern);
  [[nodiscard]] bool empty() const { return tokens_.empty(); }
  /// Cuts `text`; parts may be empty of text only for tokens.
  void cut(std::string_view text, std::vector<TextPart>& out) const;

 private:
  struct Node {
    std::vector<std::pair<unsigned char, std::int32_t>> children;  // few: searched in order
    std::int32_t token = -1;
  };
  struct Match {
    std::int32_t token = -1;
    std::size_t end = 0;
  };
  [[nodiscard]] Match longest_at(std::string_view text, std::size_t begin) const;
  [[nodiscard]] bool touches_word(std::string_view text, Span span) const;

  std::vector<Node> nodes_{1};
  std::array<bool, 256> starts_{};  // bytes that some token begins with
  std::vector<AddedToken> tokens_;
  Regex word_;
};

}  // namespace rarefy::tokenizer
