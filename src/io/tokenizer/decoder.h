// From tokens back to text, token by token.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"

namespace rarefy::tokenizer {

/// One stage of a decoder at work on one stream of tokens. A token may come in several chunks of
/// whole characters, so that Fuse, which makes one token of all, need not wait for the last. Each
/// stage holds back only what later input could still change; the text that leaves the last stage
/// is exactly what tokenizers gives for the whole list.
class DecoderStage {
 public:
  virtual ~DecoderStage() = default;
  virtual void text(std::string_view chunk) = 0;
  virtual void end_token() = 0;
  /// After the last token: everything held is let go.
  virtual void end_stream() = 0;
  void set_next(DecoderStage* next) { next_ = next; }

 protected:
  DecoderStage* next_ = nullptr;
};

/// The decoder of a tokenizer.json; immutable.
class Decoder {
 public:
  /// Sequence, ByteLevel, Metaspace, ByteFallback, Fuse, Strip, Replace, BPEDecoder; null joins
  /// tokens with spaces. kUnsupported names any other.
  Decoder(const Json& json, const std::string& where);

  using Stages = std::vector<std::unique_ptr<DecoderStage>>;
  /// Fresh stages, not yet linked.
  [[nodiscard]] Stages stages() const;

 private:
  using Make = std::function<std::unique_ptr<DecoderStage>()>;
  void read(const Json& json, const std::string& where);
  std::vector<Make> makers_;
};

/// A decoder at work: tokens in, text out.
class Decoding {
 public:
  explicit Decoding(const Decoder& decoder);
  ~Decoding();
  void push(std::string_view token);
  void finish() { first_->end_stream(); }
  /// The text let go since the last call.
  std::string take();

 private:
  class Output;
  Decoder::Stages stages_;
  std::unique_ptr<Output> output_;
  DecoderStage* first_ = nullptr;
};

}  // namespace rarefy::tokenizer
