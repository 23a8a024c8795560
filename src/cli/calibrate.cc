// rarefy calibrate: what a block costs on either kind of unit of this machine.
#include <fmt/format.h>

#include <cstdio>

#include "cli/numbers.h"
#include "cli/terminal.h"
#include "cli/verb.h"

namespace rarefy::cli {
namespace {

struct Flags {
  std::vector<std::string> dtypes{"bf16", "fp32"};
  std::vector<std::int64_t> n{32, 128, 512};
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
                       {"sparse_ns", t.sparse_ns}});
  }
  return {{"device", c.device},
          {"build", c.build},
          {"date", c.date},
          {"curves", std::move(curves)},
          {"timings", std::move(timings)}};
}

void run(const Flags& flags, const Session& session) {
  CalibrateOptions options;
  options.dtypes.clear();
  for (const std::string& name : flags.dtypes) options.dtypes.push_back(*parse_dtype(name));
  options.ns = flags.n;
  Planner planner = session.make_planner();
  const bool had_one = planner.calibration().has_value();
  const BlockCalibration found = planner.calibrate(options, session.progress());
  if (session.json) return print_json(as_json(found));
  if (had_one) std::printf("measured again; plans made before keep what they found\n");
  std::printf("%s, %s; ns for 1024 positions of a weight at density d\n", found.device.c_str(),
              found.date.c_str());
  Table table(
      {"dtype", "N", "dense side", "sparse side", "sparse band", "swing band", "dense band"});
  for (const BlockCurve& c : found.curves) {
    const std::string low = percent(c.sparse_until(BlockCurve::kMargin));
    const std::string high = percent(c.sparse_until(1 / BlockCurve::kMargin));
    table.add({to_string(c.dtype), fmt::format("{}", c.n),
               fmt::format("{:.1f} + {:.1f} d", c.dense_ns, c.dense_slope),
               fmt::format("{:.1f} + {:.0f} d", c.sparse_ns, c.sparse_slope),
               fmt::format("below {}", low), fmt::format("{} to {}", low, high),
               fmt::format("from {}", high)});
  }
  std::fputs(table.text().c_str(), stdout);
}

}  // namespace

void add_calibrate(CLI::App& app, Session& session) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand(
      "calibrate",
      "Measure what blocks of a weight cost on this machine's matrix units and off them");
  verb->fallthrough();
  verb->add_option("--dtype", flags->dtypes, "bf16, fp32: of weights and activations")
      ->delimiter(',')
      ->check(CLI::IsMember({"bf16", "fp32"}))
      ->capture_default_str()
      ->type_name("NAME,…");
  verb->add_option("--n", flags->n, "Tokens at once, from 17 on")
      ->delimiter(',')
      ->check(whole(17))
      ->capture_default_str()
      ->type_name("N,…");
  verb->footer("Example:\n  rarefy calibrate --dtype bf16 --n 128,512");
  verb->callback([flags, &session] { run(*flags, session); });
}

}  // namespace rarefy::cli
