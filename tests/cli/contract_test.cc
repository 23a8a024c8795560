// What scripts rely on: flags, JSON keys, and that stdout holds one document and nothing else.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "cli/run_rarefy.h"
#include "shared_data.h"

namespace rarefy::testing {
namespace {

const std::string kModel = source_path("examples/models/tiny-lm").string();
const std::string kText = source_path("examples/text/heldout.txt").string();
const std::string kCalibration = source_path("examples/text/calibration.txt").string();

std::set<std::string> keys(const Json& object) {
  std::set<std::string> names;
  for (const auto& [key, value] : object.items()) names.insert(key);
  return names;
}

void expect_keys(const Json& object, const std::set<std::string>& wanted) {
  const std::set<std::string> have = keys(object);
  for (const std::string& key : wanted) EXPECT_TRUE(have.contains(key)) << key << " is missing";
}

/// First `bytes` of the held-out text, so that perplexity takes a moment only.
std::string short_text(const ScratchFolder& folder, std::size_t bytes) {
  const std::string path = folder / "text.txt";
  std::ofstream(path, std::ios::binary) << read_all(kText).substr(0, bytes);
  return path;
}

TEST(Contract, Perplexity) {
  const ScratchFolder folder;
  const Outcome run =
      run_rarefy("perplexity -m " + kModel + " -f " + short_text(folder, 6000) + " -c 256 --json");
  ASSERT_EQ(run.status, 0) << run.err;
  const Json result = run.json();
  expect_keys(result, {"ppl", "nll", "windows", "context", "bits_per_byte"});
  EXPECT_EQ(result["context"], 256);
  EXPECT_GT(result["windows"].get<int>(), 3);
  EXPECT_NEAR(std::exp(result["nll"].get<double>()), result["ppl"].get<double>(),
              1e-6 * result["ppl"].get<double>());
  EXPECT_LT(result["ppl"].get<double>(),
            100.0);  // Untrained, it would be near the vocabulary's 2048.
  EXPECT_EQ(run.err, "");
}

TEST(Contract, ExplainsAGpuAnotherWay) {
  const ScratchFolder folder;
  const Outcome run = run_rarefy(
      "explain -m " + kModel + " -w layers.0.mlp.down_proj --plan-for 1,300 --device cuda --json");
  if (run.status != 0) GTEST_SKIP() << run.err;
  const Json weights = run.json()["weights"];
  ASSERT_EQ(weights.size(), 2U);
  for (const Json& weight : weights) {
    expect_keys(weight, {"name", "shape", "device", "dtype", "n", "kernel", "time_us", "bytes",
                         "dense_bytes", "from_cache", "bands", "candidates"});
    double shares = 0;
    for (const char* band : {"dense", "swing", "sparse", "empty"})
      shares += weight["bands"][band].get<double>();
    EXPECT_NEAR(shares, 1, 1e-9);
    int chosen = 0;
    bool dense = false;
    for (const Json& candidate : weight["candidates"]) {
      chosen += candidate["chosen"] ? 1 : 0;
      const bool measured = candidate["measured_us"].get<double>() > 0;
      dense |= measured && candidate["kernel"].get<std::string>().starts_with("dense");
      if (candidate["chosen"]) {
        EXPECT_EQ(candidate["kernel"], weight["kernel"]);
        EXPECT_TRUE(measured);
      } else {
        EXPECT_NE(candidate["reason"], "") << candidate["kernel"];
      }
    }
    EXPECT_EQ(chosen, 1);
    EXPECT_TRUE(dense);
  }
  // The kernels for few tokens say that these are too many.
  const auto& many = weights[1]["candidates"];
  EXPECT_TRUE(std::any_of(many.begin(), many.end(), [](const Json& c) {
    return c["kernel"] == "decode" &&
           c["reason"].get<std::string>().find("tokens") != std::string::npos;
  }));
}

TEST(Contract, GenerateIsGreedyAtTemperatureZero) {
  const Json reference = Json::parse(read_all(kModel + "/reference.json"))["reference"][0];
  const Outcome run =
      run_rarefy("generate -m " + kModel + " -p '" + reference["prompt"].get<std::string>() +
                 "' -n 16 --temp 0 --json");
  ASSERT_EQ(run.status, 0) << run.err;
  const Json result = run.json();
  expect_keys(result, {"prompt_ids", "ids", "text", "tokens_per_s"});
  EXPECT_EQ(result["prompt_ids"], reference["input_ids"]);
  const std::size_t prompt = reference["input_ids"].size();
  ASSERT_EQ(result["ids"].size(), 16U);
  for (std::size_t i = 0; i < 16; ++i)
    EXPECT_EQ(result["ids"][i], reference["greedy_ids"][prompt + i]) << i;
}

TEST(Contract, GenerateStreamsThePromptAndItsContinuation) {
  const Outcome run = run_rarefy("generate -m " + kModel + " -p 'Once upon a time' -n 8");
  ASSERT_EQ(run.status, 0) << run.err;
  EXPECT_TRUE(run.out.starts_with("Once upon a time, I shall be able to")) << run.out;
  EXPECT_EQ(run.err, "");
}

TEST(Contract, PruneThenInspect) {
  const ScratchFolder folder;
  const std::string thin = folder / "thin";
  const Outcome pruned =
      run_rarefy("prune -m " + kModel + " -o " + thin +
                 " --method wanda --sparsity 0.6 --pattern unstructured --calibration " +
                 kCalibration + " --samples 2 -c 64 --seed 3 --json");
  ASSERT_EQ(pruned.status, 0) << pruned.err;
  EXPECT_NEAR(pruned.json()["sparsity"].get<double>(), 0.6, 0.005);

  const Outcome inspected = run_rarefy("inspect -m " + thin + " --json");
  ASSERT_EQ(inspected.status, 0) << inspected.err;
  int thinned = 0;
  for (const Json& tensor : inspected.json()) {
    expect_keys(tensor,
                {"name", "shape", "dtype", "format", "nnz", "density", "bytes", "dense_bytes"});
    if (tensor["format"] != "sparse-bitmask") continue;
    ++thinned;
    EXPECT_NEAR(tensor["density"].get<double>(), 0.4, 0.005);
    EXPECT_LT(tensor["bytes"].get<double>(), 0.6 * tensor["dense_bytes"].get<double>());
  }
  EXPECT_EQ(thinned, 6 * 7);
}

TEST(Contract, PruneTakesEveryPattern) {
  const ScratchFolder folder;
  for (const std::string pattern : {"2:4", "4:8", "32x32"}) {
    const std::string thin = folder / "thin";
    const Outcome run =
        run_rarefy("prune -m " + kModel + " -o " + thin +
                   " --method magnitude --sparsity 0.5 --overwrite --json --pattern " + pattern);
    ASSERT_EQ(run.status, 0) << run.err;
    EXPECT_NEAR(run.json()["sparsity"].get<double>(), 0.5, 0.01) << pattern;
  }
}

TEST(Contract, PruneTakesARecipe) {
  const ScratchFolder folder;
  const std::string recipe = folder / "recipe.yaml";
  std::ofstream(recipe) << "prune_stage:\n  prune_modifiers:\n    SparseGPTModifier:\n      "
                           "sparsity: 0.5\n      mask_structure: '2:4'\n"
                           "      targets: ['re:.*mlp.*']\n      ignore: ['lm_head']\n";
  const Outcome run =
      run_rarefy("prune -m " + kModel + " -o " + (folder / "thin") + " --recipe " + recipe +
                 " --calibration " + kCalibration + " --samples 2 -c 64 --json");
  ASSERT_EQ(run.status, 0) << run.err;
  EXPECT_EQ(run.json()["tensors"].size(), 18U);  // gate, up and down of six layers.
}

TEST(Contract, BenchFollowsLlamaBench) {
  const Outcome run = run_rarefy("bench -m " + kModel + " -p 16 -n 4 -r 2 --no-measure --json");
  ASSERT_EQ(run.status, 0) << run.err;
  const Json rows = run.json();
  ASSERT_EQ(rows.size(), 2U);
  for (const Json& row : rows) {
    expect_keys(row,
                {"build_commit", "cpu_info",       "backends",  "model_filename", "model_type",
                 "model_size",   "model_n_params", "n_batch",   "n_threads",      "type_k",
                 "n_prompt",     "n_gen",          "n_depth",   "test_time",      "avg_ns",
                 "stddev_ns",    "avg_ts",         "stddev_ts", "samples_ns",     "samples_ts"});
    EXPECT_EQ(row["samples_ns"].size(), 2U);
    EXPECT_GT(row["avg_ts"].get<double>(), 0.0);
  }
  EXPECT_EQ(rows[0]["n_prompt"], 16);
  EXPECT_EQ(rows[1]["n_gen"], 4);
}

TEST(Contract, BenchOps) {
  const Outcome run = run_rarefy(
      "bench ops --shape 64x96 --n 1 --sparsity 0.7 --dtype bf16 --pattern uniform --device cpu "
      "--rotate-mb 1 --repetitions 3 --json");
  ASSERT_EQ(run.status, 0) << run.err;
  int chosen = 0;
  for (const Json& row : run.json()) {
    expect_keys(row, {"method", "format", "median_us", "min_us", "max_us", "bytes", "gb_per_s",
                      "speedup_vs_best_dense", "max_rel_err", "chosen"});
    chosen += row["chosen"].get<bool>() ? 1 : 0;
    EXPECT_LT(row["max_rel_err"].get<double>(), 0.02) << row["method"];
  }
  EXPECT_EQ(chosen, 1);
}

TEST(Contract, TuneExplainConvertDoctorSpeakJson) {
  const ScratchFolder folder;
  const std::string cache = " --cache-dir " + (folder / "cache");
  const Outcome tuned =
      run_rarefy("tune -m " + kModel + " --device cpu --no-measure --json" + cache);
  ASSERT_EQ(tuned.status, 0) << tuned.err;
  for (const Json& weight : tuned.json())
    expect_keys(weight, {"name", "shape", "format", "bytes", "dense_bytes", "steps"});

  const Outcome explained =
      run_rarefy("explain -m " + kModel + " -w layers.0.mlp.down_proj --device cpu --json" + cache);
  ASSERT_EQ(explained.status, 0) << explained.err;
  const Json weights = explained.json()["weights"];
  ASSERT_EQ(weights.size(), 1U);
  int chosen = 0;
  for (const Json& candidate : weights[0]["candidates"]) {
    chosen += candidate["chosen"].get<bool>() ? 1 : 0;
    EXPECT_NE(candidate["chosen"].get<bool>(), !candidate["reason"].get<std::string>().empty())
        << candidate.dump();
  }
  EXPECT_GE(chosen, 1);

  const Outcome converted =
      run_rarefy("convert -m " + kModel + " -o " + (folder / "copy") + " --storage dense --json");
  ASSERT_EQ(converted.status, 0) << converted.err;
  const Outcome doctor = run_rarefy("doctor --json" + cache);
  ASSERT_EQ(doctor.status, 0) << doctor.err;
  expect_keys(doctor.json(), {"version", "cpu", "isa", "threads", "dram_gb_per_s"});
}

TEST(Contract, ReportIsOneSelfContainedPage) {
  const ScratchFolder folder;
  const std::string page = folder / "report.html";
  const Outcome run = run_rarefy("report -m " + kModel + " -f " + short_text(folder, 4000) +
                                 " -c 128 -p 'The sea' -n 4 --maps 1 -o " + page);
  ASSERT_EQ(run.status, 0) << run.err;
  const std::string html = read_all(page);
  EXPECT_NE(html.find("<svg"), std::string::npos);
  EXPECT_EQ(html.find("<script"), std::string::npos);
  EXPECT_EQ(html.find("src=\"http"), std::string::npos);
}

TEST(Contract, ReportTellsOfSpeedInTheTerminalAndInChartsOfTheirOwn) {
  const ScratchFolder folder;
  const std::string ops = folder / "ops.json";
  std::ofstream(ops)
      << R"([{"shape":"64x96","n":1,"dtype":"bf16","pattern":"uniform","sparsity":0.7,
      "method":"bitmap.avx2","format":"bitmap","median_us":2,"bytes":4000,
      "speedup_vs_best_dense":1.77,"chosen":true},
      {"shape":"64x96","n":1,"dtype":"bf16","pattern":"uniform","sparsity":0.7,
      "method":"dense.avx2","format":"dense","median_us":4,"bytes":12288,
      "speedup_vs_best_dense":1.0,"chosen":false}])";
  const Outcome run = run_rarefy("report -m " + kModel + " --maps 0 --ops " + ops + " --charts " +
                                 (folder / "charts") + " -o " + (folder / "report.html"));
  ASSERT_EQ(run.status, 0) << run.err;
  EXPECT_NE(run.out.find("64x96, N=1, bf16"), std::string::npos) << run.out;
  EXPECT_NE(run.out.find("1.77x"), std::string::npos) << run.out;
  EXPECT_EQ(run.out.find("dense.avx2"), std::string::npos) << run.out;  // It was not chosen.
  for (const std::string chart : {"speed", "roofline"}) {
    const std::string svg = read_all(folder / ("charts/" + chart + ".svg"));
    // The ground is painted first, right behind the opening tag.
    const std::size_t open = svg.find('>');
    ASSERT_NE(open, std::string::npos) << chart;
    EXPECT_EQ(svg.find("<rect width=\"100%\""), open + 2) << chart;
  }
}

