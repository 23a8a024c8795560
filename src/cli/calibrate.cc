// rarefy calibrate: what a block costs on either kind of unit of this machine, or of its GPU.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>

#include "cli/numbers.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "ops/spmm/calibrate_device.h"

namespace rarefy::cli {
namespace {

struct Flags {
  std::vector<std::string> dtypes;  ///< Empty: those that the device is calibrated for.
  std::vector<std::int64_t> n;
};

OrderedJson as_json(const BlockCalibration& c) {
  OrderedJson curves = OrderedJson::array();
  for (const BlockCurve& curve : c.curves) {
    curves.push_back({{"dtype", to_string(curve.dtype)},
                      {"n", curve.n},
                      {"dense_ns", curve.dense_ns},
                      {"dense_slope", curve.dense_slope},
                      {"sparse_ns", curve.sparse_ns},
                      {"sparse_slope", curve.sparse_slope},
                      {"call_us", curve.call_us},
                      {"whole_ns", curve.whole_ns},
                      {"sparse_below", curve.sparse_until(BlockCurve::kMargin)},
                      {"dense_from", curve.sparse_until(1 / BlockCurve::kMargin)}});
  }
  OrderedJson timings = OrderedJson::array();
  for (const BlockTiming& t : c.timings) {
    timings.push_back({{"dtype", to_string(t.dtype)},
                       {"n", t.n},
                       {"block", {t.block_rows, t.block_cols}},
                       {"density", t.density},
                       {"dense_ns", t.dense_ns},
                       {"sparse_ns", t.sparse_ns},
                       {"call_us", t.call_us},
                       {"whole_ns", t.whole_ns}});
  }
  return {{"device", c.device},
          {"build", c.build},
          {"date", c.date},
          {"curves", std::move(curves)},
          {"timings", std::move(timings)}};
}

/// Tenths of nanoseconds, or hundredths where there are few.
std::string ns(double value) {
  return fmt::format("{:.{}f}", value, value < 10 ? 2 : 1);
}

Table table_of(const std::vector<BlockCurve>& curves) {
  const bool whole =
      std::ranges::any_of(curves, [](const BlockCurve& c) { return c.whole_ns > 0; });
  std::vector<std::string> header{"dtype",       "N",          "dense side", "sparse side",
                                  "sparse band", "swing band", "dense band", "dense call"};
  if (whole) header.emplace_back("dense product");
  Table table(std::move(header));
  for (const BlockCurve& c : curves) {
    const std::string low = percent(c.sparse_until(BlockCurve::kMargin));
    const std::string high = percent(c.sparse_until(1 / BlockCurve::kMargin));
    std::vector<std::string> row{to_string(c.dtype),
                                 fmt::format("{}", c.n),
                                 ns(c.dense_ns) + " + " + ns(c.dense_slope) + " d",
                                 ns(c.sparse_ns) + fmt::format(" + {:.0f} d", c.sparse_slope),
                                 "below " + low,
                                 low + " to " + high,
                                 "from " + high,
                                 human_time_us(c.call_us)};
    if (whole) row.push_back(ns(c.whole_ns));
    table.add(std::move(row));
  }
  return table;
}

void run(const Flags& flags, const Session& session) {
  const bool on_gpu = session.device == "cuda";
  CalibrateOptions options = on_gpu ? device_calibrate_options() : CalibrateOptions{};
  if (!flags.dtypes.empty()) options.dtypes.clear();
  for (const std::string& name : flags.dtypes) options.dtypes.push_back(*parse_dtype(name));
  if (!flags.n.empty()) options.ns = flags.n;
  const BlockCalibration found =
      on_gpu ? calibrate_device(options, session.progress())
             : session.make_planner().calibrate(options, session.progress());
  if (session.json) return print_json(as_json(found));
  std::printf("%s, %s; ns for 1024 positions of a weight at density d.%s\n%s", found.device.c_str(),
              found.date.c_str(), on_gpu ? "" : " Plans made before keep what they found",
              table_of(found.curves).text().c_str());
}

}  // namespace

void add_calibrate(CLI::App& app, Session& session) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand(
      "calibrate",
      "Measure what blocks of a weight cost on matrix units and off them, of this machine or "
      "(--device cuda) of its GPU");
  verb->fallthrough();
  verb->add_option("--dtype", flags->dtypes,
                   "Of weights and activations (default: bf16, fp32; on a GPU bf16, fp16)")
      ->delimiter(',')
      ->check(CLI::IsMember({"bf16", "fp16", "fp32"}))
      ->type_name("NAME,…");
  verb->add_option("--n", flags->n,
                   "Tokens at once, from 17 on (default: 32, 128, 512; on a GPU 128, 512, 4096)")
      ->delimiter(',')
      ->check(whole(17))
      ->type_name("N,…");
  verb->footer(
      "Examples:\n  rarefy calibrate --dtype bf16 --n 128,512\n  rarefy calibrate --device cuda");
  verb->callback([flags, &session] { run(*flags, session); });
}

}  // namespace rarefy::cli
