// rarefy tune: find the fastest kernel for every weight on this machine, and remember it.
#include <cstdio>

#include "cli/plan_view.h"
#include "cli/terminal.h"
#include "cli/verb.h"

namespace rarefy::cli {
namespace {

struct Flags {
  ModelFlags model;
  std::vector<std::int64_t> n{1, 128};
};

void run(const Flags& flags, const Session& session) {
  LoadOptions load = flags.model.load_options(session);
  load.workloads.clear();
  // Decode counts as in LoadOptions: the first N has weight 1, each further one 0.05.
  for (std::int64_t n : flags.n) load.workloads.push_back({n, load.workloads.empty() ? 1.0 : 0.05});
  const auto model = session.load_model(flags.model.directory, load);
  if (session.json) return print_json(plans_as_json(*model));
  std::fputs(plans_as_table(*model).c_str(), stdout);
  std::printf("weights: %s in memory, %s dense\n",
              human_bytes(static_cast<double>(model->weight_bytes())).c_str(),
              human_bytes(static_cast<double>(model->dense_weight_bytes())).c_str());
}

}  // namespace

void add_tune(CLI::App& app, Session& session) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand(
      "tune", "Search the best kernel for every weight on this machine and keep the plans");
  verb->fallthrough();
  flags->model.add_to(*verb);
  verb->add_option("--n", flags->n, "Columns to tune for; the first counts most")
      ->delimiter(',')
      ->check(CLI::PositiveNumber)
      ->type_name("N,…");
  verb->footer("Example:\n  rarefy tune -m my-model-thin --n 1,512");
  verb->callback([flags, &session] { run(*flags, session); });
}

}  // namespace rarefy::cli