TEST(Contract, ExplainPutsTheWinnerFirstAndTheImpossibleBelow) {
  const Outcome run =
      run_rarefy("explain -m " + kModel + " -w layers.0.mlp.down_proj --plan-for 1 --device cpu");
  ASSERT_EQ(run.status, 0) << run.err;
  const std::size_t chosen = run.out.find("chosen");
  const std::size_t below = run.out.find("out from the start:");
  const std::size_t more = run.out.find("stores more than dense: ");
  ASSERT_NE(chosen, std::string::npos) << run.out;
  ASSERT_NE(more, std::string::npos) << run.out;
  // A dense weight: everything sparse stores more. Head, rule and the winner come first.
  EXPECT_LT(chosen, run.out.find("slower: "));
  EXPECT_LT(chosen, below);
  EXPECT_LT(below, more);
  EXPECT_EQ(run.out.find("stores more than dense: ", more + 1), std::string::npos) << run.out;
}

TEST(Contract, CompletionKnowsVerbsWithinVerbs) {
  // What bash would offer for `rarefy bench ops --rot`.
  const ScratchFolder folder;
  const std::string script = folder / "complete.sh";
  std::ofstream(script) << run_rarefy("completion bash").out
                        << "COMP_WORDS=(rarefy bench ops --rot)\nCOMP_CWORD=3\n_rarefy\n"
                           "test \"${COMPREPLY[*]}\" = --rotate-mb\n";
  EXPECT_EQ(std::system(("bash " + script).c_str()), 0);
  EXPECT_EQ(run_rarefy("completion zsh").status, 0);
  EXPECT_EQ(run_rarefy("completion fish").status, 0);
}

