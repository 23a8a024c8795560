#include "ops/spmm/calibration/calibration_file.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <exception>

#include "base/check.h"
#include "base/files.h"
#include "base/json.h"
#include "ops/spmm/kernel_hash.h"
#include "rarefy/cpu.h"
#include "rarefy/log.h"

namespace rarefy {
namespace {

constexpr int kVersion = 2;  // Of the file.
constexpr std::uintmax_t kLargest = 16U << 20;

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
                        .sparse_slope = number(curve, "sparse_slope"),
                        .call_us = number(curve, "call_us"),
                        .whole_ns = number(curve, "whole_ns")});
  for (const Json& timing : json.at("timings"))
    c.timings.push_back({.dtype = dtype_of(timing),
                         .n = timing.at("n").get<std::int64_t>(),
                         .block_rows = timing.at("block_rows").get<int>(),
                         .block_cols = timing.at("block_cols").get<int>(),
                         .density = number(timing, "density"),
                         .dense_ns = number(timing, "dense_ns"),
                         .sparse_ns = number(timing, "sparse_ns"),
                         .call_us = number(timing, "call_us"),
                         .whole_ns = number(timing, "whole_ns")});
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
                      {"sparse_slope", curve.sparse_slope},
                      {"call_us", curve.call_us},
                      {"whole_ns", curve.whole_ns}});
  Json timings = Json::array();
  for (const BlockTiming& t : c.timings)
    timings.push_back({{"dtype", to_string(t.dtype)},
                       {"n", t.n},
                       {"block_rows", t.block_rows},
                       {"block_cols", t.block_cols},
                       {"density", t.density},
                       {"dense_ns", t.dense_ns},
                       {"sparse_ns", t.sparse_ns},
                       {"call_us", t.call_us},
                       {"whole_ns", t.whole_ns}});
  return {{"version", kVersion}, {"device", c.device},          {"build", c.build},
          {"date", c.date},      {"curves", std::move(curves)}, {"timings", std::move(timings)}};
}

/// Throws where the text is none of ours.
std::optional<BlockCalibration> read_calibration(const std::filesystem::path& path,
                                                 const CalibrationKey& key, std::string& reason) {
  reason = fmt::format("{} cannot be read: {} makes it again", path.string(), key.command);
  if (std::filesystem::file_size(path) > kLargest) return std::nullopt;
  const Json json = parse_json(read_text(path), path.string());
  if (json.value("version", 0) != kVersion) return std::nullopt;
  BlockCalibration found = from_json(json);
  if (found.device != key.device) {
    reason = fmt::format("{} is of another device ({}, {}; this is {}): {} makes it again",
                         path.string(), found.device, found.date, key.device, key.command);
    return std::nullopt;
  }
  if (found.build != key.build) {
    reason = fmt::format("{} is of another build's kernels ({}): {} makes it again", path.string(),
                         found.date, key.command);
    return std::nullopt;
  }
  reason.clear();
  return found;
}

}  // namespace

CalibrationKey cpu_calibration_key(int threads) {
  return {fmt::format("{}, {}, {} threads", cpu_info().brand, to_string(active_isa()), threads),
          kernel_source_hash()};
}

std::optional<BlockCalibration> find_calibration(const std::filesystem::path& folder,
                                                 const CalibrationKey& key, std::string& reason) {
  const std::filesystem::path path = folder / key.file;
  std::error_code error;
  if (folder.empty() || !std::filesystem::exists(path, error)) {
    reason = fmt::format("there is none: {} makes one", key.command);
    return std::nullopt;
  }
  std::optional<BlockCalibration> found;
  try {
    found = read_calibration(path, key, reason);
  } catch (const std::exception&) {
    found.reset();  // The reason says that it cannot be read.
  }
  if (!found) log_lines("calibration not used: " + reason);
  return found;
}

void require_calibration_folder(const std::filesystem::path& folder) {
  if (folder.empty()) return;
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error || access(folder.c_str(), W_OK) != 0)
    fail(ErrorKind::kIo, "calibrate: {}: expected a folder that can be written, to keep curves in",
         folder.string());
}

void store_calibration(const std::filesystem::path& folder, const std::string& name,
                       const BlockCalibration& calibration) {
  if (folder.empty()) return;
  require_calibration_folder(folder);
  AtomicFile file(folder / name);
  file.write(to_json(calibration).dump(1));
  file.commit();
}

}  // namespace rarefy
