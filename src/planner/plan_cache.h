// Plans on disk: one small JSON file a key. Whatever is wrong with a file is a miss.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/json.h"
#include "planner/kernel_scales.h"
#include "rarefy/planner.h"

namespace rarefy::planning {

/// How hard a cached plan was searched for.
struct Effort {
  int measured_best = 0;
  double time_budget_s = 0;
  bool complete = true;
};

struct CachedPlan {
  Plan plan;
  Effort effort;
};

/// Ceilings beside when they were last measured (seconds since 1970) and how often; 0 times: given,
/// not measured.
struct KnownCeilings {
  MachineCeilings best;
  std::int64_t measured_at = 0;
  int times = 0;
};

/// A folder of entries. Every entry repeats its whole key, so that neither a hash collision nor a
/// renamed file passes for another; writers go through a temporary file and a rename, so that
/// readers see an old entry or a new one. No operation throws for what is on disk, nor for a folder
/// that cannot be read or written.
class PlanCache {
 public:
  /// An empty path keeps nothing.
  explicit PlanCache(std::filesystem::path directory) : directory_(std::move(directory)) {}

  [[nodiscard]] std::optional<CachedPlan> find_plan(const Json& key) const;
  void store_plan(const Json& key, const CachedPlan& plan) const;

  [[nodiscard]] std::optional<KnownCeilings> find_ceilings(const Json& key) const;
  void store_ceilings(const Json& key, const KnownCeilings& known) const;

  /// What was learned about kernels; nothing where nobody has.
  [[nodiscard]] KernelScales find_scales(const Json& key) const;
  void store_scales(const Json& key, const KernelScales& scales) const;

  /// Where the entry of `key` lies: "plan-0123456789abcdef.json".
  [[nodiscard]] std::filesystem::path path_of(const char* kind, const Json& key) const;
  [[nodiscard]] const std::filesystem::path& directory() const { return directory_; }

 private:
  [[nodiscard]] std::optional<Json> find(const char* kind, const Json& key) const;
  void store(const char* kind, const Json& key, Json value) const;

  std::filesystem::path directory_;
};

}  // namespace rarefy::planning
