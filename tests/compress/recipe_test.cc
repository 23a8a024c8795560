#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "rarefy/compress.h"

namespace rarefy {
namespace {

Recipe parse(const std::string& yaml) {
  return Recipe::parse(yaml, "recipe.yaml");
}

std::string error_of(const std::string& yaml) {
  try {
    parse(yaml);
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInvalidArgument);
    return e.what();
  }
  return "no error";
}

TEST(Recipe, ReadsAStageOfLlmCompressor) {
  const Recipe recipe = parse(R"(
sparsity_stage:
  run_type: oneshot
  sparsity_modifiers:
    SparseGPTModifier:
      sparsity: 0.5
      mask_structure: "2:4"
      sequential_update: true
      sequential_targets: [LlamaDecoderLayer]
      block_size: 64
      dampening_frac: 0.001
      targets: ['re:model.layers.\d*$']
      ignore: ["re:.*lm_head"]
)");
  ASSERT_EQ(recipe.steps.size(), 1);
  const PruneStep& step = recipe.steps[0];
  EXPECT_EQ(step.method, PruneMethod::kSparseGpt);
  EXPECT_EQ(step.pattern, PrunePattern::parse("2:4"));
  EXPECT_EQ(step.sparsity, 0.5);
  EXPECT_EQ(step.block_size, 64);
  EXPECT_EQ(step.dampening, 0.001);
  EXPECT_EQ(step.targets, std::vector<std::string>{R"(re:model.layers.\d*$)"});
  EXPECT_EQ(step.ignore, std::vector<std::string>{"re:.*lm_head"});
}

TEST(Recipe, ReadsWhatOthersWroteBesideTheirModels) {
  // Null settings, old spellings, a run type as a one-element list with a Python tag.
  const Recipe recipe = parse(R"(
DEFAULT_stage:
  DEFAULT_modifiers:
    SparseGPTModifier: {block_size: 128, percdamp: 0.02, end: null, group: null, mask_structure: '0:0',
      owl_lmbda: null, owl_m: null, quantize: false, sequential_update: true, sparsity: 0.95,
      sparsity_profile: null, targets: null}
  run_type: !!python/object/apply:llmcompressor.recipe.stage.StageRunType [oneshot]
)");
  ASSERT_EQ(recipe.steps.size(), 1);
  EXPECT_EQ(recipe.steps[0].sparsity, 0.95);
  EXPECT_EQ(recipe.steps[0].dampening, 0.02);
  EXPECT_EQ(recipe.steps[0].targets, std::vector<std::string>{"Linear"});
  EXPECT_EQ(recipe.steps[0].pattern, PrunePattern{});
}

TEST(Recipe, ReadsModifiersWithoutStages) {
  const Recipe flat = parse("WandaPruningModifier:\n  sparsity: 0.6\n  targets: Linear\n");
  ASSERT_EQ(flat.steps.size(), 1);
  EXPECT_EQ(flat.steps[0].method, PruneMethod::kWanda);
  const Recipe list = parse(R"(
modifiers:
  - MagnitudePruningModifier: {init_sparsity: 0.0, final_sparsity: 0.7, apply_globally: true}
  - WandaPruningModifier: {sparsity: 0.5, mask_structure: "4:8"}
  - MagnitudeModifier: {sparsity: 0.25, scope: row, mask_structure: 32x32}
  - ConstantPruningModifier: {targets: [q_proj], start: 0}
)");
  ASSERT_EQ(list.steps.size(), 4);
  EXPECT_EQ(list.steps[0].scope, PruneScope::kGlobal);
  EXPECT_EQ(list.steps[0].sparsity, 0.7);
  EXPECT_EQ(list.steps[1].pattern.name(), "4:8");
  EXPECT_EQ(list.steps[2].scope, PruneScope::kRow);
  EXPECT_EQ(list.steps[2].pattern.name(), "32x32");
  EXPECT_EQ(list.steps[3].sparsity, 0.0);
}

TEST(Recipe, SparsityOfNmFollowsFromThePattern) {
  EXPECT_EQ(parse("SparseGPTModifier: {mask_structure: '1:4'}").steps[0].sparsity, 0.75);
  EXPECT_EQ(error_of("SparseGPTModifier:\n  sparsity: 0.25\n  mask_structure: '1:4'\n"),
            "recipe.yaml:2: sparsity 0.25 contradicts mask_structure 1:4, which keeps 1 of 4");
}

TEST(Recipe, NamesFileAndLineOfWhatIsWrong) {
  EXPECT_EQ(error_of("a_stage:\n  b_modifiers:\n    SparseGPTModifier:\n      sparsity: 0.5\n      "
                     "colour: red\n"),
            "recipe.yaml:5: SparseGPTModifier: unknown key 'colour'");
  EXPECT_EQ(error_of("a_stage:\n  GPTQModifier: {scheme: W4A16}\n"),
            "recipe.yaml:2: unknown modifier 'GPTQModifier': expected SparseGPTModifier, "
            "WandaPruningModifier, MagnitudeModifier, MagnitudePruningModifier or "
            "ConstantPruningModifier");
  EXPECT_EQ(error_of("WandaPruningModifier: {sparsity: 0.5, block_size: 64}\n"),
            "recipe.yaml:1: WandaPruningModifier: unknown key 'block_size'");
  EXPECT_EQ(error_of("WandaPruningModifier:\n  sparsity: 1.5\n"),
            "recipe.yaml:2: sparsity: expected a number from 0 to 1, found '1.5'");
  EXPECT_EQ(error_of("WandaPruningModifier:\n  sparsity: .nan\n"),
            "recipe.yaml:2: sparsity: expected a number from 0 to 1, found '.nan'");
  EXPECT_EQ(error_of("WandaPruningModifier:\n  targets: [Linear]\n"),
            "recipe.yaml:1: WandaPruningModifier: 'sparsity' is missing");
  EXPECT_EQ(error_of("MagnitudeModifier:\n  sparsity: 0.5\n  sparsity: 0.6\n"),
            "recipe.yaml:3: key 'sparsity' comes twice");
  EXPECT_EQ(error_of("MagnitudeModifier:\n  sparsity: 0.5\n  scope: everywhere\n"),
            "recipe.yaml:3: scope: expected default, tensor, row or global");
  EXPECT_EQ(error_of("SparseGPTModifier:\n  sparsity: 0.5\n  mask_structure: '4:2'\n"),
            "recipe.yaml:3: mask pattern '4:2': expected n:m with n kept of m, n < m");
  EXPECT_EQ(error_of("x_stage:\n  run_type: train\n"),
            "recipe.yaml:2: run_type: only 'oneshot' is supported");
  EXPECT_EQ(error_of("thing: 3\n"),
            "recipe.yaml:1: unknown key 'thing': expected a modifier, '…_stage', '…_modifiers', "
            "'run_type' or 'metadata'");
  EXPECT_EQ(error_of(""), "recipe.yaml: expected at least one modifier, found none");
  EXPECT_EQ(error_of("just words"), "recipe.yaml: expected at least one modifier, found none");
}

TEST(Recipe, RefusesWhatItDoesNotDo) {
  for (const char* setting :
       {"sparsity_profile: owl", "owl_m: 5", "quantize: true", "preserve_sparsity_mask: false"}) {
    const std::string error =
        error_of(std::string("SparseGPTModifier:\n  sparsity: 0.5\n  ") + setting + "\n");
    EXPECT_TRUE(error.starts_with("recipe.yaml:3: ")) << error;
  }
  EXPECT_TRUE(
      error_of("SparseGPTModifier:\n  sparsity: [0.5, 0.6]\n").starts_with("recipe.yaml:2: "));
}

TEST(Recipe, SurvivesBrokenYaml) {
  for (const char* yaml : {"a: [", "\t- x", "a: b: c", "SparseGPTModifier: [1, 2]", "- 3",
                           "? [a]\n: b", "*nothing", "\"", "SparseGPTModifier: {sparsity: {a: 1}}",
                           "SparseGPTModifier: {sparsity: 0.5, targets: {a: b}}", "a_stage: 3",
                           "SparseGPTModifier: {sparsity: 0.5, block_size: 0}",
                           "SparseGPTModifier: {sparsity: 0.5, dampening_frac: -1}"}) {
    const std::string error = error_of(yaml);
    EXPECT_TRUE(error.starts_with("recipe.yaml:")) << yaml << " -> " << error;
  }
  const std::string deep(100000, '[');
  EXPECT_TRUE(error_of(deep).starts_with("recipe.yaml:"));
}

TEST(Recipe, RoundTripsThroughYaml) {
  Recipe recipe;
  PruneStep sparsegpt;
  sparsegpt.method = PruneMethod::kSparseGpt;
  sparsegpt.sparsity = 0.1 + 0.2;  // Not a short decimal.
  sparsegpt.targets = {R"(re:.*\.(q|k)_proj$)", "with \"quotes\" and: colon"};
  sparsegpt.ignore = {};
  sparsegpt.block_size = 96;
  sparsegpt.dampening = 0.003;
  PruneStep wanda;
  wanda.method = PruneMethod::kWanda;
  wanda.pattern = PrunePattern::parse("1:4");
  wanda.sparsity = 0.75;
  PruneStep magnitude;
  magnitude.scope = PruneScope::kGlobal;
  magnitude.pattern = PrunePattern::parse("32x16");
  magnitude.sparsity = 0.9;
  for (const std::vector<PruneStep>& steps :
       {std::vector{sparsegpt}, std::vector{sparsegpt, wanda, magnitude, magnitude}}) {
    recipe.steps = steps;
    const Recipe again = parse(recipe.to_yaml());
    EXPECT_EQ(again.to_yaml(), recipe.to_yaml());
    ASSERT_EQ(again.steps.size(), steps.size());
    for (std::size_t i = 0; i < steps.size(); ++i) {
      EXPECT_EQ(again.steps[i].method, steps[i].method);
      EXPECT_EQ(again.steps[i].scope, steps[i].scope);
      EXPECT_EQ(again.steps[i].pattern, steps[i].pattern);
      EXPECT_EQ(again.steps[i].sparsity, steps[i].sparsity);
      EXPECT_EQ(again.steps[i].targets, steps[i].targets);
      EXPECT_EQ(again.steps[i].ignore, steps[i].ignore);
    }
    EXPECT_EQ(again.steps[0].block_size, 96);
    EXPECT_EQ(again.steps[0].dampening, 0.003);
  }
}

TEST(Recipe, WritesTheSparsityThatNmImplies) {
  Recipe recipe{{PruneStep{}}};
  recipe.steps[0].pattern = PrunePattern::parse("1:4");  // Its `sparsity` is the default 0.5.
  EXPECT_EQ(parse(recipe.to_yaml()).steps[0].sparsity, 0.75);
}

TEST(Recipe, LoadNamesAMissingFile) {
  EXPECT_THROW(Recipe::load("/nonexistent/recipe.yaml"), Error);
}

}  // namespace
}  // namespace rarefy
