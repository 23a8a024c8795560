// One tiny random model of each family against transformers (tests/fixtures/make_models.py).
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <string>
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

struct Fixture {
  std::filesystem::path directory;
  std::vector<TokenId> ids, greedy_ids;
  std::vector<std::vector<float>> logits;  ///< One row a position.

  explicit Fixture(const std::string& name)
      : directory(testing::source_path("tests/fixtures/models/" + name)) {
    const Json json = parse_json(read_text(directory / "reference.json"), "reference.json");
    ids = json.at("ids").get<std::vector<TokenId>>();
    greedy_ids = json.at("greedy_ids").get<std::vector<TokenId>>();
    logits = json.at("logits").get<std::vector<std::vector<float>>>();
  }

  /// All logits within 2e-3 of the largest of their row: transformers and Rarefy both compute in
  /// f32 from the same bf16 weights.
  void expect_logits(const std::vector<float>& got) const {
    ASSERT_EQ(got.size(), ids.size() * logits[0].size());
    for (std::size_t t = 0; t < ids.size(); ++t) {
      float largest = 0;
      for (const float x : logits[t]) largest = std::max(largest, std::abs(x));
      for (std::size_t i = 0; i < logits[t].size(); ++i) {
        ASSERT_NEAR(got[t * logits[t].size() + i], logits[t][i], 2e-3F * largest)
            << "position " << t << ", id " << i;
      }
    }
  }

  [[nodiscard]] std::vector<float> run(Model& model, std::int64_t chunk = 512,
                                       DType kv = DType::kF32) const {
    KvCache cache(model.config(), static_cast<std::int64_t>(ids.size()), kv);
    return floats_of(model.forward(ids, cache, Model::Logits::kAll, chunk));
  }
};

class Families : public ::testing::TestWithParam<const char*> {};

TEST_P(Families, LogitsOfEveryPosition) {
  const Fixture fixture(GetParam());
  fixture.expect_logits(fixture.run(*load_dense(fixture.directory)));
}

TEST_P(Families, GreedyIds) {
  const Fixture fixture(GetParam());
  const auto model = load_dense(fixture.directory);
  KvCache cache(model->config(), static_cast<std::int64_t>(fixture.greedy_ids.size()));
  std::vector<TokenId> ids = fixture.ids;
  Buffer logits = model->forward(ids, cache);
  for (;;) {
    ids.push_back(argmax(logits.span<float>()));
    if (ids.size() == fixture.greedy_ids.size()) break;
    logits = model->forward(std::span(&ids.back(), 1), cache);
  }
  EXPECT_EQ(ids, fixture.greedy_ids);
}

TEST_P(Families, ChunksOfAnySizeGiveTheSameLogits) {
  const Fixture fixture(GetParam());
  const auto model = load_dense(fixture.directory);
  for (const std::int64_t chunk : {1, 3, 7, 23, 24}) {
    SCOPED_TRACE(chunk);
    fixture.expect_logits(fixture.run(*model, chunk));
  }
}

TEST_P(Families, HalfPrecisionCachesStayClose) {
  const Fixture fixture(GetParam());
  const auto model = load_dense(fixture.directory);
  const std::vector<float> exact = fixture.run(*model);
  for (const auto& [kv, tolerance] :
       {std::pair{DType::kF16, 0.01F}, std::pair{DType::kBF16, 0.08F}}) {
    const std::vector<float> got = fixture.run(*model, 512, kv);
    float largest = 0;
    for (const float x : exact) largest = std::max(largest, std::abs(x));
    for (std::size_t i = 0; i < got.size(); ++i)
      ASSERT_NEAR(got[i], exact[i], tolerance * largest) << to_string(kv);
  }
}

TEST_P(Families, TheSameBitsForAnyNumberOfThreads) {
  const Fixture fixture(GetParam());
  ThreadPool one(1);
  const std::vector<float> expected = fixture.run(*load_dense(fixture.directory, one), 9);
  for (const int threads : {2, 3}) {
    ThreadPool pool(threads);
    EXPECT_EQ(fixture.run(*load_dense(fixture.directory, pool), 9), expected) << threads;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Families,
                         ::testing::Values("llama", "llama-biases", "llama-rope-llama3",
                                           "llama-rope-linear", "mistral-window", "qwen2",
                                           "qwen2-window", "qwen3"),
                         [](const ::testing::TestParamInfo<const char*>& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace rarefy
