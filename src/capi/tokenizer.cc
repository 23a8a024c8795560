#include "rarefy/tokenizer.h"

#include "capi/entry.h"

using namespace rarefy;

struct rarefy_tokenizer {
  std::shared_ptr<const Tokenizer> tokenizer;
};

rarefy_status rarefy_tokenizer_load(const char* path, rarefy_tokenizer** tokenizer) {
  return capi::entry("rarefy_tokenizer_load", [&] {
    capi::require_given(path, "path");
    capi::require_given(tokenizer, "tokenizer");
    *tokenizer = new rarefy_tokenizer{Tokenizer::load(path)};
  });
}

void rarefy_tokenizer_free(rarefy_tokenizer* tokenizer) {
  delete tokenizer;
}

rarefy_status rarefy_tokenizer_vocab_size(const rarefy_tokenizer* tokenizer, int64_t* vocab_size) {
  return capi::entry("rarefy_tokenizer_vocab_size", [&] {
    capi::require_given(tokenizer, "tokenizer");
    capi::require_given(vocab_size, "vocab_size");
    *vocab_size = tokenizer->tokenizer->vocab_size();
  });
}

rarefy_status rarefy_tokenizer_encode(const rarefy_tokenizer* tokenizer, const char* text,
                                      size_t text_bytes, int32_t add_special, int32_t* ids,
                                      size_t capacity, size_t* count) {
  return capi::entry("rarefy_tokenizer_encode", [&] {
    capi::require_given(tokenizer, "tokenizer");
    capi::require_given(count, "count");
    if (capacity > 0) capi::require_given(ids, "ids");
    const std::vector<TokenId> encoded = tokenizer->tokenizer->encode(
        capi::text_argument(text, text_bytes, "text"), add_special != 0);
    *count = encoded.size();
    if (ids == nullptr) return;
    require(capacity >= encoded.size(), "capacity: expected at least {}, got {}", encoded.size(),
            capacity);
    std::copy(encoded.begin(), encoded.end(), ids);
  });
}

rarefy_status rarefy_tokenizer_decode(const rarefy_tokenizer* tokenizer, const int32_t* ids,
                                      size_t count, int32_t skip_special, char** text,
                                      size_t* text_bytes) {
  return capi::entry("rarefy_tokenizer_decode", [&] {
    capi::require_given(tokenizer, "tokenizer");
    capi::require_given(text, "text");
    if (count > 0) capi::require_given(ids, "ids");
    const std::string decoded =
        tokenizer->tokenizer->decode(std::span<const TokenId>(ids, count), skip_special != 0);
    *text = capi::copy_text(decoded);
    if (text_bytes != nullptr) *text_bytes = decoded.size();
  });
}
