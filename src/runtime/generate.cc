#include "rarefy/generate.h"

#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "runtime/stop_strings.h"

namespace rarefy {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

std::vector<TokenId> encode_prompt(const Model& model, const Tokenizer& tokenizer,
                                   std::string_view prompt) {
  std::vector<TokenId> ids = tokenizer.encode(prompt);
  const ModelConfig& config = model.config();
  if (ids.empty()) {
    require(config.bos_id.has_value(),
            "generate: prompt: expected text, got none, and the model has no token to begin with");
    ids.push_back(static_cast<TokenId>(*config.bos_id));
  }
  require(static_cast<std::int64_t>(ids.size()) <= config.max_positions,
          "generate: prompt: expected at most {} tokens (the model's context), got {}",
          config.max_positions, ids.size());
  return ids;
}

/// The text side of a generation: ids in, final pieces of text out.
class TextOut {
 public:
  TextOut(const std::shared_ptr<const Tokenizer>& tokenizer, std::span<const TokenId> prompt,
          const std::vector<std::string>& stop,
          const std::function<bool(std::string_view)>& on_text)
      : stream_(tokenizer), stop_(stop), on_text_(on_text) {
    // The stream has seen the prompt, so that the first new token keeps the space before it.
    for (const TokenId id : prompt) stream_.push(id);
  }

  void push(TokenId id) { emit(stop_.push(stream_.push(id))); }
  void finish() {
    if (!stop_.found()) emit(stop_.push(stream_.flush()));
    if (!stop_.found()) emit(stop_.flush());
  }
  [[nodiscard]] bool stopped() const { return stop_.found(); }
  [[nodiscard]] bool cancelled() const { return cancelled_; }
  [[nodiscard]] const std::string& text() const { return text_; }

 private:
  void emit(const std::string& piece) {
    if (piece.empty() || cancelled_) return;
    text_ += piece;
    if (on_text_ && !on_text_(piece)) cancelled_ = true;
  }

  TextStream stream_;
  runtime::StopStrings stop_;
  const std::function<bool(std::string_view)>& on_text_;
  std::string text_;
  bool cancelled_ = false;
};

}  // namespace

Generation generate(Model& model, const std::shared_ptr<const Tokenizer>& tokenizer,
                    std::string_view prompt, const GenerateOptions& options,
                    const std::function<bool(std::string_view)>& on_text) {
  require(options.max_tokens >= 0, "generate: max_tokens: expected >= 0, got {}",
          options.max_tokens);
  const ModelConfig& config = model.config();
  Sampler sampler(options.sampling);
  Generation result;
  result.prompt_ids = encode_prompt(model, *tokenizer, prompt);
  result.finish = "length";
  // The last token that is drawn needs no place in the cache.
  const auto prompt_tokens = static_cast<std::int64_t>(result.prompt_ids.size());
  const std::int64_t limit = std::min(options.max_tokens, config.max_positions - prompt_tokens + 1);
  KvCache cache(config, prompt_tokens + std::max<std::int64_t>(0, limit - 1),
                options.kv_dtype.value_or(model.kv_dtype()));

  const auto begin = Clock::now();
  Buffer logits =
      model.forward(result.prompt_ids, cache, Model::Logits::kLast, options.prefill_chunk);
  result.prefill_s = seconds_since(begin);

  TextOut out(tokenizer, result.prompt_ids, options.stop, on_text);
  std::vector<TokenId> history = result.prompt_ids;
  const auto decode_begin = Clock::now();
  // A greedy choice is made where the model runs: on a GPU the logits stay there.
  const bool greedy =
      options.sampling.temperature == 0.0F && options.sampling.repetition_penalty == 1.0F;
  KvCache* const caches[] = {&cache};
  TokenId id = sampler.draw(logits.span<float>(), history);
  while (static_cast<std::int64_t>(result.ids.size()) < limit) {
    history.push_back(id);
    result.ids.push_back(id);
    if (options.stop_at_eos &&
        std::find(config.eos_ids.begin(), config.eos_ids.end(), id) != config.eos_ids.end()) {
      result.finish = "eos";
      break;
    }
    out.push(id);
    if (out.stopped() || out.cancelled()) {
      result.finish = out.stopped() ? "stop" : "cancelled";
      break;
    }
    if (static_cast<std::int64_t>(result.ids.size()) >= limit) break;
    if (greedy) {
      id = model.decode_greedy({&id, 1}, caches).front();
    } else {
      logits = model.forward({&id, 1}, cache);
      id = sampler.draw(logits.span<float>(), history);
    }
  }
  result.decode_s = seconds_since(decode_begin);
  out.finish();
  if (out.stopped()) result.finish = "stop";
  result.text = out.text();
  if (result.ids.size() > 1 && result.decode_s > 0)
    result.tokens_per_s = static_cast<double>(result.ids.size() - 1) / result.decode_s;
  return result;
}

}  // namespace rarefy
