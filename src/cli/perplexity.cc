// rarefy perplexity: how well a model predicts a text.
#include <cstdio>

#include "base/check.h"
#include "base/files.h"
#include "cli/numbers.h"
#include "cli/verb.h"
#include "rarefy/generate.h"

namespace rarefy::cli {
namespace {

struct Flags {
  ModelFlags model;
  std::string file;
  std::int64_t context = 0;
  std::int64_t windows = 0;
};

void run(const Flags& flags, const Session& session) {
  require_path(flags.file, "-f");
  LoadOptions load = flags.model.load_options(session);
  const std::string text = read_text(flags.file);
  const auto tokenizer = Tokenizer::load(flags.model.directory);
  const ModelConfig config = ModelConfig::load(flags.model.directory);
  const std::int64_t context =
      flags.context > 0 ? flags.context : std::min<std::int64_t>(config.max_positions, 2048);
  if (flags.model.plan_for.empty()) load.workloads = {{std::min<std::int64_t>(context, 512), 1.0}};
  const auto model = session.load_model(flags.model.directory, load);
  const Perplexity result =
      perplexity(*model, *tokenizer, text, context, flags.windows, session.progress());
  if (session.json) {
    return print_json({{"ppl", result.ppl},
                       {"nll", result.nll},
                       {"windows", result.windows},
                       {"context", result.context},
                       {"bits_per_byte", result.bits_per_byte},
                       {"tokens", result.tokens}});
  }
  std::printf(
      "perplexity %.4f  (%.4f nats a token, %.4f bits a byte; %lld windows of %lld tokens)\n",
      result.ppl, result.nll, result.bits_per_byte, static_cast<long long>(result.windows),
      static_cast<long long>(result.context));
}

}  // namespace

void add_perplexity(CLI::App& app, Session& session) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand(
      "perplexity", "Measure perplexity on a text, in windows that do not overlap");
  verb->fallthrough();
  flags->model.add_to(*verb);
  verb->add_option("-f,--file", flags->file, "UTF-8 text")->required()->type_name("FILE");
  verb->add_option("-c,--context", flags->context,
                   "Tokens a window (default: the model's context, at most 2048)")
      ->check(whole(2, 1 << 20))
      ->type_name("N");
  verb->add_option("--windows", flags->windows, "Stop after this many windows (0: all)")
      ->check(whole(0))
      ->type_name("N");
  verb->footer("Example:\n  rarefy perplexity -m my-model -f wiki.test.raw -c 2048");
  verb->callback([flags, &session] { run(*flags, session); });
}

}  // namespace rarefy::cli
