// Text from a model, and how well a model predicts text.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "rarefy/model.h"
#include "rarefy/progress.h"
#include "rarefy/tokenizer.h"

namespace rarefy {

/// How the next token is drawn; the steps apply in this order: repetition penalty, temperature,
/// top-k, top-p, min-p.
struct Sampling {
  float temperature = 0.0F;         ///< 0 is greedy: the largest logit, the lowest id among equals.
  int top_k = 0;                    ///< 0: off.
  float top_p = 1.0F;               ///< 1: off (Holtzman et al. 2020).
  float min_p = 0.0F;               ///< 0: off (Nguyen et al. 2024).
  float repetition_penalty = 1.0F;  ///< 1: off (Keskar et al. 2019).
  std::uint64_t seed = 0;
};

class Sampler {
 public:
  explicit Sampler(const Sampling& sampling);  ///< Throws `Error` for values out of range.
  ~Sampler();
  /// Draws from `logits` (left as they are), `history` being the ids so far. The same seed gives
  /// the same ids on every machine.
  TokenId draw(std::span<const float> logits, std::span<const TokenId> history);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

struct GenerateOptions {
  Sampling sampling;
  std::int64_t max_tokens = 128;
  /// The text ends before any of these strings.
  std::vector<std::string> stop;
  bool stop_at_eos = true;
  std::int64_t prefill_chunk = 0;  ///< As `chunk` of Model::forward.
  std::optional<DType> kv_dtype;   ///< Of the KV cache; unset: `Model::kv_dtype`.
};

struct Generation {
  std::vector<TokenId> prompt_ids, ids;  ///< `ids`: the new ones, an end-of-text token included.
  std::string text;                      ///< Of `ids`.
  double prefill_s = 0, decode_s = 0;
  double tokens_per_s = 0;  ///< New tokens after the first over decode_s.
  std::string finish;       ///< "length", "eos", "stop" or "cancelled".
};

/// Goes on from `prompt` until `max_tokens`, the end of the model's context, an end-of-text token
/// or a stop string. Throws `Error` for a prompt longer than the context, and for an empty one when
/// the model has no token to begin with.
/// @param on_text called with each piece of text as it becomes final; returning false ends the
/// generation.
Generation generate(Model& model, const std::shared_ptr<const Tokenizer>& tokenizer,
                    std::string_view prompt, const GenerateOptions& options,
                    const std::function<bool(std::string_view)>& on_text = {});

struct Perplexity {
  double nll = 0;            ///< Mean over windows of the mean loss of a window, in nats.
  double ppl = 0;            ///< exp(nll)
  double bits_per_byte = 0;  ///< nll in bits · tokens of the text / bytes of the text
  std::int64_t windows = 0, context = 0, tokens = 0;
};

/// Tokenises `text` once, without special tokens, cuts it into windows of `context` tokens, drops
/// the tail; the loss of a window is the mean over its context-1 targets. Throws `Error` when the
/// text is shorter than one window or the context longer than the model's.
Perplexity perplexity(Model& model, const Tokenizer& tokenizer, std::string_view text,
                      std::int64_t context, std::int64_t max_windows = 0,
                      Progress& progress = no_progress());

}  // namespace rarefy
