#include "planner/plan_cache.h"

#include <fmt/format.h>

#include <exception>

#include "base/files.h"
#include "base/hash.h"
#include "planner/plan_json.h"

namespace rarefy::planning {
namespace {

/// Layout of an entry; raised when it changes, which makes older entries misses.
constexpr int kEntryVersion = 1;
/// An entry is a few kilobytes; a file larger than this is not one.
constexpr std::uintmax_t kLargestEntry = 16U << 20;

}  // namespace

std::filesystem::path PlanCache::path_of(const char* kind, const Json& key) const {
  return directory_ / fmt::format("{}-{:016x}.json", kind, fnv1a(key.dump()));
}

std::optional<Json> PlanCache::find(const char* kind, const Json& key) const {
  if (directory_.empty()) return std::nullopt;
  const std::filesystem::path path = path_of(kind, key);
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error || size > kLargestEntry) return std::nullopt;
  try {
    const Json entry = parse_json(read_text(path), path.string());
    if (!entry.is_object() || entry.value("version", 0) != kEntryVersion) return std::nullopt;
    if (!entry.contains("key") || entry.at("key") != key) return std::nullopt;
    return entry.at("value");
  } catch (const std::exception&) {
    return std::nullopt;  // Unreadable, truncated or foreign: a miss.
  }
}

void PlanCache::store(const char* kind, const Json& key, Json value) const {
  if (directory_.empty()) return;
  const Json entry{{"version", kEntryVersion}, {"key", key}, {"value", std::move(value)}};
  try {
    std::filesystem::create_directories(directory_);
    AtomicFile file(path_of(kind, key));
    file.write(entry.dump(1));
    file.commit();
  } catch (const std::exception&) {
    // A read-only or full disk costs the next process a search, nothing else.
    return;
  }
}

std::optional<CachedPlan> PlanCache::find_plan(const Json& key) const {
  const std::optional<Json> value = find("plan", key);
  if (!value) return std::nullopt;
  try {
    const Json& effort = value->at("effort");
    return CachedPlan{plan_from_json(value->at("plan")),
                      {.measured_best = effort.at("measured_best").get<int>(),
                       .time_budget_s = effort.at("time_budget_s").get<double>(),
                       .complete = effort.at("complete").get<bool>()}};
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

void PlanCache::store_plan(const Json& key, const CachedPlan& cached) const {
  store("plan", key,
        {{"plan", plan_to_json(cached.plan)},
         {"effort",
          {{"measured_best", cached.effort.measured_best},
           {"time_budget_s", cached.effort.time_budget_s},
           {"complete", cached.effort.complete}}}});
}

std::optional<KnownCeilings> PlanCache::find_ceilings(const Json& key) const {
  const std::optional<Json> value = find("ceilings", key);
  if (!value) return std::nullopt;
  try {
    const KnownCeilings known{
        .best = {value->at("dram_gb_per_s").get<double>(),
                 value->at("cache_gb_per_s").get<double>(), value->at("ghz").get<double>()},
        .measured_at = value->at("measured_at").get<std::int64_t>(),
        .times = value->at("times").get<int>()};
    const MachineCeilings& best = known.best;
    const bool sane = best.dram_gb_per_s > 0 && best.cache_gb_per_s > 0 && best.ghz > 0;
    return sane ? std::optional(known) : std::nullopt;
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

void PlanCache::store_ceilings(const Json& key, const KnownCeilings& known) const {
  store("ceilings", key,
        {{"dram_gb_per_s", known.best.dram_gb_per_s},
         {"cache_gb_per_s", known.best.cache_gb_per_s},
         {"ghz", known.best.ghz},
         {"measured_at", known.measured_at},
         {"times", known.times}});
}

KernelScales PlanCache::find_scales(const Json& key) const {
  const std::optional<Json> value = find("scales", key);
  if (!value) return {};
  try {
    return KernelScales::from_json(*value);
  } catch (const std::exception&) {
    return {};
  }
}

void PlanCache::store_scales(const Json& key, const KernelScales& scales) const {
  store("scales", key, scales.to_json());
}

}  // namespace rarefy::planning
