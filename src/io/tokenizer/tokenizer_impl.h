// The parts of a tokenizer, in the order in which text meets them.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "io/tokenizer/added_tokens.h"
#include "io/tokenizer/bpe.h"
#include "io/tokenizer/decoder.h"
#include "io/tokenizer/normalizer.h"
#include "io/tokenizer/post_processor.h"
#include "io/tokenizer/pre_tokenizer.h"
#include "rarefy/tokenizer.h"

namespace rarefy {

struct Tokenizer::Impl {
  /// What one call of encode works with. Kept for the next call, so that words stay cached.
  struct Scratch {
    tokenizer::BpeScratch bpe;
    std::vector<tokenizer::StageBuffers> buffers;
  };

  Impl(const Json& json, const std::string& file);

  void encode_part(std::string_view text, bool at_start, Scratch& scratch,
                   std::vector<TokenId>& out) const;
  std::unique_ptr<Scratch> take_scratch() const;
  void give_back(std::unique_ptr<Scratch> scratch) const;
  /// The token that decoding sees; nullptr for none.
  [[nodiscard]] const std::string* shown(TokenId id, bool skip_special) const;

  tokenizer::Bpe model;
  tokenizer::Normalizers normalizers;
  tokenizer::AddedTokenFinder as_given, after_normalizing;
  tokenizer::PreTokenizers pre_tokenizers;
  tokenizer::PostProcessor post_processor;
  tokenizer::Decoder decoder;
  std::vector<std::string> tokens;  // by id; empty where there is none
  std::vector<bool> special;        // by id
  /// Added tokens that are looked for in normalised text decode as their normalised content: here
  /// by id, where that differs from `tokens`.
  std::unordered_map<TokenId, std::string> normalised;
  /// By id: what `skip_special` leaves out. tokenizers compares the decoded content with the
  /// special tokens as written, so a special token that normalises to something else is shown.
  std::vector<bool> hidden;
  tokenizer::StringIndex added;    // contents of added tokens …
  std::vector<TokenId> added_ids;  // … and their ids

 private:
  mutable std::mutex mutex_;  // of idle_
  mutable std::vector<std::unique_ptr<Scratch>> idle_;
};

}  // namespace rarefy
