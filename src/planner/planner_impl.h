// What a Planner holds.
#pragma once

#include <mutex>
#include <optional>
#include <span>

#include "base/json.h"
#include "planner/cpu_runner.h"
#include "planner/plan_cache.h"
#include "rarefy/planner.h"

namespace rarefy {

struct Planner::Impl {
  Impl(Options given, ThreadPool& threads);

  /// The best that was ever seen. `may_measure`: they are measured where nobody has, and again
  /// where it is due.
  const MachineCeilings& get_ceilings(bool may_measure);
  Plan make_plan(const RowSource& weight, const PatternStats& pattern, const PlanRequest& request);
  [[nodiscard]] Json key_of(const RowSource& weight, const PatternStats& pattern,
                            std::span<const FormatSpec> nm_formats,
                            const PlanRequest& request) const;
  /// A usable entry of the cache, with the bytes of this weight.
  [[nodiscard]] std::optional<Plan> cached(const Json& key, const RowSource& weight,
                                           const PatternStats& pattern,
                                           const PlanRequest& request) const;

  /// A kernel that read faster than the memory ceiling shows that the ceiling was measured while
  /// somebody else used the machine: it is raised, here and in the cache.
  void learn_from(const Plan& plan, const PlanRequest& request);

  /// Keeps how far the estimates of this plan's candidates were off.
  void learn_scales(const Plan& plan, const RowSource& weight, const PlanRequest& request);
  [[nodiscard]] Json scales_key() const;
  /// What was learned about kernels so far, read once.
  const planning::KernelScales& get_scales();

  /// The kept calibration, read once; nullptr when there is none for this machine and build.
  const BlockCalibration* get_calibration();
  /// Hybrid formats to try for a weight, cut by the calibration.
  std::vector<FormatSpec> hybrids(const RowSource& weight, const PatternStats& pattern,
                                  const PlanRequest& request);

  Options options;
  ThreadPool& pool;
  planning::PlanCache cache;
  bool explain = false;
  std::mutex mutex;
  std::optional<planning::KnownCeilings> ceilings;
  bool refreshed = false;  ///< Looked whether they are due, in this process.
  planning::Evictor evictor;
  std::optional<planning::KernelScales> scales;
  bool calibration_read = false;
  std::optional<BlockCalibration> calibration;
  std::string calibration_reason;  ///< Why there is none.
};

}  // namespace rarefy
