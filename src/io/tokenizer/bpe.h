// Byte-pair encoding: words to ids.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "io/tokenizer/string_index.h"
#include "rarefy/tokenizer.h"

namespace rarefy::tokenizer {

/// What encoding builds and keeps between words: the pieces of the word at hand, and the ids of
/// words seen before. One a thread.
class BpeScratch {
 private:
  friend class Bpe;
  struct Symbol {
    TokenId id;
    std::int32_t previous, next;  // -1 at the ends; id -1 marks a symbol merged into another
  };
  struct Candidate {
    std::int64_t position;
    std::int32_t rank;
    TokenId merged;
  };
  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
  StringIndex words_;
  std::vector<std::size_t> ends_{0};  // ids of word i: [ends_[i], ends_[i + 1])
  std::vector<TokenId> ids_;
};

/// The model of tokenizer.json; immutable.
class Bpe {
 public:
  /// Largest id that a file may give: bounds memory against files that lie.
  static constexpr TokenId kMaxId = (1 << 22) - 1;

  /// Throws kCorrupt for a vocabulary that is missing, has duplicate or negative ids, or merges of
  /// unknown tokens; kUnsupported for another model or for dropout.
  Bpe(const Json& json, const std::string& where);

  /// Appends the ids of one word of valid UTF-8; O(n log n). Characters that the vocabulary cannot
  /// spell become the unknown token, or vanish where there is none.
  void encode(std::string_view word, BpeScratch& scratch, std::vector<TokenId>& out) const;

  [[nodiscard]] TokenId find(std::string_view token) const;  ///< -1 when there is none.
  [[nodiscard]] const StringIndex& tokens() const { return tokens_; }
  [[nodiscard]] TokenId id_of(std::int32_t number) const { return ids_[number]; }

 private:
  struct Merge {
    std::uint64_t pair = ~std::uint64_t{0};
    std::int32_t rank = 0;
    TokenId merged = -1;
  };
  void read_vocabulary(const Json& vocab, const std::string& where);
  void read_merges(const Json& merges, const std::string& where);
  void insert_merge(const Merge& merge);
  [[nodiscard]] const Merge* find_merge(TokenId left, TokenId right) const;
  void split_into_symbols(std::string_view word, BpeScratch& scratch) const;
  void merge_symbols(BpeScratch& scratch) const;
  void push_candidate(BpeScratch& scratch, std::int32_t left, std::int32_t right) const;

  StringIndex tokens_;
  std::vector<TokenId> ids_;   // of the tokens, by their number
  std::vector<Merge> merges_;  // open addressing, a power of two, at most half full
  std::string prefix_, suffix_;
  bool byte_fallback_ = false, fuse_unk_ = false, ignore_merges_ = false;
  TokenId unk_ = -1;
  std::array<TokenId, 256> bytes_{};  // <0x00> …; -1 where absent
};

}  // namespace rarefy::tokenizer
