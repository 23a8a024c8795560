#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"
#include "ops/activation/cpu/kernels.h"
#include "rarefy/generate.h"

namespace rarefy {
namespace {

/// Logits of one forward pass stay below this: a vocabulary times a window may be gigabytes.
constexpr std::int64_t kLogitBytes = std::int64_t{64} << 20;

/// Σ over tokens of -log p(target), logits being tokens×vocab.
double summed_loss(std::span<const float> logits, std::span<const TokenId> targets,
                   ThreadPool& pool) {
  const auto tokens = static_cast<std::int64_t>(targets.size());
  const std::size_t vocab = logits.size() / targets.size();
  std::vector<double> losses(targets.size());
  const auto log_sum_exp = activation::kernels().log_sum_exp;
  pool.parallel_for(tokens, [&](std::int64_t begin, std::int64_t end) {
    for (auto t = static_cast<std::size_t>(begin); t < static_cast<std::size_t>(end); ++t) {
      const float* row = logits.data() + t * vocab;
      const auto target = static_cast<std::size_t>(targets[t]);
      losses[t] = log_sum_exp(row, static_cast<std::int64_t>(vocab)) - double{row[target]};
    }
  });
  double sum = 0;
  for (const double loss : losses) sum += loss;
  return sum;
}

double window_loss(Model& model, KvCache& cache, std::span<const TokenId> window,
                   std::int64_t piece, ThreadPool& pool) {
  cache.truncate(0);
  const std::size_t targets = window.size() - 1;
  double sum = 0;
  for (std::size_t begin = 0; begin < targets; begin += static_cast<std::size_t>(piece)) {
    const std::size_t tokens = std::min(static_cast<std::size_t>(piece), targets - begin);
    const Buffer logits =
        model.forward(window.subspan(begin, tokens), cache, Model::Logits::kAll, piece);
    sum += summed_loss(logits.span<float>(), window.subspan(begin + 1, tokens), pool);
  }
  return sum / static_cast<double>(targets);
}

}  // namespace

Perplexity perplexity(Model& model, const Tokenizer& tokenizer, std::string_view text,
                      std::int64_t context, std::int64_t max_windows, Progress& progress) {
  const ModelConfig& config = model.config();
  require(context >= 2 && context <= config.max_positions,
          "perplexity: context: expected 2…{} tokens (the model's context), got {}",
          config.max_positions, context);
  require(max_windows >= 0, "perplexity: max_windows: expected >= 0, got {}", max_windows);
  const std::vector<TokenId> ids = tokenizer.encode(text, false);
  Perplexity result;
  result.context = context;
  result.windows = static_cast<std::int64_t>(ids.size()) / context;
  require(result.windows > 0, "perplexity: text: expected at least {} tokens, got {}", context,
          ids.size());
  if (max_windows > 0) result.windows = std::min(result.windows, max_windows);
  result.tokens = result.windows * context;

  const std::int64_t row_bytes = config.vocab_size * static_cast<std::int64_t>(sizeof(float));
  const std::int64_t piece = std::clamp<std::int64_t>(kLogitBytes / row_bytes, 16, 1024);
  KvCache cache(config, context, model.kv_dtype());
  double sum = 0;
  for (std::int64_t w = 0; w < result.windows; ++w) {
    const auto window = std::span(ids).subspan(static_cast<std::size_t>(w * context),
                                               static_cast<std::size_t>(context));
    sum += window_loss(model, cache, window, piece, model.pool());
    progress.update("perplexity", w + 1, result.windows, "");
  }
  result.nll = sum / static_cast<double>(result.windows);
  result.ppl = std::exp(result.nll);
  result.bits_per_byte = result.nll / std::numbers::ln2 * static_cast<double>(ids.size()) /
                         static_cast<double>(text.size());
  return result;
}

}  // namespace rarefy
