// Which format and which kernel for this weight on this machine: candidates, estimate, measurement,
// plan, cache.
#pragma once

#include <cstdint>
#include <filesystem>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "rarefy/matrix.h"
#include "rarefy/progress.h"
#include "rarefy/spmm.h"

namespace rarefy {

/// One use of a weight: how many columns come at once, and how often.
struct Workload {
  std::int64_t n = 1;
  double weight =
      1.0;  ///< Share of the objective Σ weight·time/time_dense; decode (n=1) usually counts most.
};

struct PlanRequest {
  std::vector<Workload> workloads{{1, 1.0}};
  DType activations = DType::kF32;
  DType output = DType::kF32;
  Precision precision = Precision::kExact;
  std::size_t memory_budget =
      std::numeric_limits<std::size_t>::max();  ///< Bytes that the packed weight may take.
  std::vector<FormatSpec> formats;  ///< Empty: every format of the search space. Otherwise only
                                    ///< these (dense is always added).
  int measure_best =
      4;  ///< How many (format, kernel) pairs to measure for each n; 0 trusts the estimate alone.
  double time_budget_s =
      2.0;  ///< Measuring stops after this long; what was not measured keeps its estimate.
};

/// A (format, kernel) pair that was looked at for one n, and what became of it.
struct Candidate {
  FormatSpec format;
  std::string kernel;
  std::int64_t n = 0;
  std::size_t bytes = 0;  ///< Of the packed weight; estimated until packed.
  double estimate_us =
      0;  ///< From bytes and cycles over this machine's measured ceilings; 0 when rejected before.
  double measured_us = 0;  ///< Median over rotating copies; 0 when not measured.
  bool chosen = false;
  std::string reason;  ///< Why it was rejected ("slower: 812 us against 640 us", "needs AMX …");
                       ///< empty when chosen.
};

/// The kernel of a plan for a range of N.
struct PlanStep {
  std::int64_t n_min = 1, n_max = std::numeric_limits<std::int64_t>::max();
  std::string kernel;
  double time_us = 0,
         dense_us = 0;  ///< At the workload's n; measured where measured, else estimated.
};

struct Plan {
  FormatSpec format;
  std::vector<PlanStep> steps;  ///< Ascending, covering 1…∞.
  std::size_t bytes = 0, dense_bytes = 0;
  std::vector<Candidate> candidates;  ///< Everything considered, in the order tried.
  bool from_cache = false;

  [[nodiscard]] const PlanStep& step(std::int64_t n) const;
};

/// What this machine can do, measured once and cached beside the plans: the two ceilings of every
/// estimate.
struct MachineCeilings {
  double dram_gb_per_s = 0;   ///< Read with several streams a thread, all threads of the pool.
  double cache_gb_per_s = 0;  ///< From the last-level cache, or L2 where a weight fits there.
  double ghz = 0;             ///< Sustained clock under vector load.
};

class Planner {
 public:
  struct Options {
    std::filesystem::path
        cache_dir;  ///< Empty: $RAREFY_CACHE, else $XDG_CACHE_HOME/rarefy, else ~/.cache/rarefy.
    bool use_cache = true;
    bool freeze = false;  ///< Never measure: take cached plans, else the estimate. Also set by
                          ///< RAREFY_FREEZE=1.
  };
  explicit Planner(Options options, ThreadPool& pool = default_pool());
  Planner() : Planner(Options{}) {}
  ~Planner();

  /// Finds the plan for `weight`. With RAREFY_EXPLAIN=1 the candidates and their fates go to the
  /// log callback of `set_log`.
  Plan plan(const RowSource& weight, const PlanRequest& request);
  /// The same when the pattern is already known.
  Plan plan(const RowSource& weight, const PatternStats& pattern, const PlanRequest& request);

  [[nodiscard]] const MachineCeilings& ceilings();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// A weight with its plan, ready to run: what a model is made of.
class Linear {
 public:
  Linear() = default;
  Linear(MatrixPtr matrix, Plan plan);
  [[nodiscard]] const Matrix& matrix() const { return *matrix_; }
  [[nodiscard]] const Plan& plan() const { return plan_; }
  explicit operator bool() const { return matrix_ != nullptr; }
  /// C = act(A·B + bias) + residual with the plan's kernel for args' N.
  void run(const SpmmArgs& args, ThreadPool& pool = default_pool()) const;

 private:
  MatrixPtr matrix_;
  Plan plan_;
  std::vector<const SpmmKernel*> kernels_;
};

}  // namespace rarefy
