// rarefy prune: a thinner copy of a model.
#include <cmath>
#include <cstdio>
#include <optional>

#include "base/check.h"
#include "base/files.h"
#include "cli/numbers.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "rarefy/compress.h"

namespace rarefy::cli {
namespace {

struct Flags {
  std::string model, out, recipe, calibration;
  std::string method = "wanda", pattern = "unstructured", scope = "default",
              storage = "sparse-bitmask";
  std::optional<double> sparsity;
  std::int64_t samples = 128, context = 0;
  std::uint64_t seed = 0;
  bool overwrite = false;
  std::vector<std::string> ignore{"lm_head"};
};

/// What was asked for; N:M says its sparsity itself, and a number that says otherwise is refused.
double sparsity_of(const PrunePattern& pattern, std::optional<double> asked) {
  constexpr double kUsual = 0.5;
  const std::optional<double> implied = pattern.implied_sparsity();
  require(!implied || !asked || std::abs(*asked - *implied) < 1e-6,
          "--sparsity: expected {}, which --pattern {} says, got {}", implied.value_or(0),
          pattern.name(), asked.value_or(0));
  return implied ? *implied : asked.value_or(kUsual);
}

Recipe recipe_of(const Flags& flags) {
  if (!flags.recipe.empty()) {
    require_path(flags.recipe, "--recipe");
    return Recipe::load(flags.recipe);
  }
  PruneStep step;
  const std::optional<PruneMethod> method = parse_prune_method(flags.method);
  require(method.has_value(), "--method: expected magnitude, wanda or sparsegpt, got '{}'",
          flags.method);
  const std::optional<PruneScope> scope = parse_prune_scope(flags.scope);
  require(scope.has_value(), "--scope: expected default, tensor, row or global, got '{}'",
          flags.scope);
  step.method = *method;
  step.scope = *scope;
  step.pattern = PrunePattern::parse(flags.pattern);
  step.sparsity = sparsity_of(step.pattern, flags.sparsity);
  step.ignore = flags.ignore;
  return Recipe{{step}};
}

bool needs_text(const Recipe& recipe) {
  for (const PruneStep& step : recipe.steps) {
    if (step.method != PruneMethod::kMagnitude) return true;
  }
  return false;
}

void run(const Flags& flags, const Session& session) {
  require_path(flags.model, "-m");
  PruneOptions options;
  options.recipe = recipe_of(flags);
  if (!flags.calibration.empty()) {
    require_path(flags.calibration, "--calibration");
    options.calibration.text = read_text(flags.calibration);
  }
  require(
      !needs_text(options.recipe) || !flags.calibration.empty(),
      "--calibration: expected a text file: Wanda and SparseGPT look at the activations it causes");
  options.calibration.samples = flags.samples;
  options.calibration.context = flags.context;
  options.calibration.seed = flags.seed;
  options.storage = flags.storage == "dense" ? Storage::kDense : Storage::kSparseBitmask;
  options.overwrite = flags.overwrite;
  options.progress = &session.progress();
  const PruneReport report = prune(flags.model, flags.out, options);

  std::int64_t nnz = 0;
  std::int64_t elements = 0;
  OrderedJson tensors = OrderedJson::array();
  for (const PrunedTensor& t : report.tensors) {
    nnz += t.nnz;
    elements += t.rows * t.cols;
    tensors.push_back(
        {{"name", t.name}, {"shape", {t.rows, t.cols}}, {"nnz", t.nnz}, {"error", t.error}});
  }
  const double sparsity =
      elements > 0 ? 1.0 - static_cast<double>(nnz) / static_cast<double>(elements) : 0.0;
  if (session.json) {
    return print_json({{"out", flags.out},
                       {"sparsity", sparsity},
                       {"seconds", report.seconds},
                       {"peak_bytes", report.peak_bytes},
                       {"tensors", std::move(tensors)}});
  }
  std::printf("%s: %zu weights, %s zeros, %.1f s, at most %s in memory\n", flags.out.c_str(),
              report.tensors.size(), percent(sparsity).c_str(), report.seconds,
              human_bytes(static_cast<double>(report.peak_bytes)).c_str());
}

}  // namespace

void add_prune(CLI::App& app, Session& session) {
  auto flags = std::make_shared<Flags>();
  CLI::App* verb = app.add_subcommand("prune", "Write a thinner copy of a model");
  verb->fallthrough();
  verb->add_option("-m,--model", flags->model, "Model folder")->required()->type_name("DIR");
  verb->add_option("-o,--out", flags->out, "Folder for the thin model")
      ->required()
      ->type_name("DIR");
  CLI::Option* recipe =
      verb->add_option("--recipe", flags->recipe,
                       "YAML recipe (llm-compressor's conventions) in place of the next five")
          ->type_name("FILE");
  verb->add_option("--method", flags->method, "magnitude, wanda or sparsegpt")
      ->capture_default_str()
      ->excludes(recipe)
      ->type_name("NAME");
  verb->add_option("--sparsity", flags->sparsity,
                   "Share of zeros, 0 to 1 (default: 0.5, or what an N:M pattern says)")
      ->check(number(0, 1))
      ->excludes(recipe)
      ->type_name("S");
  verb->add_option("--pattern", flags->pattern,
                   "unstructured, N:M such as 2:4 (2 of 4 kept), or blocks such as 32x32")
      ->capture_default_str()
      ->excludes(recipe)
      ->type_name("P");
  verb->add_option(
          "--scope", flags->scope,
          "Weights that compete for zeros: default (the method's own), tensor, row or global")
      ->capture_default_str()
      ->excludes(recipe)
      ->type_name("NAME");
  verb->add_option("--ignore", flags->ignore, "Modules to leave alone; names or re:…")
      ->delimiter(',')
      ->capture_default_str()
      ->excludes(recipe)
      ->type_name("NAME,…");
  verb->add_option("--calibration", flags->calibration,
                   "Text that the model is to remember (Wanda, SparseGPT)")
      ->type_name("FILE");
  verb->add_option("--samples", flags->samples, "Calibration sequences")
      ->check(whole(1))
      ->capture_default_str()
      ->type_name("N");
  verb->add_option("-c,--context", flags->context,
                   "Tokens a sequence (default: the model's context, at most 2048)")
      ->check(whole(0))
      ->type_name("N");
  verb->add_option("--seed", flags->seed, "Seed of the calibration draw")
      ->check(whole(0))
      ->capture_default_str()
      ->type_name("N");
  verb->add_option("--storage", flags->storage, "How pruned weights are stored")
      ->check(CLI::IsMember({"sparse-bitmask", "dense"}))
      ->capture_default_str();
  verb->add_flag("--overwrite", flags->overwrite, "Replace a checkpoint that is there already");
  verb->footer(
      "Examples:\n  rarefy prune -m my-model -o thin --method sparsegpt --sparsity 0.6 "
      "--calibration text.txt\n"
      "  rarefy prune -m my-model -o thin24 --method wanda --pattern 2:4 --calibration text.txt");
  verb->callback([flags, &session] { run(*flags, session); });
}

}  // namespace rarefy::cli
