// rarefy generate: text from a model, streamed.
#include "rarefy/generate.h"

#include <csignal>
#include <cstdio>

#include "cli/numbers.h"
#include "cli/terminal.h"
#include "cli/verb.h"

namespace rarefy::cli {
namespace {

struct Flags {
  ModelFlags model;
  std::string prompt;
  GenerateOptions options;
  std::string kv = "auto";
};

volatile std::sig_atomic_t interrupted = 0;
void on_interrupt(int) {
  interrupted = 1;
}

void run(const Flags& flags, const Session& session) {
  const LoadOptions load = flags.model.load_options(session);
  GenerateOptions options = flags.options;
  if (flags.kv != "auto") options.kv_dtype = parse_dtype(flags.kv);
  const Sampler check(options.sampling);  // Bad numbers are refused before a large model is loaded.
  const auto tokenizer = Tokenizer::load(flags.model.directory);
  const auto model = session.load_model(flags.model.directory, load);

  std::signal(SIGINT, on_interrupt);
  std::function<bool(std::string_view)> on_text = [](std::string_view) { return interrupted == 0; };
  if (!session.json) {
    std::fputs(flags.prompt.c_str(), stdout);
    on_text = [](std::string_view text) {
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
      return interrupted == 0;
    };
  }
  const Generation result = generate(*model, tokenizer, flags.prompt, options, on_text);
  std::signal(SIGINT, SIG_DFL);
  if (session.json) {
    return print_json({{"prompt_ids", result.prompt_ids},
                       {"ids", result.ids},
                       {"text", result.text},
                       {"tokens_per_s", result.tokens_per_s},
                       {"finish", result.finish},
                       {"prefill_s", result.prefill_s},
                       {"decode_s", result.decode_s}});
  }
  std::putchar('\n');
  if (!session.quiet && stderr_is_terminal()) {
    std::fprintf(stderr, "[%zu tokens, %.1f tokens/s, %s of weights; ended by %s]\n",
                 result.ids.size(), result.tokens_per_s,
                 human_bytes(static_cast<double>(model->weight_bytes())).c_str(),
                 result.finish.c_str());
  }
}

}  // namespace

void add_generate(CLI::App& app, Session& session) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("generate", "Write text after a prompt");
  verb->fallthrough();
  flags->model.add_to(*verb);
  GenerateOptions& o = flags->options;
  verb->add_option("-p,--prompt", flags->prompt, "Text to go on from")
      ->required()
      ->type_name("TEXT");
  verb->add_option("-n,--tokens", o.max_tokens, "At most this many new tokens")
      ->check(whole(1))
      ->capture_default_str()
      ->type_name("N");
  verb->add_option("--temp", o.sampling.temperature,
                   "Temperature; 0 always takes the likeliest token")
      ->capture_default_str()
      ->type_name("X");
  verb->add_option("--top-k", o.sampling.top_k, "Draw among the K likeliest (0: off)")
      ->capture_default_str()
      ->type_name("K");
  verb->add_option("--top-p", o.sampling.top_p,
                   "Draw among the likeliest that hold share P (1: off)")
      ->capture_default_str()
      ->type_name("P");
  verb->add_option("--min-p", o.sampling.min_p, "Drop tokens below P times the likeliest (0: off)")
      ->capture_default_str()
      ->type_name("P");
  verb->add_option("--repeat-penalty", o.sampling.repetition_penalty,
                   "Divide the logits of tokens seen before (1: off)")
      ->capture_default_str()
      ->type_name("X");
  verb->add_option("--seed", o.sampling.seed, "Seed of the draws")
      ->check(whole(0))
      ->capture_default_str()
      ->type_name("N");
  verb->add_option("--stop", o.stop, "End before this string; may be given several times")
      ->type_name("TEXT");
  verb->add_flag("!--ignore-eos", o.stop_at_eos, "Go on after an end-of-text token");
  verb->add_option("--kv", flags->kv,
                   "Precision of the KV cache (auto: f32 on the CPU, that of activations on a GPU)")
      ->check(CLI::IsMember({"auto", "f32", "f16", "bf16"}))
      ->capture_default_str();
  verb->footer(
      "Example:\n  rarefy generate -m my-model-thin -p 'Once upon a time' -n 100 --temp 0.8 "
      "--top-p 0.95");
  verb->callback([flags, &session] { run(*flags, session); });
}

}  // namespace rarefy::cli
