// Text end to end: prompts, stops, streams, perplexity.
#include "rarefy/generate.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "model/support.h"
#include "rarefy/error.h"
#include "shared_data.h"

namespace rarefy {
namespace {

using testing::load_dense;

struct Loaded {
  std::filesystem::path directory;
  std::unique_ptr<Model> model;
  std::shared_ptr<const Tokenizer> tokenizer;

  explicit Loaded(const std::filesystem::path& path)
      : directory(path), model(load_dense(path)), tokenizer(Tokenizer::load(path)) {}
};

Loaded& tiny_lm() {
  static Loaded loaded(testing::source_path("examples/models/tiny-lm"));
  return loaded;
}

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

void expect_reference_texts(Loaded& l) {
  const Json reference = parse_json(read_text(l.directory / "reference.json"), "reference.json");
  for (const Json& entry : reference.at("reference")) {
    const auto prompt = entry.at("prompt").get<std::string>();
    SCOPED_TRACE(prompt);
    const auto greedy = entry.at("greedy_ids").get<std::vector<TokenId>>();
    const auto input = entry.at("input_ids").get<std::vector<TokenId>>();
    GenerateOptions options;
    options.max_tokens = static_cast<std::int64_t>(greedy.size() - input.size());
    options.stop_at_eos = false;
    std::string streamed;
    const Generation result =
        generate(*l.model, l.tokenizer, prompt, options, [&](std::string_view piece) {
          streamed += piece;
          return true;
        });
    EXPECT_EQ(result.prompt_ids, input);
    std::vector<TokenId> ids = result.prompt_ids;
    ids.insert(ids.end(), result.ids.begin(), result.ids.end());
    EXPECT_EQ(ids, greedy);
    EXPECT_EQ(prompt + result.text, entry.at("greedy_text").get<std::string>());
    EXPECT_EQ(streamed, result.text);
    EXPECT_EQ(result.finish, "length");
    EXPECT_GT(result.tokens_per_s, 0);
  }
}

TEST(Generate, TinyLmWritesWhatTransformersWrites) {
  expect_reference_texts(tiny_lm());
}

TEST(Generate, SmallLmWritesWhatTransformersWrites) {
  const auto path = testing::shared_path("models/small-lm");
  if (!path) GTEST_SKIP() << "needs shared/models/small-lm";
  Loaded loaded(*path);
  expect_reference_texts(loaded);
}

TEST(Generate, Stories260kBeginsAsEveryoneKnows) {
  const auto path = testing::shared_path("models/stories260k");
  if (!path) GTEST_SKIP() << "needs shared/models/stories260k";
  Loaded l(*path);
  GenerateOptions options;
  options.max_tokens = 80;
  const Generation result = generate(*l.model, l.tokenizer, "", options);
  EXPECT_EQ(result.prompt_ids, std::vector<TokenId>{1});
  const std::string expected =
      "Once upon a time, there was a little girl named Lily. She loved to play outside in the "
      "park. One day, she saw a big, red ball.";
  EXPECT_EQ(result.text.substr(result.text.find_first_not_of(' ')).substr(0, expected.size()),
            expected);
}

TEST(Generate, StopStringsEndTheTextBeforeThem) {
  GenerateOptions options;
  options.max_tokens = 48;
  options.stop = {"be able", "never there"};
  const Generation result =
      generate(*tiny_lm().model, tiny_lm().tokenizer, "Once upon a time", options);
  EXPECT_EQ(result.text, ", I shall ");
  EXPECT_EQ(result.finish, "stop");
  EXPECT_LT(result.ids.size(), 12U);
}

TEST(Generate, TheCallerMayCancel) {
  GenerateOptions options;
  options.max_tokens = 48;
  int pieces = 0;
  const Generation result = generate(*tiny_lm().model, tiny_lm().tokenizer, "Once upon a time",
                                     options, [&](std::string_view) { return ++pieces < 3; });
  EXPECT_EQ(result.finish, "cancelled");
  EXPECT_EQ(pieces, 3);
  EXPECT_LE(result.ids.size(), 6U);
}

TEST(Generate, EndsAtAnEndOfTextToken) {
  // The greedy text goes ", I shall be": here " I" (307) is made an end-of-text token.
  const auto folder =
      std::filesystem::temp_directory_path() / ("rarefy-eos-" + std::to_string(getpid()));
  std::filesystem::copy(testing::source_path("examples/models/tiny-lm"), folder,
                        std::filesystem::copy_options::recursive);
  std::ofstream(folder / "generation_config.json") << R"({"eos_token_id": [1, 307]})";
  {
    const Loaded l(folder);
    GenerateOptions options{.max_tokens = 10};
    const Generation ended = generate(*l.model, l.tokenizer, "Once upon a time", options);
    EXPECT_EQ(ended.finish, "eos");
    EXPECT_EQ(ended.ids, (std::vector<TokenId>{13, 307}));
    EXPECT_EQ(ended.text, ",");
    options.stop_at_eos = false;
    EXPECT_EQ(generate(*l.model, l.tokenizer, "Once upon a time", options).ids.size(), 10U);
  }
  std::filesystem::remove_all(folder);
}

TEST(Generate, EndsWithTheContext) {
  GenerateOptions options{.max_tokens = 400, .stop_at_eos = false};
  const Generation result = generate(*tiny_lm().model, tiny_lm().tokenizer, "The", options);
  EXPECT_EQ(result.finish, "length");
  // The last token needs no place in the context of 256.
  EXPECT_EQ(result.prompt_ids.size() + result.ids.size(), 257U);
}

TEST(Generate, TheSameSeedGivesTheSameTextAndAnotherSeedAnother) {
  GenerateOptions options;
  options.max_tokens = 20;
  options.sampling = {.temperature = 1.0F, .top_k = 50, .top_p = 0.95F, .seed = 11};
  const auto ids = [&] {
    return generate(*tiny_lm().model, tiny_lm().tokenizer, "The sea", options).ids;
  };
  const auto first = ids();
  EXPECT_EQ(ids(), first);
  options.sampling.seed = 12;
  EXPECT_NE(ids(), first);
}

TEST(Generate, HalfPrecisionCachesAndSmallChunksWriteTheSame) {
  const auto text = [&](DType kv, std::int64_t chunk) {
    GenerateOptions options{.max_tokens = 12, .prefill_chunk = chunk, .kv_dtype = kv};
    return generate(*tiny_lm().model, tiny_lm().tokenizer, "The capital of France is", options)
        .text;
  };
  const std::string expected = text(DType::kF32, 512);
  EXPECT_EQ(text(DType::kF32, 2), expected);
  EXPECT_EQ(text(DType::kF16, 512), expected);
}

TEST(Generate, SaysWhatIsWrongWithAPrompt) {
  std::string longer;
  for (int i = 0; i < 300; ++i) longer += "word ";
  EXPECT_EQ(error_of([&] { generate(*tiny_lm().model, tiny_lm().tokenizer, longer, {}); }),
            "generate: prompt: expected at most 256 tokens (the model's context), got 303");
  EXPECT_EQ(generate(*tiny_lm().model, tiny_lm().tokenizer, "", {.max_tokens = 1}).prompt_ids,
            std::vector<TokenId>{0});
  EXPECT_EQ(
      error_of([&] { generate(*tiny_lm().model, tiny_lm().tokenizer, "a", {.max_tokens = -1}); }),
      "generate: max_tokens: expected >= 0, got -1");
}

/// What transformers computes in f32 on the same windows; the whole file gives 50.96.
TEST(Perplexity, OfTinyLmOnTheFirstFortyWindowsOfWikiText) {
  const auto path = testing::shared_path("data/text/wiki.test.raw");
  if (!path) GTEST_SKIP() << "needs shared/data/text/wiki.test.raw";
  Loaded& l = tiny_lm();
  const Perplexity p = perplexity(*l.model, *l.tokenizer, read_text(*path), 256, 40);
  EXPECT_EQ(p.windows, 40);
  EXPECT_EQ(p.context, 256);
  EXPECT_EQ(p.tokens, 40 * 256);
  EXPECT_NEAR(p.ppl, 60.578498, 0.0005 * 60.578498);
  EXPECT_DOUBLE_EQ(p.ppl, std::exp(p.nll));
}

TEST(Perplexity, ByHandFromTheLogits) {
  Loaded& l = tiny_lm();
  std::string text;
  for (int i = 0; i < 6; ++i) text += "In the year 1815, the capital of France was Paris. ";
  const std::vector<TokenId> ids = l.tokenizer->encode(text, false);
  constexpr std::size_t kContext = 24;
  const std::size_t windows = ids.size() / kContext;
  ASSERT_GE(windows, 2U);
  double sum = 0;
  for (std::size_t w = 0; w < windows; ++w) {
    KvCache cache(l.model->config(), kContext);
    const auto window = std::span(ids).subspan(w * kContext, kContext);
    const Buffer logits = l.model->forward(window, cache, Model::Logits::kAll);
    for (std::size_t t = 0; t + 1 < kContext; ++t) {
      double total = 0;
      const auto row = logits.span<float>().subspan(t * 2048, 2048);
      for (const float x : row) total += std::exp(double{x});
      sum += std::log(total) - double{row[static_cast<std::size_t>(window[t + 1])]};
    }
  }
  const double nll = sum / static_cast<double>(windows * (kContext - 1));
  const Perplexity p = perplexity(*l.model, *l.tokenizer, text, kContext);
  EXPECT_EQ(p.windows, static_cast<std::int64_t>(windows));
  EXPECT_NEAR(p.nll, nll, 1e-4);
  EXPECT_NEAR(
      p.bits_per_byte,
      nll / std::log(2.0) * static_cast<double>(ids.size()) / static_cast<double>(text.size()),
      1e-4);
}

TEST(Perplexity, SaysWhatIsWrong) {
  Loaded& l = tiny_lm();
  EXPECT_EQ(error_of([&] { perplexity(*l.model, *l.tokenizer, "short", 64); }),
            "perplexity: text: expected at least 64 tokens, got 3");
  EXPECT_EQ(error_of([&] { perplexity(*l.model, *l.tokenizer, "short", 257); }),
            "perplexity: context: expected 2…256 tokens (the model's context), got 257");
}

}  // namespace
}  // namespace rarefy
