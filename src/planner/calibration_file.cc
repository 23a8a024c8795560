#include "planner/calibration_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <exception>

#include "base/check.h"
#include "base/files.h"
#include "base/json.h"
#include "planner/ceilings.h"
#include "planner/kernel_hash.h"
#include "rarefy/cpu.h"

namespace rarefy::planning {
namespace {

constexpr int kVersion = 1;
constexpr std::uintmax_t kLargest = 16U << 20;

std::filesystem::path path_in(const std::filesystem::path& folder) {
  return folder / "calibration.json";
}

double number(const Json& json, const char* key) {
  const double value = json.at(key).get<double>();
  if (!std::isfinite(value) || value < 0)
    fail(ErrorKind::kCorrupt, "calibration: {}: expected a number of at least 0", key);
  return value;
}

DType dtype_of(const Json& json) {
  const std::optional<DType> dtype = parse_dtype(json.at("dtype").get<std::string>());
  if (!dtype) fail(ErrorKind::kCorrupt, "calibration: unknown dtype");
  return *dtype;
}

BlockCalibration from_json(const Json& json) {
  BlockCalibration c{.device = json.at("device").get<std::string>(),
                     .build = json.at("build").get<std::string>(),
                     .date = json.at("date").get<std::string>()};
  for (const Json& curve : json.at("curves"))
    c.curves.push_back({.dtype = dtype_of(curve),
                        .n = curve.at("n").get<std::int64_t>(),
                        .dense_ns = number(curve, "dense_ns"),
                        .dense_slope = number(curve, "dense_slope"),
                        .sparse_ns = number(curve, "sparse_ns"),
                        .sparse_slope = number(curve, "sparse_slope")});
  for (const Json& timing : json.at("timings"))
    c.timings.push_back({.dtype = dtype_of(timing),
                         .n = timing.at("n").get<std::int64_t>(),
                         .block_rows = timing.at("block_rows").get<int>(),
                         .block_cols = timing.at("block_cols").get<int>(),
                         .density = number(timing, "density"),
                         .dense_ns = number(timing, "dense_ns"),
                         .sparse_ns = number(timing, "sparse_ns")});
  return c;
}

Json to_json(const BlockCalibration& c) {
  Json curves = Json::array();
  for (const BlockCurve& curve : c.curves)
    curves.push_back({{"dtype", to_string(curve.dtype)},
                      {"n", curve.n},
                      {"dense_ns", curve.dense_ns},
                      {"dense_slope", curve.dense_slope},
                      {"sparse_ns", curve.sparse_ns},
                      {"sparse_slope", curve.sparse_slope}});
  Json timings = Json::array();
  for (const BlockTiming& t : c.timings)
    timings.push_back({{"dtype", to_string(t.dtype)},
                       {"n", t.n},
                       {"block_rows", t.block_rows},
                       {"block_cols", t.block_cols},
                       {"density", t.density},
                       {"dense_ns", t.dense_ns},
                       {"sparse_ns", t.sparse_ns}});
  return {{"version", kVersion}, {"device", c.device},          {"build", c.build},
          {"date", c.date},      {"curves", std::move(curves)}, {"timings", std::move(timings)}};
}

}  // namespace

CalibrationKey calibration_key(int threads) {
  return {fmt::format("{}, {}, {} threads", cpu_info().brand, to_string(active_isa()), threads),
          kernel_source_hash()};
}

std::optional<BlockCalibration> find_calibration(const std::filesystem::path& folder,
                                                 const CalibrationKey& key, std::string& reason) {
  reason = "there is none: rarefy calibrate makes one";
  if (folder.empty()) return std::nullopt;
  const std::filesystem::path path = path_in(folder);
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return std::nullopt;
  reason = fmt::format("{} cannot be read: rarefy calibrate makes it again", path.string());
  if (size > kLargest) return std::nullopt;
  try {
    const Json json = parse_json(read_text(path), path.string());
    if (json.value("version", 0) != kVersion) return std::nullopt;
    BlockCalibration found = from_json(json);
    if (found.device != key.device) {
      reason = fmt::format("{} is of another machine ({}, {}; this is {}): calibrate again",
                           path.string(), found.device, found.date, key.device);
      return std::nullopt;
    }
    if (found.build != key.build) {
      reason = fmt::format("{} is of another build's kernels ({}): calibrate again", path.string(),
                           found.date);
      return std::nullopt;
    }
    reason.clear();
    return found;
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

void require_calibration_folder(const std::filesystem::path& folder) {
  if (folder.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error || access(folder.c_str(), W_OK) != 0)
    fail(ErrorKind::kIo, "calibrate: {}: expected a folder that can be written, to keep curves in",
         folder.string());
}

void store_calibration(const std::filesystem::path& folder, const BlockCalibration& calibration) {
  if (folder.empty()) return;
  require_calibration_folder(folder);
  AtomicFile file(path_in(folder));
  file.write(to_json(calibration).dump(1));
  file.commit();
}

}  // namespace rarefy::planning
