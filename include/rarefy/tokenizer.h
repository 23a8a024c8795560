// tokenizer.json: byte-level BPE and SentencePiece-style BPE, exactly as Hugging Face tokenizers
// does it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rarefy {

using TokenId = std::int32_t;

/// Immutable and safe to share between threads.
class Tokenizer {
 public:
  /// Reads tokenizer.json of a folder, or the file itself. Throws `Error`; a part that is not
  /// supported is named.
  static std::shared_ptr<const Tokenizer> load(const std::filesystem::path& path);
  static std::shared_ptr<const Tokenizer> from_json(std::string_view json,
                                                    const std::string& file_name);
  ~Tokenizer();

  /// Ids of `text` (UTF-8; invalid bytes as tokenizers sees them: U+FFFD). `add_special` runs the
  /// post-processor (BOS …).
  [[nodiscard]] std::vector<TokenId> encode(std::string_view text, bool add_special = true) const;
  [[nodiscard]] std::string decode(std::span<const TokenId> ids, bool skip_special = true) const;

  [[nodiscard]] std::int64_t vocab_size() const;  ///< Added tokens included.
  [[nodiscard]] const std::string& token(
      TokenId id) const;  ///< As in the vocabulary; empty for an id without a token.
  [[nodiscard]] TokenId find(std::string_view token) const;  ///< -1 when there is none.
  [[nodiscard]] bool is_special(TokenId id) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Text of a growing list of ids, released in whole UTF-8 characters: what streaming output prints.
class TextStream {
 public:
  explicit TextStream(std::shared_ptr<const Tokenizer> tokenizer);
  /// The text that `id` adds; empty while a character is incomplete.
  std::string push(TokenId id);
  /// What is left at the end (replacement characters for incomplete bytes).
  std::string flush();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<TokenId> ids_;
  std::size_t prefix_ = 0, emitted_ = 0;
};

}  // namespace rarefy
