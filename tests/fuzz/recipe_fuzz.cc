#include "mutator.h"
#include "rarefy/compress.h"

namespace rarefy {
namespace {

void parse(std::string_view input) {
  const Recipe recipe = Recipe::parse(input, "recipe.yaml");
  const std::string yaml = recipe.to_yaml();
  if (Recipe::parse(yaml, "again.yaml").to_yaml() != yaml) {
    throw std::logic_error("a recipe that does not come back");
  }
}

}  // namespace

RAREFY_FUZZ_TARGET(
    Recipe, parse,
    (fuzz::Corpus{
        .seeds = {"quant_stage:\n  quant_modifiers:\n    SparseGPTModifier:\n      sparsity: 0.5\n"
                  "      mask_structure: \"2:4\"\n      targets: [\"re:model.layers.\\\\d*$\"]\n"
                  "      ignore: [lm_head]\n",
                  "WandaPruningModifier:\n  sparsity: 0.6\n  targets: Linear\n",
                  "- MagnitudeModifier:\n    sparsity: 0.7\n    scope: global\n"},
        .words = {"SparseGPTModifier:",
                  "sparsity: ",
                  "targets: ",
                  "ignore: ",
                  "re:(",
                  "re:[",
                  "- ",
                  "\n",
                  "  ",
                  ": ",
                  "&a ",
                  "*a",
                  "<<: ",
                  "{",
                  "}",
                  "[",
                  "]",
                  "|\n",
                  "!!binary ",
                  "---\n",
                  "'",
                  "\"",
                  "nan",
                  ".inf",
                  "2:4",
                  "32x32",
                  "block_size: "}}))

}  // namespace rarefy
