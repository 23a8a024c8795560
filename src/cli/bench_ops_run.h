// One problem, all methods: check the answers, then time them round-robin.
#pragma once

#include <string>
#include <vector>

#include "cli/bench_ops_methods.h"
#include "cli/bench_ops_weights.h"
#include "rarefy/planner.h"

namespace rarefy::bench {

struct RunOptions {
  std::int64_t n = 1;
  DType activations = DType::kBF16;
  Precision precision = Precision::kBf16;
  int repetitions = 15;          ///< Rounds.
  std::size_t rotate = 1 << 30;  ///< Bytes of weights read between two uses of the same copy.
  double seconds = 20;           ///< No new round begins after this; three are always made.
  bool all_kernels = false;
  std::string only;  ///< Methods and formats whose "name format" contains this, beside the dense
                     ///< ones; empty: all.
};

/// What one method did. The contract of `rarefy bench ops --json`, and what the table adds.
struct Row {
  std::string method, format;
  double median_us = 0, min_us = 0, max_us = 0;
  std::size_t bytes = 0;
  double gb_per_s = 0;               ///< bytes over the median
  double speedup_vs_best_dense = 0;  ///< Median of paired ratios.
  double max_rel_err = 0;            ///< Largest error over the largest result.
  bool chosen = false;               ///< What the planner picks.
  double roofline = 0;               ///< Floor over the median; 0 where unknown.
  double estimate_us = 0;            ///< What the cost model says; 0 where unknown.
  bool dense = false;
};

struct Result {
  std::vector<Row> rows;  ///< Fastest first; exactly one is chosen.
  std::vector<Skipped> skipped;
};

/// Throws `Error` (kInternal) that names the method whose answer is wrong.
Result run_problem(const BenchWeight& weight, const RunOptions& options, Planner& planner,
                   ThreadPool& pool, Progress& progress);

}  // namespace rarefy::bench
