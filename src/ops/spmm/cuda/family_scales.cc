#include "ops/spmm/cuda/family_scales.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <optional>

#include "base/cache_folder.h"
#include "base/check.h"
#include "base/files.h"
#include "base/hash.h"
#include "cuda/compiler.h"
#include "ops/spmm/cuda/device_calibration.h"
#include "ops/spmm/kernel_hash.h"

namespace rarefy::gpu {
namespace {

/// As many of the newest count.
constexpr std::size_t kKept = 9;
/// What lies outside is a mistake, not a cost model.
constexpr double kMostOff = 1000;
/// Of n in powers of two: what is further away tells nothing.
constexpr int kFarthest = 2;

bool is_sane(double ratio) {
  return ratio > 1 / kMostOff && ratio < kMostOff;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

std::string segment(const std::string& name, std::size_t begin) {
  return name.substr(begin, name.find('.', begin) - begin);
}

Json key_of(const cuda::DeviceFacts& device) {
  // Hybrids are estimated by the calibration that is there.
  const std::optional<BlockCalibration> calibration = kept_device_calibration(device);
  return {{"kernels", device_kernel_source_hash()},
          {"device", device.name},
          {"compiler", cuda::compiler_state().version},
          {"calibrated", calibration ? calibration->date : ""}};
}

std::filesystem::path path_of(const Json& key) {
  const std::filesystem::path folder = cache_folder();
  if (folder.empty()) return {};
  return folder / fmt::format("gpu-scales-{:016x}.json", fnv1a(key.dump()));
}

}  // namespace

std::string family_of(const std::string& candidate) {
  const std::string family = segment(candidate, 0);
  if (family == "decode") return family + "." + segment(candidate, family.size() + 1);
  if (family == "hybrid") {
    for (const char* rest : {"sliced", "gather", "composed"})
      if (candidate.find(fmt::format(".{}.", rest)) != std::string::npos)
        return family + "." + rest;
  }
  return family;
}

FamilyScales::Kind FamilyScales::kind_of(const std::string& candidate, const Problem& problem) {
  const auto before = static_cast<std::uint64_t>(std::max<std::int64_t>(problem.n - 1, 0));
  return {.family = family_of(candidate),
          .weight = to_string(problem.weight),
          .bucket = static_cast<int>(std::bit_width(before))};
}

double FamilyScales::of(const std::string& candidate, const Problem& problem) const {
  const Kind wanted = kind_of(candidate, problem);
  const std::vector<double>* nearest = nullptr;
  int least = 0;
  for (const auto& [kind, ratios] : ratios_) {
    if (kind.family != wanted.family || kind.weight != wanted.weight) continue;
    const int distance = std::abs(kind.bucket - wanted.bucket);
    if (distance > kFarthest || (nearest != nullptr && distance >= least)) continue;
    nearest = &ratios;
    least = distance;
  }
  return nearest == nullptr ? 1 : median(*nearest);
}

void FamilyScales::learn(const std::string& candidate, const Problem& problem, double ratio) {
  if (!is_sane(ratio)) return;
  std::vector<double>& ratios = ratios_[kind_of(candidate, problem)];
  if (ratios.size() == kKept) ratios.erase(ratios.begin());
  ratios.push_back(ratio);
}

Json FamilyScales::to_json() const {
  Json list = Json::array();
  for (const auto& [kind, ratios] : ratios_)
    list.push_back({{"family", kind.family},
                    {"weight", kind.weight},
                    {"bucket", kind.bucket},
                    {"ratios", ratios}});
  return list;
}

FamilyScales FamilyScales::from_json(const Json& json) {
  if (!json.is_array()) fail(ErrorKind::kCorrupt, "scales: expected a list");
  FamilyScales scales;
  for (const Json& entry : json) {
    auto ratios = entry.at("ratios").get<std::vector<double>>();
    if (ratios.empty() || ratios.size() > kKept || !std::ranges::all_of(ratios, is_sane))
      fail(ErrorKind::kCorrupt, "scales: expected 1 to {} positive ratios", kKept);
    scales.ratios_[{.family = entry.at("family").get<std::string>(),
                    .weight = entry.at("weight").get<std::string>(),
                    .bucket = entry.at("bucket").get<int>()}] = std::move(ratios);
  }
  return scales;
}

FamilyScales read_scales(const cuda::DeviceFacts& device) {
  const Json key = key_of(device);
  const std::filesystem::path path = path_of(key);
  std::error_code error;
  if (path.empty() || !std::filesystem::exists(path, error)) return {};
  try {
    const Json entry = parse_json(read_text(path), path.string());
    return entry.at("key") == key ? FamilyScales::from_json(entry.at("scales")) : FamilyScales();
  } catch (const std::exception&) {
    return {};
  }
}

void write_scales(const cuda::DeviceFacts& device, const FamilyScales& scales) {
  const Json key = key_of(device);
  const std::filesystem::path path = path_of(key);
  if (path.empty()) return;
  try {
    std::filesystem::create_directories(path.parent_path());
    AtomicFile file(path);
    file.write(Json{{"key", key}, {"scales", scales.to_json()}}.dump(1));
    file.publish();
  } catch (const std::exception&) {
    return;
  }
}

}  // namespace rarefy::gpu
