// The forward pass and its cache at the edges; the layer stream beside the model.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "model/support.h"
#include "rarefy/error.h"
#include "rarefy/transformer_ops.h"
#include "shared_data.h"

namespace rarefy {
namespace {

using testing::floats_of;
using testing::load_dense;

std::filesystem::path tiny_lm() {
  return testing::source_path("examples/models/tiny-lm");
}

const std::vector<TokenId> kIds{0, 482, 1617, 272, 302, 283, 1855, 540, 336};

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(Forward, TheLastLogitsAreTheLastRowOfAll) {
  const auto model = load_dense(tiny_lm());
  KvCache a(model->config(), 9);
  KvCache b(model->config(), 9);
  const std::vector<float> all = floats_of(model->forward(kIds, a, Model::Logits::kAll));
  const std::vector<float> last = floats_of(model->forward(kIds, b));
  ASSERT_EQ(all.size(), 9U * 2048U);
  ASSERT_EQ(last.size(), 2048U);
  for (std::size_t i = 0; i < 2048; ++i) ASSERT_NEAR(all[8 * 2048 + i], last[i], 1e-4F);
}

TEST(Forward, ATruncatedCacheGoesOnFromThere) {
  const auto model = load_dense(tiny_lm());
  KvCache cache(model->config(), 12);
  model->forward(kIds, cache);
  const std::vector<float> expected = floats_of(model->forward(std::vector<TokenId>{260}, cache));
  EXPECT_EQ(cache.size(), 10);
  model->forward(std::vector<TokenId>{7, 8}, cache);
  cache.truncate(9);
  EXPECT_EQ(floats_of(model->forward(std::vector<TokenId>{260}, cache)), expected);
  EXPECT_THROW(cache.truncate(11), Error);
  EXPECT_THROW(cache.truncate(-1), Error);
}

TEST(Forward, SaysWhatIsWrongAndLeavesTheCacheAsItWas) {
  const auto model = load_dense(tiny_lm());
  KvCache cache(model->config(), 4);
  EXPECT_EQ(error_of([&] { model->forward(kIds, cache); }),
            "model: cache: expected room for 9 tokens after 0, got a capacity of 4");
  EXPECT_EQ(error_of([&] { model->forward(std::vector<TokenId>{2048}, cache); }),
            "model: token ids: expected 0…2047, got 2048");
  EXPECT_EQ(error_of([&] { model->forward(std::vector<TokenId>{-1}, cache); }),
            "model: token ids: expected 0…2047, got -1");
  EXPECT_EQ(error_of([&] { model->forward({}, cache); }),
            "model: token ids: expected at least one, got none");
  ModelConfig other = model->config();
  other.layers = 2;
  KvCache wrong(other, 20);
  EXPECT_EQ(error_of([&] { model->forward(kIds, wrong); }),
            "model: cache: expected 6 layers of 64, got 2 of 64");
  EXPECT_EQ(cache.size(), 0);
}

TEST(KvCache, CountsItsBytes) {
  const auto config = ModelConfig::load(tiny_lm());
  EXPECT_EQ(KvCache(config, 100).bytes(), 2U * 6U * 100U * 64U * 4U);
  EXPECT_EQ(KvCache(config, 100, DType::kBF16).bytes(), 2U * 6U * 100U * 64U * 2U);
  EXPECT_THROW(KvCache(config, 100, DType::kI8), Error);
  KvCache cache(config, 3);
  EXPECT_THROW(cache.append(4), Error);
}

/// Hidden states after all layers of a stream.
std::vector<float> stream_through(LayerStream& stream, const ModelConfig& config,
                                  std::map<std::string, std::vector<std::int64_t>>* seen) {
  Buffer hidden = stream.embed(kIds);
  const auto tokens = static_cast<std::int64_t>(kIds.size());
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    stream.load(layer);
    stream.forward(matrix_ref(hidden.as<float>(), tokens, config.hidden_size),
                   [&](std::string_view name, ConstMatrixRef x) {
                     if (seen != nullptr) (*seen)[std::string(name)] = {x.rows, x.cols};
                   });
  }
  return floats_of(hidden);
}

TEST(LayerStream, RunsTheLayersOfTheModelAndShowsEveryInput) {
  const auto model = load_dense(tiny_lm());
  const ModelConfig& config = model->config();
  const auto checkpoint = Checkpoint::open(tiny_lm());
  LayerStream stream(checkpoint, config);
  std::map<std::string, std::vector<std::int64_t>> seen;
  std::vector<float> hidden = stream_through(stream, config, &seen);
  EXPECT_EQ(seen.size(), 7U * 6U);
  EXPECT_EQ(seen.at("model.layers.5.mlp.down_proj.weight"), (std::vector<std::int64_t>{9, 512}));
  EXPECT_EQ(seen.at("model.layers.0.self_attn.k_proj.weight"), (std::vector<std::int64_t>{9, 192}));

  // Norm and head by hand give the model's logits.
  rms_norm(matrix_ref(hidden.data(), 9, 192), checkpoint->floats("model.norm.weight"),
           static_cast<float>(config.rms_eps), matrix_ref(hidden.data(), 9, 192));
  const auto head = pack(*checkpoint->source("model.embed_tokens.weight"), format::kDense);
  std::vector<float> logits(9 * 2048);
  SpmmArgs args;
  args.b = matrix_ref(static_cast<const float*>(hidden.data()), 9, 192);
  args.c = matrix_ref(logits.data(), 9, 2048);
  spmm(*head, args);
  KvCache cache(config, 9);
  const std::vector<float> expected = floats_of(model->forward(kIds, cache, Model::Logits::kAll));
  // Both keep at least 16 bits of every activation through six layers.
  for (std::size_t i = 0; i < logits.size(); ++i) ASSERT_NEAR(logits[i], expected[i], 2e-3F) << i;
}

TEST(LayerStream, AReplacedWeightChangesWhatFollows) {
  const auto config = ModelConfig::load(tiny_lm());
  LayerStream stream(Checkpoint::open(tiny_lm()), config);
  EXPECT_THROW(stream.forward({}, {}), Error);  // no layer yet
  EXPECT_THROW(stream.load(6), Error);
  stream.load(0);
  Buffer hidden = stream.embed(kIds);
  const std::vector<float> before = floats_of(hidden);
  // Without their output weights attention and feed-forward add nothing.
  const std::vector<float> zeros(192 * 512, 0.0F);
  const auto zero = [&](std::int64_t cols) {
    return std::make_shared<DenseSource>(matrix_ref(zeros.data(), 192, cols));
  };
  stream.replace("model.layers.0.self_attn.o_proj.weight", zero(192));
  stream.replace("model.layers.0.mlp.down_proj.weight", zero(512));
  stream.forward(matrix_ref(hidden.as<float>(), 9, 192), {});
  EXPECT_EQ(floats_of(hidden), before);
  EXPECT_EQ(error_of([&] { stream.replace("model.layers.0.mlp.down_proj.weight", zero(192)); }),
            "layer stream: model.layers.0.mlp.down_proj.weight: expected 192x512, got "
            "192x192");
  EXPECT_THROW(stream.replace("model.layers.1.mlp.down_proj.weight", zero(512)), Error);
}

TEST(LayerStream, APrunedWeightIsMultipliedExactlyHoweverItIsKept) {
  // Three quarters are zero: kept as a bitmap where that is fast.
  const auto config = ModelConfig::load(tiny_lm());
  LayerStream stream(Checkpoint::open(tiny_lm()), config);
  std::vector<float> values(192 * 512);
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = i % 4 == i / 512 % 4 ? static_cast<float>(i % 13) / 16.0F - 0.375F : 0.0F;
  const auto pruned =
      std::make_shared<DenseSource>(matrix_ref(static_cast<const float*>(values.data()), 192, 512));
  const std::vector<float> zeros(192 * 512, 0.0F);
  const std::string name = "model.layers.0.mlp.down_proj.weight";
  stream.load(0);
  stream.replace(name, std::make_shared<DenseSource>(matrix_ref(zeros.data(), 192, 512)));
  Buffer without = stream.embed(kIds);
  std::vector<float> x;  // What goes into the weight.
  stream.forward(matrix_ref(without.as<float>(), 9, 192),
                 [&](std::string_view seen, ConstMatrixRef input) {
                   if (seen != name) return;
                   for (std::int64_t t = 0; t < input.rows; ++t)
                     x.insert(x.end(), input.row<float>(t), input.row<float>(t) + input.cols);
                 });
  stream.replace(name, pruned);
  Buffer with = stream.embed(kIds);
  stream.forward(matrix_ref(with.as<float>(), 9, 192), {});

  std::vector<double> expected(9 * 192);
  SpmmArgs args;
  args.b = matrix_ref(static_cast<const float*>(x.data()), 9, 512);
  args.c = {expected.data(), DType::kF64, 9, 192, 192};
  spmm_reference(*pruned, args);
  const std::vector<float> low = floats_of(without);
  const std::vector<float> high = floats_of(with);
  // Activations keep 16 bits where they are split for matrix units.
  for (std::size_t i = 0; i < expected.size(); ++i)
    ASSERT_NEAR(high[i] - low[i], expected[i], 1e-3 * (1 + std::abs(expected[i]))) << i;
}

}  // namespace
}  // namespace rarefy
