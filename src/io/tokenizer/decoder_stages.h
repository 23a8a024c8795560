// The stages that decoders are made of.
#pragma once

#include <memory>
#include <string>

#include "io/tokenizer/decoder.h"
#include "io/tokenizer/pattern.h"

namespace rarefy::tokenizer {

/// No decoder at all: a space between tokens.
std::unique_ptr<DecoderStage> join_with_spaces();
/// GPT-2's alphabet back to bytes, all tokens as one; invalid UTF-8 becomes U+FFFD. A token with a
/// character outside the alphabet stands for itself.
std::unique_ptr<DecoderStage> decode_byte_level();
/// `replacement` to a space; none in the first token where `strip_first`.
std::unique_ptr<DecoderStage> decode_metaspace(char32_t replacement, bool strip_first);
/// Runs of <0xHH> to characters; each byte of a run that is not UTF-8 to one U+FFFD.
std::unique_ptr<DecoderStage> decode_byte_fallback();
/// All tokens as one.
std::unique_ptr<DecoderStage> fuse();
/// Up to `start` and `stop` times `content` off the ends of each token.
std::unique_ptr<DecoderStage> strip(char32_t content, std::size_t start, std::size_t stop);
std::unique_ptr<DecoderStage> replace(Pattern pattern, std::string content);
/// `suffix` to a space, to nothing in the last token.
std::unique_ptr<DecoderStage> decode_bpe_suffix(std::string suffix);

}  // namespace rarefy::tokenizer
