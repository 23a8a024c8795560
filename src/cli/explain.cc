// rarefy explain: what was chosen for a weight, what was rejected, and why.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <optional>
#include <set>
#include <utility>

#include "base/check.h"
#include "cli/block_map.h"
#include "cli/numbers.h"
#include "cli/plan_view.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "ops/decoder/device_plan.h"
#include "ops/spmm/calibrate_device.h"
#include "planner/partition.h"
#include "rarefy/checkpoint.h"

namespace rarefy::cli {
namespace {

struct Flags {
  std::string model, weight;
  std::vector<std::int64_t> n{1, 128};
  std::string activations = "auto";
};

/// Linear weights of the checkpoint whose name contains `part`.
std::vector<std::string> matching_weights(const Checkpoint& checkpoint, const std::string& part) {
  std::vector<std::string> names;
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    if (tensor.shape.size() == 2 && is_compute_dtype(tensor.dtype) &&
        tensor.name.find(part) != std::string::npos)
      names.push_back(tensor.name);
  }
  if (names.empty()) {
    fail(ErrorKind::kInvalidArgument,
         "--weight: expected (part of) the name of a matrix in {}, got '{}'; rarefy inspect lists "
         "them",
         checkpoint.directory().string(), part);
  }
  return names;
}

OrderedJson rows_of(const DevicePlan& plan) {
  OrderedJson list = OrderedJson::array();
  for (const DeviceCandidate& c : plan.candidates) {
    list.push_back({{"kernel", c.kernel},
                    {"bytes", c.bytes},
                    {"estimate_us", c.estimate_us},
                    {"measured_us", c.measured_us},
                    {"chosen", c.chosen},
                    {"reason", c.reason}});
  }
  return list;
}

/// What was measured or refused, and the best estimate of a family that has neither; of the others
/// that were only estimated, the number.
std::string table_of(const DevicePlan& plan) {
  const auto family = [](const DeviceCandidate& c) {
    return c.kernel.substr(0, c.kernel.find('.'));
  };
  std::set<std::string> shown;
  for (const DeviceCandidate& c : plan.candidates)
    if (c.measured_us > 0 || c.refused) shown.insert(family(c));
  Table table({"kernel", "size", "estimate", "measured", "verdict"});
  const auto time = [](double us) { return us > 0 ? human_time_us(us) : std::string("-"); };
  int estimated = 0;
  double best_us = 0;  // Of those.
  for (const DeviceCandidate& c : plan.candidates) {
    if (c.measured_us == 0 && !c.refused && !shown.insert(family(c)).second) {
      if (estimated++ == 0 || c.estimate_us < best_us) best_us = c.estimate_us;
      continue;
    }
    table.add({c.kernel, c.bytes > 0 ? human_bytes(static_cast<double>(c.bytes)) : "-",
               time(c.estimate_us), time(c.measured_us), c.chosen ? "chosen" : c.reason});
  }
  std::string text = table.text();
  if (estimated > 0)
    text += fmt::format("and {} more, not measured: estimated at {} or more\n", estimated,
                        time(best_us));
  return text;
}

/// The largest n that is planned for: where blocks matter.
std::int64_t most_tokens(const std::vector<std::int64_t>& ns) {
  return std::max<std::int64_t>(17, *std::max_element(ns.begin(), ns.end()));
}

BlockCurve curve_for(const std::optional<BlockCalibration>& calibration, DType dtype,
                     std::int64_t n) {
  const BlockCurve* curve = calibration ? calibration->curve(dtype, n) : nullptr;
  return curve != nullptr ? *curve : planning::assumed_curve(n);
}

OrderedJson bands_as_json(const PatternStats& pattern, const BlockCurve& curve) {
  const BandShares shares = band_shares(pattern, curve);
  OrderedJson bands{{"n", curve.n}};
  for (const Band band : {Band::kDense, Band::kSwing, Band::kSparse, Band::kEmpty})
    bands[to_string(band)] = shares[static_cast<std::size_t>(band)];
  return bands;
}

void print_calibration(const std::optional<BlockCalibration>& calibration,
                       const std::string& why_none) {
  if (calibration) {
    std::printf("calibration: %s\n", calibration->date.c_str());
  } else {
    std::printf("no calibration, blocks are cut by ordinary figures: %s\n", why_none.c_str());
  }
}

void explain_on_gpu(const Flags& flags, const Session& session, const Checkpoint& checkpoint) {
  OrderedJson list = OrderedJson::array();
  bool first = true;
  for (const std::string& name : matching_weights(checkpoint, flags.weight)) {
    const auto source = checkpoint.source(name);
    const DType dtype = flags.activations == "auto"    ? source->dtype()
                        : flags.activations == "exact" ? DType::kF32
                                                       : *parse_dtype(flags.activations);
    const PatternStats pattern = pattern_stats(*source);
    for (const std::int64_t n : flags.n) {
      const DevicePlan plan = plan_on_device(*source, n, dtype);
      if (session.json) {
        list.push_back({{"name", name},
                        {"shape", {source->rows(), source->cols()}},
                        {"device", plan.device},
                        {"dtype", to_string(dtype)},
                        {"n", n},
                        {"kernel", plan.kernel},
                        {"time_us", plan.time_us},
                        {"bytes", plan.bytes},
                        {"dense_bytes", plan.dense_bytes},
                        {"from_cache", plan.from_cache},
                        {"bands", bands_as_json(pattern, device_curve(dtype, n))},
                        {"candidates", rows_of(plan)}});
        continue;
      }
      if (std::exchange(first, false)) {
        std::printf("%s; a model runs q, k and v as one weight, and gate and up\n",
                    plan.device.c_str());
        std::string uncalibrated;
        const std::optional<BlockCalibration> calibration = device_calibration(&uncalibrated);
        print_calibration(calibration, uncalibrated);
      }
      std::printf("\n%s  %lldx%lld %s, %lld at once → %s%s\n%s", name.c_str(),
                  static_cast<long long>(source->rows()), static_cast<long long>(source->cols()),
                  to_string(dtype), static_cast<long long>(n), plan.kernel.c_str(),
                  plan.from_cache ? "  (plan from cache, measured again)" : "",
                  table_of(plan).c_str());
    }
    if (!session.json)
      std::fputs(block_map(pattern, device_curve(dtype, most_tokens(flags.n))).c_str(), stdout);
  }
  if (session.json) print_json({{"weights", std::move(list)}});
}

void run(const Flags& flags, const Session& session) {
  require_path(flags.model, "-m");
  const auto checkpoint = Checkpoint::open(flags.model);
  if (session.device == "cuda" || (session.device == "auto" && cuda_support()))
    return explain_on_gpu(flags, session, *checkpoint);
  const std::vector<std::string> names = matching_weights(*checkpoint, flags.weight);
  require(flags.activations != "f16", "--activations f16: expected a GPU");
  Planner planner = session.make_planner();
  PlanRequest request;
  request.workloads = workloads_for(flags.n);
  if (flags.activations == "bf16") request.precision = Precision::kBf16;

  const MachineCeilings& ceilings = planner.ceilings();
  std::string uncalibrated;
  const std::optional<BlockCalibration> calibration = planner.calibration(&uncalibrated);
  OrderedJson list = OrderedJson::array();
  if (!session.json) {
    std::printf(
        "this machine: %.1f GB/s from memory, %.1f GB/s from cache, %.2f GHz under vector load\n",
        ceilings.dram_gb_per_s, ceilings.cache_gb_per_s, ceilings.ghz);
    print_calibration(calibration, uncalibrated);
  }
  for (const std::string& name : names) {
    const auto source = checkpoint->source(name);
    const PatternStats pattern = pattern_stats(*source, planner.pool());
    const Plan plan = planner.plan(*source, pattern, request);
    const BlockCurve curve = curve_for(calibration, source->dtype(), most_tokens(flags.n));
    if (session.json) {
      list.push_back({{"name", name},
                      {"shape", {source->rows(), source->cols()}},
                      {"format", plan.format.name()},
                      {"bytes", plan.bytes},
                      {"dense_bytes", plan.dense_bytes},
                      {"from_cache", plan.from_cache},
                      {"bands", bands_as_json(pattern, curve)},
                      {"candidates", candidates_as_json(plan)}});
      continue;
    }
    std::printf("\n%s  %lldx%lld → %s%s\n%s", name.c_str(), static_cast<long long>(source->rows()),
                static_cast<long long>(source->cols()), plan.format.name().c_str(),
                plan.from_cache ? "  (plan from cache)" : "", candidates_as_table(plan).c_str());
    std::fputs(block_map(pattern, curve).c_str(), stdout);
  }
  if (session.json)
    print_json({{"ceilings",
                 {{"dram_gb_per_s", ceilings.dram_gb_per_s},
                  {"cache_gb_per_s", ceilings.cache_gb_per_s},
                  {"ghz", ceilings.ghz}}},
                {"weights", std::move(list)}});
}

}  // namespace

void add_explain(CLI::App& app, Session& session) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb =
      app.add_subcommand("explain", "Say what was chosen for a weight, what was rejected, and why");
  verb->fallthrough();
  verb->add_option("-m,--model", flags->model, "Model folder")->required()->type_name("DIR");
  verb->add_option("-w,--weight", flags->weight, "Name of a weight, or a part of it")
      ->required()
      ->type_name("NAME");
  verb->add_option("--plan-for", flags->n, "Tokens at once to plan for; the first counts most")
      ->delimiter(',')
      ->check(whole(1))
      ->type_name("N,…");
  verb->add_option("--activations", flags->activations,
                   "exact: f32; bf16 or (GPU) f16: rounded; auto: exact on the CPU, the "
                   "checkpoint's on a GPU")
      ->check(CLI::IsMember({"auto", "exact", "bf16", "f16"}))
      ->capture_default_str();
  verb->footer("Example:\n  rarefy explain -m my-model-thin -w layers.0.mlp.down_proj");
  verb->callback([flags, &session] { run(*flags, session); });
}

}  // namespace rarefy::cli
