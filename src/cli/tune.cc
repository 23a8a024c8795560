// rarefy tune: find the fastest kernel for every weight on this machine, and remember it.
#include <cstdio>

#include "cli/plan_view.h"
#include "cli/terminal.h"
#include "cli/verb.h"

namespace rarefy::cli {
namespace {

void run(const ModelFlags& flags, const Session& session) {
  const LoadOptions load = flags.load_options(session);
  const auto model = session.load_model(flags.directory, load);
  if (session.json) return print_json(plans_as_json(*model));
  std::fputs(plans_as_table(*model).c_str(), stdout);
  if (model->gpu().empty())
    std::printf("N: tokens at once; --json has the ranges in between, too\n");
  std::printf("weights: %s in memory, %s dense\n",
              human_bytes(static_cast<double>(model->weight_bytes())).c_str(),
              human_bytes(static_cast<double>(model->dense_weight_bytes())).c_str());
}

}  // namespace

void add_tune(CLI::App& app, Session& session) {
  auto flags = std::make_shared<ModelFlags>();
  CLI::App* verb = app.add_subcommand(
      "tune", "Search the best kernel for every weight on this machine and keep the plans");
  verb->fallthrough();
  flags->add_to(*verb);
  verb->footer("Example:\n  rarefy tune -m my-model-thin --plan-for 1,512");
  verb->callback([flags, &session] { run(*flags, session); });
}

}  // namespace rarefy::cli
