#include "planner/kernel_scales.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>

#include "base/check.h"
#include "planner/sampling.h"

namespace rarefy::planning {
namespace {

/// As many of the newest count: some hours of a machine that others use, too.
constexpr std::size_t kKept = 9;
/// What lies outside is a mistake (a machine that slept, a clock that jumped), not a cost model.
constexpr double kMostOff = 1000;

double median_of(std::vector<double> values) {
  return median(values);
}

}  // namespace

KernelScales::Kind KernelScales::kind_of(const SpmmKernel& kernel, const FormatSpec& format,
                                         const SpmmProblem& problem, bool from_cache) {
  const double positions = static_cast<double>(problem.m) * static_cast<double>(problem.k);
  const auto before = static_cast<std::uint64_t>(std::max<std::int64_t>(problem.n - 1, 0));
  return {.kernel = std::string(kernel.name()),
          // Limits of a hybrid are as many as there are weights.
          .format = format.format == Format::kHybrid ? "hybrid" : format.name(),
          .weight = to_string(problem.weight),
          .activations = to_string(problem.activations),
          .size = positions < 0x1p21   ? 0
                  : positions < 0x1p24 ? 1
                                       : 2,
          .bucket = static_cast<int>(std::bit_width(before)),
          .from_cache = from_cache};
}

double KernelScales::of(const SpmmKernel& kernel, const FormatSpec& format,
                        const SpmmProblem& problem, bool from_cache) const {
  const Kind wanted = kind_of(kernel, format, problem, from_cache);
  // How unlike a kind is; kinds of another kernel or place only serve for what all have in common.
  const auto distance = [&](const Kind& kind) {
    return std::abs(kind.bucket - wanted.bucket) + 2 * std::abs(kind.size - wanted.size) +
           (kind.format != wanted.format ? 16 : 0);
  };
  const std::vector<double>* nearest = nullptr;
  int least = 0;
  std::vector<double> all;
  for (const auto& [kind, ratios] : ratios_) {
    if (kind.from_cache != wanted.from_cache) continue;
    all.push_back(median_of(ratios));
    if (kind.kernel != wanted.kernel || kind.weight != wanted.weight ||
        kind.activations != wanted.activations)
      continue;
    if (nearest != nullptr && distance(kind) >= least) continue;
    nearest = &ratios;
    least = distance(kind);
  }
  if (nearest != nullptr) return median_of(*nearest);
  return all.empty() ? 1.0 : median(all);
}

void KernelScales::learn(const SpmmKernel& kernel, const FormatSpec& format,
                         const SpmmProblem& problem, bool from_cache, double ratio) {
  if (!(ratio > 1 / kMostOff && ratio < kMostOff)) return;
  std::vector<double>& ratios = ratios_[kind_of(kernel, format, problem, from_cache)];
  if (ratios.size() == kKept) ratios.erase(ratios.begin());
  ratios.push_back(ratio);
}

Json KernelScales::to_json() const {
  Json list = Json::array();
  for (const auto& [kind, ratios] : ratios_)
    list.push_back({{"kernel", kind.kernel},
                    {"format", kind.format},
                    {"weight", kind.weight},
                    {"activations", kind.activations},
                    {"size", kind.size},
                    {"bucket", kind.bucket},
                    {"from_cache", kind.from_cache},
                    {"ratios", ratios}});
  return list;
}

KernelScales KernelScales::from_json(const Json& json) {
  KernelScales scales;
  if (!json.is_array()) fail(ErrorKind::kCorrupt, "scales: expected a list");
  for (const Json& entry : json) {
    auto ratios = entry.at("ratios").get<std::vector<double>>();
    const bool sane =
        !ratios.empty() && ratios.size() <= kKept &&
        std::all_of(ratios.begin(), ratios.end(), [](double r) { return r > 0 && r < kMostOff; });
    if (!sane) fail(ErrorKind::kCorrupt, "scales: expected 1 to {} positive ratios", kKept);
    scales.ratios_[{.kernel = entry.at("kernel").get<std::string>(),
                    .format = entry.at("format").get<std::string>(),
                    .weight = entry.at("weight").get<std::string>(),
                    .activations = entry.at("activations").get<std::string>(),
                    .size = entry.at("size").get<int>(),
                    .bucket = entry.at("bucket").get<int>(),
                    .from_cache = entry.at("from_cache").get<bool>()}] = std::move(ratios);
  }
  return scales;
}

}  // namespace rarefy::planning
