#include "compress/targets.h"

#include <gtest/gtest.h>

namespace rarefy::compress {
namespace {

const std::string kQuery = "model.layers.1.self_attn.q_proj.weight";
const std::string kUp = "model.layers.11.mlp.up_proj.weight";
const std::string kHead = "lm_head.weight";

bool matches(const std::string& target, const std::string& name) {
  return TargetMatcher({target}).match(name) == 0;
}

TEST(Targets, NamesMatchWholeParts) {
  EXPECT_TRUE(matches("q_proj", kQuery));
  EXPECT_TRUE(matches("self_attn.q_proj", kQuery));
  EXPECT_TRUE(matches("model.layers.1.self_attn.q_proj", kQuery));
  EXPECT_TRUE(matches("model.layers.1.self_attn.q_proj.weight", kQuery));
  EXPECT_TRUE(matches("model.layers.1", kQuery));
  EXPECT_TRUE(matches("lm_head", kHead));
  EXPECT_FALSE(matches("proj", kQuery));
  EXPECT_FALSE(matches("model.layers.1", kUp));
  EXPECT_FALSE(matches("layers.1", kQuery));  // Neither the end of the name nor its beginning.
  EXPECT_FALSE(matches("", kQuery));
}

TEST(Targets, ClassesMatchByPlace) {
  EXPECT_TRUE(matches("Linear", kQuery));
  EXPECT_TRUE(matches("Linear", kHead));
  EXPECT_TRUE(matches("LlamaDecoderLayer", kQuery));
  EXPECT_FALSE(matches("LlamaDecoderLayer", kHead));
}

TEST(Targets, RegularExpressionsMatchFromTheStart) {
  EXPECT_TRUE(matches("re:.*q_proj", kQuery));
  EXPECT_TRUE(matches("re:.*q_proj.weight", kQuery));
  EXPECT_TRUE(matches("re:.*q_proj$", kQuery));
  EXPECT_TRUE(matches(R"(re:model.layers.\d*$)", kUp));
  EXPECT_TRUE(matches(R"(re:model\.layers\.1$)", kQuery));
  EXPECT_FALSE(matches(R"(re:model\.layers\.1$)", kUp));
  EXPECT_TRUE(matches(R"(re:model\.layers\.1)", kUp));  // As Python's re.match: a prefix is enough.
  EXPECT_FALSE(matches("re:q_proj", kQuery));
  EXPECT_TRUE(matches(R"(re:.*\.(gate|up|down)_proj)", kUp));
}

TEST(Targets, ReportsWhichEntriesMatch) {
  const TargetMatcher matcher({"up_proj", "q_proj", "re:model.*"});
  EXPECT_EQ(matcher.match(kQuery), 1);
  EXPECT_EQ(matcher.match(kHead), -1);
  EXPECT_EQ(matcher.matches(kQuery), (std::vector<bool>{false, true, true}));
}

TEST(Targets, RejectsABrokenExpression) {
  try {
    const TargetMatcher broken({"re:(unclosed"});
    FAIL() << "expected an error";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "target 're:(unclosed': missing closing parenthesis at character 9");
  }
}

TEST(Targets, AnExpressionThatGivesUpIsNoMismatch) {
  try {
    matches("re:(*LIMIT_MATCH=1).*_proj", kQuery);
    FAIL() << "expected an error";
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kUnsupported);
    EXPECT_NE(std::string(e.what()).find("re:(*LIMIT_MATCH=1).*_proj"), std::string::npos);
  }
}

TEST(Targets, LinearWeightsAreMatricesThatAreNoEmbeddings) {
  const auto tensor = [](const std::string& name, Shape shape, DType dtype = DType::kBF16) {
    return CheckpointTensor{name, dtype, std::move(shape)};
  };
  EXPECT_TRUE(is_linear_weight(tensor(kQuery, {4, 4})));
  EXPECT_TRUE(is_linear_weight(tensor(kHead, {4, 4}, DType::kF32)));
  EXPECT_FALSE(is_linear_weight(tensor("model.embed_tokens.weight", {4, 4})));
  EXPECT_FALSE(is_linear_weight(tensor("transformer.wte.weight", {4, 4})));
  EXPECT_FALSE(is_linear_weight(tensor("model.norm.weight", {4})));
  EXPECT_FALSE(is_linear_weight(tensor("model.layers.0.self_attn.q_proj.bias", {4})));
  EXPECT_FALSE(is_linear_weight(tensor(kQuery, {4, 4}, DType::kI8)));
}

}  // namespace
}  // namespace rarefy::compress
