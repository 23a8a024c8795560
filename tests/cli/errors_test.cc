// Bad input: exit status 2, nothing on stdout, one line on stderr that names what is wrong.
#include <gtest/gtest.h>

#include <algorithm>

#include "cli/run_rarefy.h"
#include "shared_data.h"

namespace rarefy::testing {
namespace {

const std::string kModel = source_path("examples/models/tiny-lm").string();

void expect_refused(const std::string& arguments, const std::string& named) {
  const Outcome run = run_rarefy(arguments);
  EXPECT_EQ(run.status, 2) << arguments << "\n" << run.err;
  EXPECT_EQ(run.out, "") << arguments;
  EXPECT_EQ(std::count(run.err.begin(), run.err.end(), '\n'), 1) << arguments << "\n" << run.err;
  EXPECT_NE(run.err.find(named), std::string::npos) << arguments << "\n" << run.err;
}

TEST(Errors, ArgumentsThatCannotWork) {
  expect_refused("", "inspect, prune");
  expect_refused("frobnicate", "'frobnicate'");
  expect_refused("--frobnicate", "'--frobnicate'");
  expect_refused("-t 0 doctor", "from 1 to 1024, got '0'");
  expect_refused("inspect", "--model");
  expect_refused("inspect -m /no/such/folder", "/no/such/folder");
  expect_refused("perplexity -m " + kModel + " -f /no/such/file", "/no/such/file");
  expect_refused("perplexity -m " + kModel + " -f " + kModel + "/config.json -c 1", "-c");
  expect_refused("generate -m " + kModel + " -p x --format bitmop", "bitmop");
  expect_refused("generate -m " + kModel + " -p x --isa sse9", "sse9");
  expect_refused("generate -m " + kModel + " -p x --memory lots", "lots");
  expect_refused("generate -m " + kModel + " -p x --no-measure --memory 1k", "--memory");
  expect_refused("generate -m " + kModel + " -p x --weight-memory 20", "from 0 to 2, got '20'");
  expect_refused("generate -m " + kModel + " -p x --device cpu --weight-memory 1.6", "on a GPU");
  expect_refused("bench --random tiny --format bitmap --weight-memory 1.6", "--weight-memory");
  expect_refused("generate -m " + kModel + " -p x -n 0", "of at least 1, got '0'");
  expect_refused("generate -m " + kModel + " -p x --seed -1", "of at least 0, got '-1'");
  expect_refused("generate -m " + kModel + "/config.json -p x", "expected a model folder");
  expect_refused("perplexity -m " + kModel + " -f x --windows 99999999999999999999", "--windows");
  expect_refused("inspect -m " + kModel + " --svg /proc/maps", "/proc/maps");
  expect_refused("report -m " + kModel + " -o /no/such/folder/r.html", "/no/such/folder");
  expect_refused("report -m " + kModel + " --ops " + kModel + "/config.json", "median_us");
  expect_refused("generate -m " + kModel + " -p x --top-p 1.5", "top");
  expect_refused("explain -m " + kModel + " -w nothing_like_it", "nothing_like_it");
  expect_refused("bench", "-m");
  expect_refused("bench --random tiny --pattern skew", "or blocks such as 64x64, got 'skew'");
  expect_refused("bench --pattern blockskew", "--random");
  expect_refused("bench ops --shape 64y64", "64y64");
  expect_refused("bench ops --device cpu --layout features", "expected tokens");
  expect_refused("bench ops --missing", "expected --save");
  expect_refused("doctor --device cuda", "cuda");
}

TEST(Errors, PatternsAndRecipesThatDoNotFit) {
  const ScratchFolder folder;
  const std::string out = folder / "out";
  expect_refused("prune -m " + kModel + " -o " + out + " --method magnitude --pattern 5:3", "5:3");
  expect_refused("prune -m " + kModel + " -o " + out + " --method magnitude --pattern 100x100",
                 "100x100");
  expect_refused("prune -m " + kModel + " -o " + out + " --method lottery", "lottery");
  expect_refused("prune -m " + kModel + " -o " + out + " --method wanda", "--calibration");
  expect_refused("prune -m " + kModel + " -o " + out + " --method magnitude --sparsity nan",
                 "from 0 to 1");
  expect_refused(
      "prune -m " + kModel + " -o " + out + " --method magnitude --pattern 2:4 --sparsity 0.7",
      "expected 0.5");
  const std::string recipe = folder / "recipe.yaml";
  std::ofstream(recipe) << "SparseGPTModifier:\n  sparsity: lots\n";
  expect_refused("prune -m " + kModel + " -o " + out + " --recipe " + recipe, "recipe.yaml");
  expect_refused("prune -m " + kModel + " -o " + out + " --method wanda --recipe " + recipe,
                 "--recipe excludes --method");
  EXPECT_FALSE(std::filesystem::exists(out + "/config.json"));
}

TEST(Errors, FilesThatLie) {
  const ScratchFolder folder;
  const std::string model = folder / "model";
  std::filesystem::copy(kModel, model);
  const std::string weights = model + "/model.safetensors";
  std::filesystem::permissions(weights, std::filesystem::perms::owner_write,
                               std::filesystem::perm_options::add);
  const std::uintmax_t size = std::filesystem::file_size(weights);
  std::filesystem::resize_file(weights, size - 2);
  expect_refused("inspect -m " + model, "model.safetensors");
  std::filesystem::resize_file(weights, 4);
  expect_refused("generate -m " + model + " -p x", "model.safetensors");
  std::filesystem::remove(weights);
  expect_refused("inspect -m " + model, model);
}

}  // namespace
}  // namespace rarefy::testing
