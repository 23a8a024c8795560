#include "io/tokenizer/decoder.h"
#include "io/tokenizer/tokenizer_impl.h"
#include "rarefy/tokenizer.h"

namespace rarefy {

struct TextStream::State {
  std::shared_ptr<const Tokenizer> tokenizer;
  bool skip_special;
  std::unique_ptr<rarefy::tokenizer::Decoding> decoding;

  void restart() {
    decoding = std::make_unique<rarefy::tokenizer::Decoding>(tokenizer->impl_->decoder);
  }
};

TextStream::TextStream(std::shared_ptr<const Tokenizer> tokenizer, bool skip_special)
    : state_(std::make_unique<State>(State{std::move(tokenizer), skip_special, nullptr})) {
  state_->restart();
}

TextStream::~TextStream() = default;
TextStream::TextStream(TextStream&&) noexcept = default;
TextStream& TextStream::operator=(TextStream&&) noexcept = default;

std::string TextStream::push(TokenId id) {
  const std::string* token = state_->tokenizer->impl_->shown(id, state_->skip_special);
  if (token == nullptr) return {};
  state_->decoding->push(*token);
  return state_->decoding->take();
}

std::string TextStream::flush() {
  state_->decoding->finish();
  std::string rest = state_->decoding->take();
  state_->restart();
  return rest;
}

}  // namespace rarefy
