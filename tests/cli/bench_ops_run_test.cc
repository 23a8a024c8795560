#include "cli/bench_ops_run.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <vector>

#include "base/files.h"
#include "cli/bench_ops_rows.h"
#include "planner/ceilings.h"
#include "planner/plan_cache.h"
#include "rarefy/error.h"

namespace rarefy::bench {
namespace {

class BenchOps : public ::testing::Test {
 protected:
  BenchOps() {
    std::filesystem::remove_all(folder);
    // Ceilings at hand: measuring them takes a gigabyte.
    planning::PlanCache(folder).store_ceilings(planning::machine_key(pool.size()), {40, 200, 3});
    options.repetitions = 3;
    options.rotate = 0;
  }
  ~BenchOps() override { std::filesystem::remove_all(folder); }

  Result run(const WeightSpec& spec) {
    // Frozen: a plan from the estimate, so that no test waits for measurements.
    Planner planner({.cache_dir = folder, .freeze = true}, pool);
    return run_problem(make_weight(spec, pool), options, planner, pool, no_progress());
  }

  std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) / "rarefy-bench-ops";
  ThreadPool pool{2};
  RunOptions options;
};

TEST_F(BenchOps, RowsAreCheckedTimedAndCompared) {
  for (DType dtype : {DType::kBF16, DType::kF32, DType::kF16}) {
    for (std::int64_t n : {1, 20}) {
      options.n = n;
      options.activations = dtype;
      options.precision = dtype == DType::kF32 ? Precision::kExact : Precision::kBf16;
      const Result result = run({.m = 96, .k = 160, .sparsity = 0.7, .dtype = dtype});
      int chosen = 0;
      bool best_dense = false;
      std::set<std::pair<std::string, std::string>> seen;
      for (const Row& row : result.rows) {
        chosen += row.chosen ? 1 : 0;
        EXPECT_GT(row.min_us, 0) << row.method;
        EXPECT_LE(row.min_us, row.median_us) << row.method;
        EXPECT_LE(row.median_us, row.max_us) << row.method;
        EXPECT_GT(row.bytes, 0U) << row.method;
        EXPECT_LT(row.max_rel_err, 0.02) << row.method;
        EXPECT_NEAR(row.gb_per_s, static_cast<double>(row.bytes) / row.median_us / 1e3, 1e-6);
        best_dense = best_dense || (row.dense && row.speedup_vs_best_dense == 1.0);
        EXPECT_TRUE(seen.insert({row.method, row.format}).second) << row.method;
      }
      EXPECT_EQ(chosen, 1);
      EXPECT_TRUE(best_dense);
      EXPECT_TRUE(
          std::is_sorted(result.rows.begin(), result.rows.end(),
                         [](const Row& a, const Row& b) { return a.median_us < b.median_us; }));
    }
  }
}

TEST_F(BenchOps, RivalsTakePart) {
  options.activations = DType::kF32;
  options.precision = Precision::kExact;
  const Result result = run({.m = 64, .k = 64, .sparsity = 0.5, .dtype = DType::kF32});
  std::set<std::string> names;
  for (const Row& row : result.rows) names.insert(row.method);
  EXPECT_TRUE(names.contains("onednn"));
  EXPECT_TRUE(names.contains("openblas.sgemv"));
  options.n = 4;
  const Result many = run({.m = 64, .k = 64, .sparsity = 0.5, .dtype = DType::kF32});
  EXPECT_TRUE(std::any_of(many.rows.begin(), many.rows.end(),
                          [](const Row& row) { return row.method == "openblas.sgemm"; }));
}

TEST_F(BenchOps, AllListsKernelsOfEveryInstructionSet) {
  const std::size_t few = run({.m = 64, .k = 64, .sparsity = 0.5}).rows.size();
  options.all_kernels = true;
  const std::size_t all = run({.m = 64, .k = 64, .sparsity = 0.5}).rows.size();
  EXPECT_GE(all, few);
}

TEST_F(BenchOps, OnlyKeepsDenseAndTheChosen) {
  options.only = "csr16";
  for (const Row& row : run({.m = 64, .k = 64, .sparsity = 0.9}).rows)
    EXPECT_TRUE(row.dense || row.chosen || row.format == "csr16") << row.method;
}

const Context kContext{.shape = "64x64",
                       .n = 1,
                       .sparsity = 0.5,
                       .dtype = "bf16",
                       .activations = "bf16",
                       .pattern = "uniform",
                       .threads = 2,
                       .date = "2026-01-31",
                       .commit = "abc"};

TEST(RowToJson, HasTheKeysOfTheContractFirst) {
  const cli::OrderedJson json = row_to_json(
      {.method = "m", .format = "f", .median_us = 2, .min_us = 1, .max_us = 3}, kContext);
  std::vector<std::string> keys;
  for (const auto& [key, value] : json.items()) keys.push_back(key);
  const std::vector<std::string> contract{
      "method",      "format", "median_us", "min_us",
      "max_us",      "bytes",  "gb_per_s",  "speedup_vs_best_dense",
      "max_rel_err", "chosen"};
  ASSERT_GE(keys.size(), contract.size());
  EXPECT_TRUE(std::equal(contract.begin(), contract.end(), keys.begin()));
  EXPECT_TRUE(json["chosen"].is_boolean());
  EXPECT_TRUE(json["bytes"].is_number_unsigned());
}

class SaveRows : public ::testing::Test {
 protected:
  ~SaveRows() override { std::filesystem::remove_all(file.parent_path()); }
  static cli::OrderedJson rows(const std::string& method, double us, const Context& context) {
    return cli::OrderedJson::array(
        {row_to_json({.method = method, .format = "f", .median_us = us}, context)});
  }
  [[nodiscard]] std::size_t lines() const {
    const std::string text = read_text(file);
    return static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n'));
  }
  std::filesystem::path file =
      std::filesystem::path(::testing::TempDir()) / "rarefy-save-rows" / "ops.csv";
};

TEST_F(SaveRows, ReplacesTheSameProblemAndKeepsOthers) {
  save_rows(file, rows("a", 1, kContext));
  save_rows(file, rows("b", 2, kContext));
  EXPECT_EQ(lines(), 3U);
  Context later = kContext;
  later.date = "2026-02-01";
  save_rows(file, rows("a", 7, later));
  EXPECT_EQ(lines(), 3U);
  const std::string text = read_text(file);
  EXPECT_NE(text.find("a,f,7"), std::string::npos) << text;
  EXPECT_EQ(text.find("a,f,1"), std::string::npos) << text;
  Context more = kContext;
  more.n = 16;
  save_rows(file, rows("a", 9, more));
  EXPECT_EQ(lines(), 4U);
}

TEST_F(SaveRows, AProblemHasOneChoice) {
  const auto chosen = [](const std::string& method, bool is, const Context& context) {
    return cli::OrderedJson::array(
        {row_to_json({.method = method, .format = "f", .chosen = is}, context)});
  };
  const auto choices = [&] {
    const std::string text = read_text(file);
    std::size_t count = 0;
    for (std::size_t at = text.find("true"); at != std::string::npos;
         at = text.find("true", at + 1))
      ++count;
    return count;
  };
  Context other = kContext;
  other.n = 16;
  save_rows(file, chosen("a", true, other));
  save_rows(file, chosen("a", true, kContext));
  save_rows(file, chosen("b", false, kContext));
  EXPECT_EQ(choices(), 2U) << "a row that is not chosen says nothing";
  save_rows(file, chosen("b", true, kContext));
  EXPECT_EQ(choices(), 2U);
  EXPECT_EQ(lines(), 4U) << "what was measured stays";
}

TEST_F(SaveRows, RowsFromBeforeAColumnAreReplacedToo) {
  std::filesystem::create_directories(file.parent_path());
  std::ofstream(file)
      << "method,format,median_us,shape,n,sparsity,dtype,activations,pattern,threads\n"
      << "a,f,5,64x64,1,0.5,bf16,bf16,uniform,2\n"
      << "b,f,6,64x64,1,0.5,bf16,bf16,uniform,2\n";
  save_rows(file, rows("a", 1, kContext));
  EXPECT_EQ(lines(), 3U);
  Context features = kContext;
  features.layout = "features";
  save_rows(file, rows("a", 2, features));
  EXPECT_EQ(lines(), 4U) << "another layout is another problem";
}

TEST_F(SaveRows, KnowsWhatACommitHasMeasured) {
  EXPECT_FALSE(SavedProblems(file).has(kContext));
  save_rows(file, rows("a", 1, kContext));
  EXPECT_TRUE(SavedProblems(file).has(kContext));
  Context later = kContext;
  later.date = "2026-02-01";
  EXPECT_TRUE(SavedProblems(file).has(later));
  for (const auto change :
       {+[](Context& c) { c.commit = "def"; }, +[](Context& c) { c.n = 2; },
        +[](Context& c) { c.layout = "features"; }, +[](Context& c) { c.pattern = "rowskew"; }}) {
    Context other = kContext;
    change(other);
    EXPECT_FALSE(SavedProblems(file).has(other));
  }
}

TEST_F(SaveRows, ADamagedFileIsNamedAndKept) {
  save_rows(file, rows("a", 1, kContext));
  std::ofstream(file, std::ios::app) << "too,few\n";
  const std::string before = read_text(file);
  try {
    save_rows(file, rows("b", 1, kContext));
    FAIL() << "expected an error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kCorrupt);
    EXPECT_NE(std::string(error.what()).find("ops.csv:3"), std::string::npos) << error.what();
  }
  EXPECT_EQ(read_text(file), before);
}

TEST_F(SaveRows, NothingToSaveTouchesNothing) {
  save_rows(file, cli::OrderedJson::array());
  EXPECT_FALSE(std::filesystem::exists(file));
}

TEST(DeviceName, IsAFileName) {
  const std::string name = device_name();
  EXPECT_FALSE(name.empty());
  EXPECT_EQ(name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-"), std::string::npos);
}

}  // namespace
}  // namespace rarefy::bench
