// prune() from a checkpoint to a checkpoint, on the model in examples/.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>

#include "base/files.h"
#include "compress/matrices.h"
#include "compress/select.h"
#include "compress/targets.h"
#include "rarefy/compress.h"
#include "rarefy/safetensors.h"
#include "shared_data.h"

namespace rarefy {
namespace {

namespace fs = std::filesystem;

constexpr const char* kText =
    "The wind had fallen in the night, and the harbour lay as still as a plate. A boy came down "
    "the "
    "steps with a basket on his arm, counting the boats under his breath; there were eleven, as "
    "there had been on every morning since the spring. \"You are early,\" said the old man who "
    "mended the nets, without looking up. \"I could not sleep,\" said the boy. He set the basket "
    "down, and from it he took bread, two onions, and a small round cheese that his mother had "
    "wrapped in a cloth. They ate without talking, and watched the light come up behind the "
    "island. "
    "In chapter three we define the derivative of a function as the limit of the quotient of "
    "differences, and show that sums, products and quotients of functions can be handled by rules.";

std::uint64_t file_hash(const fs::path& path) {
  return std::hash<std::string>{}(read_text(path));
}

class Prune : public ::testing::Test {
 protected:
  void SetUp() override {
    scratch_ = fs::temp_directory_path() /
               ("rarefy-prune-" + std::to_string(getpid()) + "-" +
                ::testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::remove_all(scratch_);
    fs::create_directories(scratch_);
  }
  void TearDown() override { fs::remove_all(scratch_); }

  static PruneOptions options(PruneMethod method, double sparsity,
                              const char* pattern = "unstructured",
                              PruneScope scope = PruneScope::kDefault) {
    PruneOptions options;
    PruneStep step;
    step.method = method;
    step.sparsity = sparsity;
    step.scope = scope;
    step.pattern = PrunePattern::parse(pattern);
    if (step.pattern.kind == PrunePattern::Kind::kNm) step.sparsity = 0.5;
    options.recipe.steps.push_back(step);
    options.calibration = {.text = kText, .samples = 6, .context = 24, .seed = 3};
    return options;
  }

  [[nodiscard]] PruneReport run(const PruneOptions& options, const char* name = "out") {
    return prune(model_, scratch_ / name, options, pool_);
  }
  [[nodiscard]] std::shared_ptr<const Checkpoint> output(const char* name = "out") const {
    return Checkpoint::open(scratch_ / name);
  }
  [[nodiscard]] std::string error_of(const PruneOptions& options) {
    try {
      (void)run(options);
    } catch (const Error& e) {
      return e.what();
    }
    return "no error";
  }

  fs::path model_ = testing::source_path("examples/models/tiny-lm");
  fs::path scratch_;
  ThreadPool pool_{2};
};

/// Zeros among `values`.
std::int64_t zeros_in(const std::vector<float>& values) {
  return std::count(values.begin(), values.end(), 0.0F);
}

TEST_F(Prune, MagnitudeThinsLinearWeightsAndCopiesTheRest) {
  const PruneReport report = run(options(PruneMethod::kMagnitude, 0.7));
  const auto before = Checkpoint::open(model_);
  const auto after = output();
  ASSERT_EQ(after->tensors().size(), before->tensors().size());
  std::map<std::string, PrunedTensor> pruned;
  for (const PrunedTensor& tensor : report.tensors) pruned[tensor.name] = tensor;
  for (const CheckpointTensor& tensor : before->tensors()) {
    const auto old_values = testing::floats_of(*before->source(tensor.name));
    const auto new_values = testing::floats_of(*after->source(tensor.name));
    EXPECT_EQ(after->find(tensor.name)->dtype, tensor.dtype);
    EXPECT_EQ(after->find(tensor.name)->shape, tensor.shape);
    if (!compress::is_linear_weight(tensor)) {
      EXPECT_FALSE(pruned.contains(tensor.name));
      EXPECT_EQ(old_values, new_values) << tensor.name;
      EXPECT_EQ(after->find(tensor.name)->storage, Storage::kDense);
      continue;
    }
    const auto size = static_cast<std::int64_t>(new_values.size());
    EXPECT_EQ(zeros_in(new_values), compress::zeros_of(0.7, size)) << tensor.name;
    EXPECT_EQ(pruned.at(tensor.name).nnz, size - zeros_in(new_values));
    EXPECT_EQ(pruned.at(tensor.name).rows, tensor.shape[0]);
    EXPECT_EQ(pruned.at(tensor.name).cols, tensor.shape[1]);
    EXPECT_GT(pruned.at(tensor.name).error, 0.05);
    EXPECT_LT(pruned.at(tensor.name).error, 0.4);
    EXPECT_EQ(after->find(tensor.name)->storage, Storage::kSparseBitmask);
    for (std::size_t i = 0; i < new_values.size(); ++i) {
      if (new_values[i] == 0) continue;
      ASSERT_EQ(new_values[i], old_values[i]);
    }
  }
  EXPECT_EQ(pruned.size(), 6 * 7);
  EXPECT_GT(report.peak_bytes, 0);
  const Recipe recipe = Recipe::load(scratch_ / "out" / "recipe.yaml");
  ASSERT_EQ(recipe.steps.size(), 1);
  EXPECT_EQ(recipe.steps[0].sparsity, 0.7);
  for (const char* file : {"config.json", "tokenizer.json"})
    EXPECT_TRUE(fs::exists(scratch_ / "out" / file)) << file;
}

TEST_F(Prune, StaysDenseWhereABitmaskWouldGrow) {
  PruneOptions little = options(PruneMethod::kMagnitude, 0.02);
  (void)run(little);
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  EXPECT_EQ(output()->find(name)->storage, Storage::kDense);
  PruneOptions dense = options(PruneMethod::kMagnitude, 0.9);
  dense.storage = Storage::kDense;
  (void)run(dense, "dense");
  EXPECT_EQ(output("dense")->find(name)->storage, Storage::kDense);
  EXPECT_EQ(zeros_in(testing::floats_of(*output("dense")->source(name))),
            compress::zeros_of(0.9, 512 * 192));
}

TEST_F(Prune, GlobalScopeCountsOverAllWeights) {
  const PruneReport report =
      run(options(PruneMethod::kMagnitude, 0.5, "unstructured", PruneScope::kGlobal));
  std::int64_t size = 0;
  std::int64_t nnz = 0;
  double lowest = 1;
  double highest = 0;
  for (const PrunedTensor& tensor : report.tensors) {
    const std::int64_t n = tensor.rows * tensor.cols;
    size += n;
    nnz += tensor.nnz;
    const double density = static_cast<double>(tensor.nnz) / static_cast<double>(n);
    lowest = std::min(lowest, density);
    highest = std::max(highest, density);
  }
  EXPECT_EQ(nnz, size - compress::zeros_of(0.5, size));
  EXPECT_LT(lowest, 0.48);
  EXPECT_GT(highest, 0.52);
}

TEST_F(Prune, WhatWasPrunedStaysPruned) {
  (void)run(options(PruneMethod::kMagnitude, 0.6), "first");
  for (const PruneMethod method :
       {PruneMethod::kMagnitude, PruneMethod::kWanda, PruneMethod::kSparseGpt}) {
    PruneOptions again = options(method, 0.3);
    again.overwrite = true;
    (void)prune(scratch_ / "first", scratch_ / "out", again, pool_);
    for (const char* name :
         {"model.layers.0.self_attn.q_proj.weight", "model.layers.5.mlp.down_proj.weight"}) {
      const auto thin = testing::floats_of(*output("first")->source(name));
      const auto twice = testing::floats_of(*output()->source(name));
      std::int64_t revived = 0;
      for (std::size_t i = 0; i < thin.size(); ++i)
        revived += thin[i] == 0 && twice[i] != 0 ? 1 : 0;
      EXPECT_EQ(revived, 0) << to_string(method) << " " << name;
      if (method != PruneMethod::kMagnitude) continue;
      EXPECT_EQ(thin, twice) << name;
    }
  }
}

TEST_F(Prune, CalibratedMethodsLoseLessThanMagnitude) {
  // Magnitude's output error is measured by a recipe that calibrates another weight of the layer.
  PruneOptions magnitude = options(PruneMethod::kMagnitude, 0.5);
  magnitude.recipe.steps[0].targets = {"re:model.layers.0.mlp"};
  PruneStep other = magnitude.recipe.steps[0];
  other.method = PruneMethod::kWanda;
  other.targets = {"model.layers.0.self_attn.q_proj"};
  magnitude.recipe.steps.push_back(other);
  std::map<std::string, std::map<PruneMethod, double>> errors;
  for (const PrunedTensor& t : run(magnitude, "magnitude").tensors)
    errors[t.name][PruneMethod::kMagnitude] = t.error;
  for (const PruneMethod method : {PruneMethod::kWanda, PruneMethod::kSparseGpt}) {
    const PruneReport report = run(options(method, 0.5), to_string(method));
    EXPECT_EQ(report.tensors.size(), 42);
    for (const PrunedTensor& t : report.tensors) {
      EXPECT_EQ(t.nnz, t.rows * t.cols / 2) << t.name;
      errors[t.name][method] = t.error;
    }
  }
  for (const char* name :
       {"model.layers.0.mlp.gate_proj.weight", "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.mlp.down_proj.weight"}) {
    std::map<PruneMethod, double>& e = errors[name];
    EXPECT_LT(e[PruneMethod::kWanda], e[PruneMethod::kMagnitude]) << name;
    EXPECT_LT(e[PruneMethod::kSparseGpt], e[PruneMethod::kWanda]) << name;
    EXPECT_GT(e[PruneMethod::kSparseGpt], 0) << name;
  }
}

TEST_F(Prune, PatternsHoldInEveryWeight) {
  for (const PruneMethod method :
       {PruneMethod::kMagnitude, PruneMethod::kWanda, PruneMethod::kSparseGpt}) {
    PruneOptions wanted = options(method, 0.5, "2:4");
    wanted.overwrite = true;
    (void)run(wanted);
    const auto after = output();
    for (const CheckpointTensor& tensor : after->tensors()) {
      if (!compress::is_linear_weight(tensor)) continue;
      const auto values = testing::floats_of(*after->source(tensor.name));
      for (std::size_t g = 0; g < values.size(); g += 4) {
        const auto group = values.begin() + static_cast<std::ptrdiff_t>(g);
        ASSERT_EQ(std::count(group, group + 4, 0.0F), 2) << to_string(method) << tensor.name << g;
      }
    }
    wanted = options(method, 0.75, "32x32");
    wanted.overwrite = true;
    for (const PrunedTensor& t : run(wanted).tensors) EXPECT_EQ(t.nnz % 1024, 0) << t.name;
  }
}

TEST_F(Prune, IsTheSameForAnyNumberOfThreads) {
  for (const PruneMethod method : {PruneMethod::kWanda, PruneMethod::kSparseGpt}) {
    PruneOptions wanted = options(method, 0.6);
    wanted.recipe.steps[0].targets = {"re:model.layers.[01]$"};
    wanted.overwrite = true;
    std::vector<std::uint64_t> hashes;
    for (const int threads : {1, 2, 3}) {
      ThreadPool pool(threads);
      (void)prune(model_, scratch_ / "out", wanted, pool);
      hashes.push_back(file_hash(scratch_ / "out" / "model.safetensors"));
    }
    EXPECT_EQ(hashes[0], hashes[1]) << to_string(method);
    EXPECT_EQ(hashes[0], hashes[2]) << to_string(method);
  }
}

TEST_F(Prune, StepsOfARecipeTakeTheirTargets) {
  PruneOptions mixed = options(PruneMethod::kMagnitude, 0);
  mixed.recipe = Recipe::parse(R"(
first_stage:
  SparseGPTModifier: {sparsity: 0.75, targets: ["re:.*down_proj"], ignore: ["re:.*layers.0.*"]}
second_stage:
  MagnitudeModifier: {sparsity: 0.25, targets: [o_proj]}
)",
                               "recipe.yaml");
  const PruneReport report = run(mixed);
  EXPECT_EQ(report.tensors.size(), 5 + 6);
  for (const PrunedTensor& t : report.tensors) {
    const double expected = t.name.find("down_proj") != std::string::npos ? 0.75 : 0.25;
    EXPECT_EQ(t.nnz, t.rows * t.cols - compress::zeros_of(expected, t.rows * t.cols)) << t.name;
  }
  EXPECT_TRUE(
      std::is_sorted(report.tensors.begin(), report.tensors.end(),
                     [](const PrunedTensor& a, const PrunedTensor& b) { return a.name < b.name; }));
}

TEST_F(Prune, RefusesBeforeAnythingIsWritten) {
  PruneOptions silent = options(PruneMethod::kWanda, 0.5);
  silent.calibration.text.clear();
  EXPECT_EQ(error_of(silent), "prune: wanda needs a calibration text");
  PruneOptions brief = options(PruneMethod::kWanda, 0.5);
  brief.calibration.text = "Too short.";
  EXPECT_TRUE(error_of(brief).starts_with("calibration text: expected at least 24 tokens, found "));
  PruneOptions wide = options(PruneMethod::kWanda, 0.5);
  wide.calibration.context = 257;
  EXPECT_EQ(error_of(wide),
            "prune: expected a calibration context of at most 256 tokens (the model's), got 257");
  EXPECT_EQ(error_of(options(PruneMethod::kMagnitude, 0.5, "2:5")),
            "model.layers.0.mlp.down_proj.weight: pattern 2:5 needs a number of columns divisible "
            "by 5, got 512");
  EXPECT_EQ(error_of(options(PruneMethod::kMagnitude, 0.5, "100x32")),
            "model.layers.0.mlp.down_proj.weight: pattern 100x32 needs rows divisible by 100 and "
            "columns by 32, got 192x512");
  EXPECT_EQ(error_of(options(PruneMethod::kMagnitude, 1.5)),
            "magnitude: expected a sparsity from 0 to 1, got 1.5");
  EXPECT_TRUE(error_of(options(PruneMethod::kWanda, 0.5, "unstructured", PruneScope::kGlobal))
                  .starts_with("wanda: scope global is for magnitude"));
  PruneOptions astray = options(PruneMethod::kMagnitude, 0.5);
  astray.recipe.steps[0].targets = {"q_proj", "qproj"};
  EXPECT_EQ(error_of(astray), model_.string() + ": target 'qproj' matches no linear weight");
  EXPECT_FALSE(fs::exists(scratch_ / "out" / "model.safetensors"));
}

TEST_F(Prune, RefusesLayersWithoutANumber) {
  std::string weights = read_text(model_ / "model.safetensors");
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  weights.replace(weights.find(name), name.size(), "model.layers.x.mlp.up_proj.weight");
  const fs::path odd = scratch_ / "odd";
  fs::create_directories(odd);
  std::ofstream(odd / "model.safetensors", std::ios::binary) << weights;
  model_ = odd;
  EXPECT_TRUE(error_of(options(PruneMethod::kWanda, 0.5))
                  .starts_with("model.layers.x.mlp.up_proj.weight: wanda needs calibration"));
}

TEST_F(Prune, AFailureLeavesTheOlderOutput) {
  (void)run(options(PruneMethod::kMagnitude, 0.5));
  const std::uint64_t before = file_hash(scratch_ / "out" / "model.safetensors");
  EXPECT_NE(error_of(options(PruneMethod::kMagnitude, 0.9)), "no error");  // No overwrite.
  EXPECT_EQ(file_hash(scratch_ / "out" / "model.safetensors"), before);

  // A NaN in the last layer: found after most of the model is written.
  const fs::path broken = scratch_ / "broken";
  fs::copy(model_, broken);
  const std::string name = "model.layers.5.mlp.up_proj.weight";
  std::streamoff at = 0;
  {
    const auto file = SafetensorsFile::open(broken / "model.safetensors");
    const auto end = static_cast<std::streamoff>(fs::file_size(broken / "model.safetensors"));
    std::uint64_t last = 0;
    for (const TensorInfo& t : file->tensors()) last = std::max(last, t.end);
    at = end - static_cast<std::streamoff>(last - file->find(name)->begin) + (7 * 192 + 11) * 2;
  }
  {
    std::fstream patch(broken / "model.safetensors",
                       std::ios::in | std::ios::out | std::ios::binary);
    patch.seekp(at);
    patch.write("\xC0\x7F", 2);
  }
  PruneOptions overwrite = options(PruneMethod::kMagnitude, 0.9);
  overwrite.overwrite = true;
  try {
    (void)prune(broken, scratch_ / "out", overwrite, pool_);
    FAIL() << "expected an error";
  } catch (const Error& e) {
    EXPECT_EQ(std::string(e.what()), name + ": expected finite weights, found nan at [7, 11]");
  }
  EXPECT_EQ(file_hash(scratch_ / "out" / "model.safetensors"), before);
  std::int64_t files = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(scratch_ / "out")) ++files;
  (void)run(options(PruneMethod::kMagnitude, 0.5), "again");
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(scratch_ / "again")) --files;
  EXPECT_EQ(files, 0) << "temporary files were left behind";
}

/// Counts what it is told.
class Recorder final : public Progress {
 public:
  void update(std::string_view what, std::int64_t done, std::int64_t total,
              std::string_view) override {
    EXPECT_LE(done, total);
    if (done == total) finished_.emplace_back(what);
  }
  [[nodiscard]] const std::vector<std::string>& finished() const { return finished_; }

 private:
  std::vector<std::string> finished_;
};

TEST_F(Prune, TellsItsProgress) {
  Recorder recorder;
  PruneOptions wanted = options(PruneMethod::kWanda, 0.5);
  wanted.recipe.steps[0].targets = {"re:model.layers.[01]$"};
  wanted.progress = &recorder;
  (void)run(wanted);
  // Layer 1 is observed and propagated, layer 2 only observed.
  EXPECT_EQ(recorder.finished(),
            (std::vector<std::string>{"tokenise", "layer 1 of 2", "layer 1 of 2", "layer 2 of 2",
                                      "write"}));
}

}  // namespace
}  // namespace rarefy
