#include "io/tokenizer/decoder_stages.h"

#include <algorithm>

#include "io/tokenizer/unicode.h"

namespace rarefy::tokenizer {
namespace {

class JoinWithSpaces final : public DecoderStage {
 public:
  void text(std::string_view chunk) override {
    begin();
    next_->text(chunk);
  }
  void end_token() override {
    begin();
    inside_ = false;
    next_->end_token();
  }
  void end_stream() override { next_->end_stream(); }

 private:
  void begin() {
    if (!inside_ && !first_) next_->text(" ");
    inside_ = true;
    first_ = false;
  }
  bool first_ = true, inside_ = false;
};

class ByteLevel final : public DecoderStage {
 public:
  void text(std::string_view chunk) override { token_ += chunk; }
  void end_token() override {
    const std::size_t before = bytes_.size();
    for (std::size_t at = 0; at < token_.size();) {
      const CodePoint c = code_point_at(token_, at);
      const int byte = char_to_byte(c.value);
      if (byte < 0) {
        bytes_.resize(before);
        bytes_ += token_;
        break;
      }
      bytes_ += static_cast<char>(byte);
      at += c.length;
    }
    token_.clear();
    release(/*all=*/false);
  }
  void end_stream() override {
    release(/*all=*/true);
    next_->end_token();
    next_->end_stream();
  }

 private:
  void release(bool all) {
    std::size_t end = 0;
    while (end < bytes_.size()) {
      const Utf8Step step = utf8_step(bytes_, end);
      if (step.incomplete && !all) break;
      end += step.length;
    }
    if (end == 0) return;
    std::string text;
    append_lossy(text, std::string_view(bytes_).substr(0, end));
    bytes_.erase(0, end);
    next_->text(text);
  }
  std::string token_, bytes_;
};

class Metaspace final : public DecoderStage {
 public:
  Metaspace(char32_t replacement, bool strip_first) : strip_(strip_first) {
    append_utf8(replacement_, replacement);
  }
  void text(std::string_view chunk) override {
    std::string out;
    std::size_t at = 0;
    for (std::size_t found; (found = chunk.find(replacement_, at)) != std::string_view::npos;
         at = found + replacement_.size()) {
      out += chunk.substr(at, found - at);
      if (!strip_) out += ' ';
    }
    out += chunk.substr(at);
    next_->text(out);
  }
  void end_token() override {
    strip_ = false;
    next_->end_token();
  }
  void end_stream() override { next_->end_stream(); }

 private:
  std::string replacement_;
  bool strip_;
};

class ByteFallback final : public DecoderStage {
 public:
  void text(std::string_view chunk) override { token_ += chunk; }
  void end_token() override {
    const int byte = byte_of(token_);
    if (byte >= 0) {
      run_ += static_cast<char>(byte);
    } else {
      release();
      next_->text(token_);
      next_->end_token();
    }
    token_.clear();
  }
  void end_stream() override {
    release();
    next_->end_stream();
  }

 private:
  // <0xHH>; "+H" is a number too where tokenizers reads it.
  static int byte_of(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
    int value = 0;
    for (std::size_t i = token[3] == '+' ? 4 : 3; i < 5; ++i) {
      const char c = token[i];
      const bool digit = c >= '0' && c <= '9';
      const char letter = static_cast<char>(c | 0x20);
      if (!digit && !(letter >= 'a' && letter <= 'f')) return -1;
      value = 16 * value + (digit ? c - '0' : letter - 'a' + 10);
    }
    return value;
  }
  // The whole run decides: one bad byte makes all of it replacement characters.
  void release() {
    if (run_.empty()) return;
    if (is_utf8(run_)) {
      next_->text(run_);
      next_->end_token();
    } else {
      for (std::size_t i = 0; i < run_.size(); ++i) {
        next_->text(kReplacementCharacter);
        next_->end_token();
      }
    }
    run_.clear();
  }
  std::string token_, run_;
};

class Fuse final : public DecoderStage {
 public:
  void text(std::string_view chunk) override { next_->text(chunk); }
  void end_token() override {}
  void end_stream() override {
    next_->end_token();
    next_->end_stream();
  }
};

class Strip final : public DecoderStage {
 public:
  Strip(char32_t content, std::size_t start, std::size_t stop) : start_(start), stop_(stop) {
    append_utf8(content_, content);
  }
  void text(std::string_view chunk) override {
    while (leading_ && stripped_ < start_ && chunk.starts_with(content_)) {
      chunk.remove_prefix(content_.size());
      ++stripped_;
    }
    if (chunk.empty()) return;
    leading_ = false;
    // Of the trailing contents the last `stop_` wait for the end of the token.
    held_ += chunk;
    std::size_t waiting = 0, end = held_.size();
    while (waiting < stop_ && std::string_view(held_).substr(0, end).ends_with(content_)) {
      end -= content_.size();
      ++waiting;
    }
    if (end > 0) next_->text(std::string_view(held_).substr(0, end));
    held_.erase(0, end);
  }
  void end_token() override {
    held_.clear();
    stripped_ = 0;
    leading_ = true;
    next_->end_token();
  }
  void end_stream() override { next_->end_stream(); }

