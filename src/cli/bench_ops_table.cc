#include "cli/bench_ops_table.h"

#include <fmt/format.h>

#include <cstdio>

#include "cli/numbers.h"
#include "cli/terminal.h"

namespace rarefy::bench {
namespace {

cli::Table table_of(const Result& result) {
  cli::Table table({"method", "format", "median us", "min", "max", "MB", "GB/s", "vs dense",
                    "roofline", "rel. error", ""});
  for (const Row& row : result.rows) {
    table.add({row.method, row.format, fmt::format("{:.1f}", row.median_us),
               fmt::format("{:.1f}", row.min_us), fmt::format("{:.1f}", row.max_us),
               fmt::format("{:.2f}", static_cast<double>(row.bytes) / 1e6),
               fmt::format("{:.1f}", row.gb_per_s),
               fmt::format("{:.2f}x", row.speedup_vs_best_dense),
               row.roofline > 0 ? cli::percent(row.roofline, 0) : "-",
               fmt::format("{:.1e}", row.max_rel_err), row.chosen ? "chosen" : ""});
  }
  return table;
}

}  // namespace

void print_problem(const Result& result, const Context& context, bool markdown) {
  const std::string heading =
      fmt::format("{} N={} {} {:.1f} % sparse ({}), {} activations{}, {}", context.shape, context.n,
                  context.dtype, 100 * context.sparsity, context.pattern, context.activations,
                  context.layout == "features" ? " by features" : "",
                  context.gpu.empty() ? fmt::format("{} threads", context.threads) : context.gpu);
  const cli::Table table = table_of(result);
  std::printf(markdown ? "### %s\n\n%s\n" : "%s\n%s\n", heading.c_str(),
              (markdown ? table.markdown() : table.text()).c_str());
  for (const Skipped& s : result.skipped)
    std::printf("%s without %s: %s\n", markdown ? "-" : " ", s.name.c_str(), s.reason.c_str());
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace rarefy::bench
