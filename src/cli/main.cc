// The `rarefy` command. Exit status: 0 done, 1 a bug or the machine failed, 2 bad input.
#include <cstdio>
#include <exception>
#include <new>

#include "cli/verb.h"
#include "rarefy/error.h"

namespace {

using rarefy::ErrorKind;

int status_of(ErrorKind kind) {
  return kind == ErrorKind::kInternal || kind == ErrorKind::kOutOfMemory ? 1 : 2;
}

int report(const char* message, int status) {
  std::fflush(stdout);
  std::fprintf(stderr, "rarefy: %s\n", message);
  return status;
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
  app.option_defaults()->group("Options of every verb");
  app.add_flag("--json", session.json, "Print one JSON document on stdout and nothing else there");
  app.add_flag("-q,--quiet", session.quiet, "No progress bars");
  app.add_option("-t,--threads", session.threads,
                 "Threads (default: RAREFY_THREADS, or all usable cores)")
      ->check(CLI::Range(1, 1024))
      ->type_name("N");
  app.add_option(
         "--isa", session.isa,
         "Highest instruction set: portable, avx2, avx512, amx (default: RAREFY_ISA, or the best)")
      ->type_name("NAME");
  app.add_option("--cache-dir", session.cache_dir,
                 "Plan cache (default: RAREFY_CACHE, or $XDG_CACHE_HOME/rarefy)")
      ->type_name("DIR");
  app.add_option("--device", session.device, "auto, cpu or cuda")->type_name("NAME");
  app.parse_complete_callback([&] { session.apply(); });

  add_inspect(app, session);
  add_prune(app, session);
  add_tune(app, session);
  add_explain(app, session);
  add_perplexity(app, session);
  add_generate(app, session);
  add_bench(app, session);
  add_convert(app, session);
  add_report(app, session);
  add_doctor(app, session);
  add_completion(app, session);

  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    return report(e.what(), 2);
  } catch (const rarefy::Error& e) {
    return report(e.what(), status_of(e.kind()));
  } catch (const std::bad_alloc&) {
    return report("out of memory", 1);
  } catch (const std::exception& e) {
    return report(e.what(), 1);
  }
  return 0;
}
