// tokenizer.json: byte-level BPE and SentencePiece-style BPE, exactly as Hugging Face tokenizers
// does it.
//
// Character classes and normal forms are those of the installed PCRE2 and utf8proc: characters that
// a newer version of Unicode added may be cut or composed differently. "truncation" and "padding"
// are ignored, as transformers does by default.
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
  /// Reads tokenizer.json of a folder, or the file itself. Throws `Error`: kUnsupported names a
  /// part that Rarefy does not run, kCorrupt the field, what was expected and what was found.
  static std::shared_ptr<const Tokenizer> load(const std::filesystem::path& path);
  static std::shared_ptr<const Tokenizer> from_json(std::string_view json,
                                                    const std::string& file_name);
  ~Tokenizer();

  /// Ids of `text` (UTF-8; invalid bytes as tokenizers sees them: U+FFFD). Added tokens inside the
  /// text are recognised. `add_special` runs the post-processor (BOS …). Throws kUnsupported when
  /// a pattern of the file backtracks beyond its limits on this text.
  [[nodiscard]] std::vector<TokenId> encode(std::string_view text, bool add_special = true) const;
  /// Text of `ids`; those without a token are passed over. As tokenizers has it, an added token
  /// with "normalized": true gives its normalised content.
  [[nodiscard]] std::string decode(std::span<const TokenId> ids, bool skip_special = true) const;

  /// One more than the largest id, added tokens included: ids lie in [0, vocab_size()).
  [[nodiscard]] std::int64_t vocab_size() const;
  /// As in the vocabulary; empty for an id without a token.
  [[nodiscard]] const std::string& token(TokenId id) const;
  [[nodiscard]] TokenId find(std::string_view token) const;  ///< -1 when there is none.
  [[nodiscard]] bool is_special(TokenId id) const;

 private:
  friend class TextStream;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

/// Text of a growing list of ids, released in whole characters as soon as no later id can change
/// them: the pieces joined are exactly `decode(ids, skip_special)`. A run of SentencePiece byte
/// tokens waits for its end, because one bad byte turns all of it into replacement characters.
/// Each push costs O(1) amortised.
class TextStream {
 public:
  explicit TextStream(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special = true);
  ~TextStream();
  TextStream(TextStream&&) noexcept;
  TextStream& operator=(TextStream&&) noexcept;

  /// The text that `id` adds; empty while a character is incomplete.
  std::string push(TokenId id);
  /// What is left at the end (replacement characters for incomplete bytes). The stream then begins
  /// anew.
  std::string flush();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace rarefy
