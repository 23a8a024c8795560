#include "io/tokenizer/added_tokens.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/check.h"
#include "io/tokenizer/fields.h"
#include "io/tokenizer/regex_properties.h"
#include "io/tokenizer/unicode.h"

namespace rarefy::tokenizer {

std::vector<AddedToken> read_added_tokens(const Json& json, const std::string& where,
                                          const Bpe& model) {
  std::vector<AddedToken> out;
  if (json.is_null()) return out;
  if (!json.is_array())
    fail(ErrorKind::kCorrupt, "{}: expected an array, found {}", where, io::excerpt(json));
  std::map<TokenId, std::string> taken;
  for (std::size_t i = 0; i < json.size(); ++i) {
    const Fields fields(json[i], fmt::format("{}[{}]", where, i));
    AddedToken token;
    token.id = static_cast<TokenId>(fields.integer("id", 0, Bpe::kMaxId));
    token.content = fields.text("content");
    token.single_word = fields.boolean("single_word", false);
    token.lstrip = fields.boolean("lstrip", false);
    token.rstrip = fields.boolean("rstrip", false);
    token.special = fields.boolean("special", false);
    token.normalized = fields.boolean("normalized", !token.special);
    if (token.content.empty()) fields.mismatch("content", "a string that is not empty");
    const TokenId known = model.find(token.content);
    if (known >= 0 && known != token.id)
      fields.mismatch("id", fmt::format("the vocabulary's id {}", known));
    const auto [entry, fresh] = taken.emplace(token.id, token.content);
    if (!fresh && entry->second != token.content)
      fields.mismatch("id", fmt::format("an id that '{}' does not have", entry->second));
    out.push_back(std::move(token));
  }
  return out;
}

AddedTokenFinder::AddedTokenFinder() : word_(fmt::format("[{}]", kRustWordItems), "added_tokens") {}

void AddedTokenFinder::add(const AddedToken& token, std::string_view pattern) {
  if (pattern.empty()) return;
  std::int32_t node = 0;
  for (const char c : pattern) {
    const auto byte = static_cast<unsigned char>(c);
    auto& children = nodes_[node].children;
    const auto found = std::find_if(children.begin(), children.end(),
                                    [&](const auto& child) { return child.first == byte; });
    if (found != children.end()) {
      node = found->second;
      continue;
    }
    const auto fresh = static_cast<std::int32_t>(nodes_.size());
    children.emplace_back(byte, fresh);
    nodes_.emplace_back();
    node = fresh;
  }
  if (nodes_[node].token >= 0) return;  // the first of equal patterns counts
  nodes_[node].token = static_cast<std::int32_t>(tokens_.size());
  tokens_.push_back(token);
  starts_[static_cast<unsigned char>(pattern[0])] = true;
}

AddedTokenFinder::Match AddedTokenFinder::longest_at(std::string_view text,
                                                     std::size_t begin) const {
  Match best;
  std::int32_t node = 0;
  for (std::size_t at = begin; at < text.size(); ++at) {
    const auto byte = static_cast<unsigned char>(text[at]);
    const auto& children = nodes_[node].children;
    const auto found = std::find_if(children.begin(), children.end(),
                                    [&](const auto& child) { return child.first == byte; });
    if (found == children.end()) break;
    node = found->second;
    if (nodes_[node].token >= 0) best = {nodes_[node].token, at + 1};
  }
  return best;
}

bool AddedTokenFinder::touches_word(std::string_view text, Span span) const {
  const auto is_word = [&](CodePoint c, std::size_t at) {
    return word_.find(text.substr(at, c.length), 0).has_value();
  };
  if (span.begin > 0) {
    const CodePoint before = code_point_before(text, span.begin);
    if (is_word(before, span.begin - before.length)) return true;
  }
  return span.end < text.size() && is_word(code_point_at(text, span.end), span.end);
}

void AddedTokenFinder::cut(std::string_view text, std::vector<TextPart>& out) const {
  std::size_t last = 0;
  for (std::size_t at = 0; !tokens_.empty() && at < text.size();) {
    if (!starts_[static_cast<unsigned char>(text[at])]) {
      ++at;
      continue;
    }
    const Match match = longest_at(text, at);
    if (match.token < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[match.token];
    Span span{at, match.end};
    at = match.end;
    if (token.single_word && touches_word(text, span)) continue;
    // White space that an earlier token took is not taken twice.
    while (token.lstrip && span.begin > last) {
      const CodePoint before = code_point_before(text, span.begin);
      if (!is_white_space(before.value)) break;
      span.begin = std::max(span.begin - before.length, last);
    }
    while (token.rstrip && span.end < text.size()) {
      const CodePoint after = code_point_at(text, span.end);
      if (!is_white_space(after.value)) break;
      span.end += after.length;
    }
    if (last < span.begin) out.push_back({-1, {last, span.begin}});
    out.push_back({token.id, span});
    last = span.end;
  }
  if (last < text.size()) out.push_back({-1, {last, text.size()}});
}

}  // namespace rarefy::tokenizer
