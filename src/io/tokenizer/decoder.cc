#include "io/tokenizer/decoder.h"

#include <fmt/format.h>

#include "io/tokenizer/decoder_stages.h"
#include "io/tokenizer/fields.h"
#include "io/tokenizer/pattern.h"

namespace rarefy::tokenizer {

Decoder::Decoder(const Json& json, const std::string& where) {
  if (json.is_null()) {
    makers_.emplace_back(join_with_spaces);
  } else {
    read(json, where);
  }
}

void Decoder::read(const Json& json, const std::string& where) {
  const Fields fields(json, where);
  const std::string type = fields.type();
  if (type == "Sequence") {
    const Json& list = fields.array("decoders");
    for (std::size_t i = 0; i < list.size(); ++i)
      read(list[i], fmt::format("{}.decoders[{}]", where, i));
  } else if (type == "ByteLevel") {
    makers_.emplace_back(decode_byte_level);
  } else if (type == "ByteFallback") {
    makers_.emplace_back(decode_byte_fallback);
  } else if (type == "Fuse") {
    makers_.emplace_back(fuse);
  } else if (type == "Metaspace") {
    const char32_t replacement = fields.character("replacement", "\xE2\x96\x81");
    const std::string scheme = fields.text("prepend_scheme", "always");
    if (scheme != "always" && scheme != "first" && scheme != "never")
      fields.mismatch("prepend_scheme", "always, first or never");
    const bool strip_first =
        scheme == "first" || (scheme == "always" && fields.boolean("add_prefix_space", true));
    makers_.emplace_back([=] { return decode_metaspace(replacement, strip_first); });
  } else if (type == "Strip") {
    const char32_t content = fields.character("content", "");
    const auto start = static_cast<std::size_t>(fields.integer("start", 0, 1 << 20));
    const auto stop = static_cast<std::size_t>(fields.integer("stop", 0, 1 << 20));
    makers_.emplace_back([=] { return strip(content, start, stop); });
  } else if (type == "Replace") {
    const Pattern pattern = read_pattern(fields);
    const std::string content = fields.text("content");
    makers_.emplace_back([=] { return replace(pattern, content); });
  } else if (type == "BPEDecoder") {
    const std::string suffix = fields.text("suffix", "</w>");
    makers_.emplace_back([=] { return decode_bpe_suffix(suffix); });
  } else {
    fields.unsupported_type(
        "Sequence, ByteLevel, ByteFallback, Fuse, Metaspace, Strip, Replace or BPEDecoder");
  }
}

Decoder::Stages Decoder::stages() const {
  Stages out;
  for (const Make& make : makers_) out.push_back(make());
  return out;
}

class Decoding::Output final : public DecoderStage {
 public:
  void text(std::string_view chunk) override { text_ += chunk; }
  void end_token() override {}
  void end_stream() override {}
  std::string take() { return std::exchange(text_, {}); }

 private:
  std::string text_;
};

Decoding::Decoding(const Decoder& decoder)
    : stages_(decoder.stages()), output_(std::make_unique<Output>()) {
  DecoderStage* next = output_.get();
  for (auto stage = stages_.rbegin(); stage != stages_.rend(); ++stage) {
    (*stage)->set_next(next);
    next = stage->get();
  }
  first_ = next;
}

Decoding::~Decoding() = default;

void Decoding::push(std::string_view token) {
  first_->text(token);
  first_->end_token();
}

std::string Decoding::take() {
  return output_->take();
}

}  // namespace rarefy::tokenizer
