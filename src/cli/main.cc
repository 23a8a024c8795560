// The `rarefy` command. Exit status: 0 done, 1 a bug or the machine failed, 2 bad input.
#include <cerrno>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <new>
#include <system_error>

#include "cli/help.h"
#include "cli/numbers.h"
#include "cli/terminal.h"
#include "cli/verb.h"
#include "rarefy/error.h"

namespace {

using rarefy::ErrorKind;

int status_of(ErrorKind kind) {
  return kind == ErrorKind::kInternal || kind == ErrorKind::kOutOfMemory ? 1 : 2;
}

int report(const std::string& message, int status) {
  std::fflush(stdout);
  rarefy::cli::terminal_progress().clear();
  std::fprintf(stderr, "rarefy: %s\n", message.c_str());
  return status;
}

/// What the standard library says without our words: "maps: No such file or directory".
std::string message_of(const std::filesystem::filesystem_error& error) {
  return error.path1().string() + ": " + error.code().message();
}

/// CLI11 says only that a verb is missing, even where one is misspelt.
std::string message_of(const CLI::ParseError& error, const CLI::App& app) {
  const bool no_verb = app.get_subcommands().empty();
  if (!no_verb || dynamic_cast<const CLI::RequiredError*>(&error) == nullptr) return error.what();
  const std::vector<std::string> unknown = app.remaining();
  std::string verbs;
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; }))
    verbs += (verbs.empty() ? "" : ", ") + verb->get_name();
  return "expected a verb (" + verbs + "), got " +
         (unknown.empty() ? "none; rarefy --help says more" : "'" + unknown.front() + "'");
}

/// A full disk behind `rarefy … > file` shows only here.
int finish_output() {
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return 0;
  return report("standard output: could not write: " + std::generic_category().message(errno), 2);
}

}  // namespace

int main(int argc, char** argv) {
  using namespace rarefy::cli;
  Session session;
  CLI::App app{"Rarefy makes large models thin, and runs them fast because they are thin.",
               "rarefy"};
  app.set_version_flag("--version", "rarefy " RAREFY_VERSION);
  app.require_subcommand(1);
  app.fallthrough();
  app.formatter(std::make_shared<HelpFormatter>());
  app.option_defaults()->group(kCommonOptions);
  app.add_flag("--json", session.json, "Print one JSON document on stdout and nothing else there");
  app.add_flag("-q,--quiet", session.quiet, "No progress bars");
  app.add_option("-t,--threads", session.threads,
                 "Threads (default: RAREFY_THREADS, or all usable cores)")
      ->check(whole(1, 1024))
      ->type_name("N");
  app.add_option(
         "--isa", session.isa,
         "Highest instruction set: portable, avx2, avx512, amx (default: RAREFY_ISA, or the best)")
      ->type_name("NAME");
  app.add_option("--cache-dir", session.cache_dir,
                 "Plan cache (default: RAREFY_CACHE, or $XDG_CACHE_HOME/rarefy)")
      ->type_name("DIR");
  app.add_option("--device", session.device,
                 "Where models run: auto (a GPU if there is one), cpu or cuda (default: auto)")
      ->type_name("NAME");
  app.option_defaults()->group("Options");  // Verbs inherit the defaults.
  app.footer(
      "Example:\n  rarefy prune -m my-model -o thin --method magnitude --sparsity 0.5\n"
      "`rarefy VERB --help` lists a verb's options.");
  app.parse_complete_callback([&] { session.apply(); });

  add_inspect(app, session);
  add_prune(app, session);
  add_tune(app, session);
  add_explain(app, session);
  add_perplexity(app, session);
  add_generate(app, session);
  add_bench(app, session);
  add_convert(app, session);
  add_calibrate(app, session);
  add_report(app, session);
  add_doctor(app, session);
  add_completion(app, session);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {
    app.exit(e);
  } catch (const CLI::ParseError& e) {
    return report(message_of(e, app), 2);
  } catch (const rarefy::Error& e) {
    return report(e.what(), status_of(e.kind()));
  } catch (const std::filesystem::filesystem_error& e) {
    return report(message_of(e), 2);
  } catch (const std::bad_alloc&) {
    return report("out of memory", 1);
  } catch (const std::exception& e) {
    return report(e.what(), 1);
  }
  return finish_output();
}
