// tiny-lm through the C API, against what transformers says (reference.json).
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "base/files.h"
#include "base/json.h"
#include "capi/c_program.h"
#include "capi/support.h"
#include "rarefy/c.h"

namespace rarefy {
namespace {

using testing::ModelHandle;
using testing::source_path;

Json reference() {
  const auto path = source_path("examples/models/tiny-lm/reference.json");
  return parse_json(read_text(path), path.string());
}

TEST(CApi, WorksFromAProgramInC) {
  const char* failed = run_c_program(source_path("examples/models/tiny-lm").c_str());
  EXPECT_EQ(failed, nullptr) << failed << "; last error: " << rarefy_last_error();
}

TEST(CApiModel, DescribesTinyLm) {
  const ModelHandle model;
  rarefy_model_description info = {sizeof(info)};
  ASSERT_EQ(rarefy_model_info(model.get(), &info), RAREFY_OK);
  EXPECT_EQ(info.parameters, reference().at("params").get<std::int64_t>());
  EXPECT_EQ(info.vocab_size, 2048);
  EXPECT_GT(info.layers, 0);
  EXPECT_GT(info.hidden_size, 0);
  EXPECT_GT(info.context, 0);
  EXPECT_GE(info.dense_weight_bytes, 2 * static_cast<std::uint64_t>(info.parameters));
  EXPECT_GT(info.weight_bytes, 0U);
  EXPECT_STREQ(info.device, "cpu");
  EXPECT_STREQ(info.gpu_note, "");
}

TEST(CApiModel, GeneratesTheReferenceTexts) {
  const ModelHandle model;
  const Json document = reference();
  for (const Json& one : document.at("reference")) {
    const auto prompt = one.at("prompt").get<std::string>();
    const auto prompt_tokens = one.at("input_ids").size();
    rarefy_generate_options options = {sizeof(options)};
    options.max_tokens = static_cast<std::int64_t>(one.at("greedy_ids").size() - prompt_tokens);
    std::string streamed;
    const auto append = [](const char* text, std::size_t bytes, void* user) -> std::int32_t {
      static_cast<std::string*>(user)->append(text, bytes);
      return 0;
    };
    char* text = nullptr;
    rarefy_generation result = {sizeof(result)};
    ASSERT_EQ(rarefy_generate(model.get(), prompt.data(), prompt.size(), &options, append,
                              &streamed, &text, &result),
              RAREFY_OK)
        << rarefy_last_error();
    EXPECT_EQ(prompt + text, one.at("greedy_text").get<std::string>());
    EXPECT_EQ(streamed, text);
    EXPECT_EQ(result.text_bytes, streamed.size());
    EXPECT_EQ(result.prompt_tokens, static_cast<std::int64_t>(prompt_tokens));
    EXPECT_EQ(result.new_tokens, options.max_tokens);
    rarefy_string_free(text);
  }
}

TEST(CApiModel, EndsWhereItIsTold) {
  const ModelHandle model;
  const std::string prompt = "Once upon a time";
  const char* stop[] = {"money", "able"};
  rarefy_generate_options options = {sizeof(options)};
  options.stop = stop;
  options.stop_count = 2;
  char* text = nullptr;
  rarefy_generation result = {sizeof(result)};
  ASSERT_EQ(rarefy_generate(model.get(), prompt.data(), prompt.size(), &options, nullptr, nullptr,
                            &text, &result),
            RAREFY_OK);
  EXPECT_STREQ(text, ", I shall be ");
  EXPECT_EQ(result.finish, RAREFY_FINISH_STOP);
  rarefy_string_free(text);

  int calls = 0;
  const auto second_is_enough = [](const char*, std::size_t, void* user) -> std::int32_t {
    return ++*static_cast<int*>(user) == 2 ? 1 : 0;
  };
  ASSERT_EQ(rarefy_generate(model.get(), prompt.data(), prompt.size(), nullptr, second_is_enough,
                            &calls, nullptr, &result),
            RAREFY_OK);
  EXPECT_EQ(calls, 2);
  EXPECT_EQ(result.finish, RAREFY_FINISH_CANCELLED);
}

TEST(CApiModel, RefusesASecondCallMeanwhile) {
  const ModelHandle model;
  struct Seen {
    rarefy_model* model;
    rarefy_status status;
  } seen{model.get(), RAREFY_OK};
  const auto call_again = [](const char*, std::size_t, void* user) -> std::int32_t {
    auto& s = *static_cast<Seen*>(user);
    s.status = rarefy_generate(s.model, "a", 1, nullptr, nullptr, nullptr, nullptr, nullptr);
    return 1;
  };
  ASSERT_EQ(rarefy_generate(model.get(), "Once", 4, nullptr, call_again, &seen, nullptr, nullptr),
            RAREFY_OK);
  EXPECT_EQ(seen.status, RAREFY_INVALID_ARGUMENT);
}

TEST(CApiModel, MeasuresPerplexity) {
  const ModelHandle model;
  const std::string text = read_text(source_path("examples/text/heldout.txt"));
  rarefy_perplexity_result result = {sizeof(result)};
  ASSERT_EQ(rarefy_perplexity(model.get(), text.data(), text.size(), 64, 4, &result), RAREFY_OK)
      << rarefy_last_error();
  EXPECT_EQ(result.windows, 4);
  EXPECT_NEAR(result.ppl, std::exp(result.nll), 1e-9 * result.ppl);
  // A model that knows nothing has the vocabulary's 2048.
  EXPECT_GT(result.ppl, 2);
  EXPECT_LT(result.ppl, 500);
  EXPECT_GT(result.bits_per_byte, 0);
}

}  // namespace
}  // namespace rarefy