 private:
  std::string content_, held_;
  std::size_t start_, stop_, stripped_ = 0;
  bool leading_ = true;
};

class Replace final : public DecoderStage {
 public:
  Replace(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void text(std::string_view chunk) override {
    held_ += chunk;
    const std::string* literal = pattern_.literal();
    if (literal == nullptr) return;  // what a regular expression matches is known at the end only
    std::size_t at = 0;
    std::string out;
    for (std::size_t found; (found = held_.find(*literal, at)) != std::string::npos;
         at = found + literal->size()) {
      out.append(held_, at, found - at);
      out += content_;
    }
    // Keep the longest end that a match could begin with.
    std::size_t keep = std::min(literal->size() - 1, held_.size() - at);
    while (keep > 0 && held_.compare(held_.size() - keep, keep, *literal, 0, keep) != 0) --keep;
    out.append(held_, at, held_.size() - keep - at);
    held_.erase(0, held_.size() - keep);
    if (!out.empty()) next_->text(out);
  }
  void end_token() override {
    std::string out;
    std::size_t last = 0;
    if (pattern_.literal() == nullptr) {
      pattern_.for_each_match(held_, [&](std::size_t begin, std::size_t end) {
        out.append(held_, last, begin - last);
        out += content_;
        last = end;
      });
    }
    out.append(held_, last);
    held_.clear();
    if (!out.empty()) next_->text(out);
    next_->end_token();
  }
  void end_stream() override { next_->end_stream(); }

 private:
  Pattern pattern_;
  std::string content_, held_;
};

class BpeSuffix final : public DecoderStage {
 public:
  explicit BpeSuffix(std::string suffix) : suffix_(std::move(suffix)) {}
  void text(std::string_view chunk) override {
    if (ended_) release(" ");
    token_ += chunk;
  }
  void end_token() override {
    if (ended_) release(" ");
    ended_ = true;
  }
  void end_stream() override {
    if (ended_) release("");
    next_->end_stream();
  }

 private:
  void release(std::string_view replacement) {
    std::string out;
    std::size_t at = 0;
    if (suffix_.empty()) {  // matches before every character and at the end, as in Rust
      for (; at < token_.size(); at += code_point_at(token_, at).length) {
        out += replacement;
        out.append(token_, at, code_point_at(token_, at).length);
      }
      out += replacement;
    } else {
      for (std::size_t found; (found = token_.find(suffix_, at)) != std::string::npos;
           at = found + suffix_.size()) {
        out.append(token_, at, found - at);
        out += replacement;
      }
      out.append(token_, at);
    }
    token_.clear();
    ended_ = false;
    if (!out.empty()) next_->text(out);
    next_->end_token();
  }
  std::string suffix_, token_;
  bool ended_ = false;  // token_ is whole, and waits to learn whether it is the last
};

}  // namespace

std::unique_ptr<DecoderStage> join_with_spaces() {
  return std::make_unique<JoinWithSpaces>();
}
std::unique_ptr<DecoderStage> decode_byte_level() {
  return std::make_unique<ByteLevel>();
}
std::unique_ptr<DecoderStage> decode_metaspace(char32_t replacement, bool strip_first) {
  return std::make_unique<Metaspace>(replacement, strip_first);
}
std::unique_ptr<DecoderStage> decode_byte_fallback() {
  return std::make_unique<ByteFallback>();
}
std::unique_ptr<DecoderStage> fuse() {
  return std::make_unique<Fuse>();
}
std::unique_ptr<DecoderStage> strip(char32_t content, std::size_t start, std::size_t stop) {
  return std::make_unique<Strip>(content, start, stop);
}
std::unique_ptr<DecoderStage> replace(Pattern pattern, std::string content) {
  return std::make_unique<Replace>(std::move(pattern), std::move(content));
}
std::unique_ptr<DecoderStage> decode_bpe_suffix(std::string suffix) {
  return std::make_unique<BpeSuffix>(std::move(suffix));
}

}  // namespace rarefy::tokenizer