TEST(Contract, OutputThatCannotBeWrittenIsAnError) {
  if (!std::filesystem::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  const ScratchFolder folder;
  const std::string err = folder / "err";
  for (const std::string verb : {"completion bash", "--help"}) {
    const int status =
        std::system((std::string(RAREFY_BINARY) + " " + verb + " >/dev/full 2>" + err).c_str());
    EXPECT_EQ(WEXITSTATUS(status), 2) << verb;
    EXPECT_NE(read_all(err).find("standard output"), std::string::npos) << verb;
  }
}

TEST(Contract, PruneCanRepeatWhatItWrote) {
  const ScratchFolder folder;
  const std::string prune = "prune -m " + kModel + " -o " + (folder / "thin");
  ASSERT_EQ(run_rarefy(prune + " --method magnitude --pattern 1:4").status, 0);
  const std::string recipe = folder / "recipe.yaml";
  std::filesystem::copy(folder / "thin/recipe.yaml", recipe);
  const Outcome again = run_rarefy(prune + " --overwrite --json --recipe " + recipe);
  ASSERT_EQ(again.status, 0) << again.err;
  EXPECT_NEAR(again.json()["sparsity"].get<double>(), 0.75, 1e-9);
}

TEST(Contract, HelpShowsExamplesAndCompletionNamesEveryVerb) {
  const Outcome completion = run_rarefy("completion bash");
  ASSERT_EQ(completion.status, 0) << completion.err;
  for (const std::string verb : {"inspect", "prune", "tune", "explain", "perplexity", "generate",
                                 "bench", "convert", "calibrate", "report", "doctor"}) {
    const Outcome help = run_rarefy(verb + " --help");
    EXPECT_EQ(help.status, 0) << verb;
    EXPECT_NE(completion.out.find("\"" + verb + " \"*)"), std::string::npos) << verb;
    EXPECT_NE(help.out.find("Example"), std::string::npos) << verb;
    // The options that every verb takes are there, and only they are called so.
    const std::size_t common = help.out.find("Options of every verb:");
    ASSERT_NE(common, std::string::npos) << verb;
    EXPECT_GT(help.out.find("--cache-dir"), common) << verb;
    EXPECT_LT(help.out.find("--help"), common) << verb;
    if (verb != "doctor" && verb != "calibrate") {
      EXPECT_LT(help.out.find("--model"), common) << verb;
    }
  }
  EXPECT_EQ(run_rarefy("--version").status, 0);
}

}  // namespace
}  // namespace rarefy::testing
