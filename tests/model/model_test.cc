// Whole models against the logits that transformers computes in f32.
#include "rarefy/model.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "model/support.h"
#include "shared_data.h"

namespace rarefy {
namespace {

using testing::argmax;
using testing::floats_of;
using testing::load_dense;

/// The logits after each prompt of a reference.json, the top five of them, and the greedy ids.
void expect_reference(const std::filesystem::path& directory) {
  const auto model = load_dense(directory);
  const Json reference =
      parse_json(read_text(directory / "reference.json"), "reference.json").at("reference");
  ASSERT_FALSE(reference.empty());
  for (const Json& entry : reference) {
    SCOPED_TRACE(entry.at("prompt").get<std::string>());
    const auto input = entry.at("input_ids").get<std::vector<TokenId>>();
    const auto greedy = entry.at("greedy_ids").get<std::vector<TokenId>>();
    KvCache cache(model->config(), static_cast<std::int64_t>(greedy.size()));
    std::vector<float> logits = floats_of(model->forward(input, cache));
    const auto top_ids = entry.at("top5_ids").get<std::vector<std::size_t>>();
    const auto top_logits = entry.at("top5_logits").get<std::vector<float>>();
    for (std::size_t i = 0; i < top_ids.size(); ++i)
      EXPECT_NEAR(logits[top_ids[i]], top_logits[i], 2e-3F * std::abs(top_logits[i]));
    std::vector<TokenId> ids = input;
    while (ids.size() < greedy.size()) {
      ids.push_back(argmax(logits));
      if (ids.size() < greedy.size())
        logits = floats_of(model->forward(std::vector<TokenId>{ids.back()}, cache));
    }
    EXPECT_EQ(ids, greedy);
  }
}

TEST(Model, TinyLmAsTransformersComputesIt) {
  expect_reference(testing::source_path("examples/models/tiny-lm"));
}

TEST(Model, SmallLmInThreeShardsAsTransformersComputesIt) {
  const auto path = testing::shared_path("models/small-lm");
  if (!path) GTEST_SKIP() << "needs shared/models/small-lm";
  expect_reference(*path);
}

}  // namespace
}  // namespace rarefy
