// rarefy completion: a script that completes verbs and options in bash, zsh or fish, made from the
// options themselves.
#include <fmt/format.h>

#include <cstdio>

#include "cli/verb.h"

namespace rarefy::cli {
namespace {

/// Every spelling of every option, between spaces.
std::string options_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_snames()) names.push_back("-" + name);
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return fmt::format("{}", fmt::join(names, " "));
}

std::string bash_script(const CLI::App& app) {
  std::string verbs;
  std::string cases;
  const std::string common = options_of(app);
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) {
    verbs += (verbs.empty() ? "" : " ") + verb->get_name();
    cases +=
        "    " + verb->get_name() + ") words=\"" + options_of(*verb) + " " + common + "\" ;;\n";
  }
  return "_rarefy() {\n"
         "  local current=\"${COMP_WORDS[COMP_CWORD]}\" words\n"
         "  case \"${COMP_WORDS[1]}\" in\n" +
         cases + "    *) words=\"" + verbs + " " + common +
         "\" ;;\n"
         "  esac\n"
         "  if [[ $current == -* || $COMP_CWORD -eq 1 ]]; then COMPREPLY=($(compgen -W \"$words\" "
         "-- \"$current\"))\n"
         "  else COMPREPLY=($(compgen -f -- \"$current\")); fi\n"
         "}\n"
         "complete -o filenames -F _rarefy rarefy\n";
}

std::string fish_script(const CLI::App& app) {
  std::string text;
  for (const CLI::App* verb : app.get_subcommands([](const CLI::App*) { return true; })) {
    text += "complete -c rarefy -n __fish_use_subcommand -f -a " + verb->get_name() + " -d '" +
            verb->get_description() + "'\n";
    for (const CLI::Option* option : verb->get_options()) {
      text += "complete -c rarefy -n '__fish_seen_subcommand_from " + verb->get_name() + "'";
      for (const std::string& name : option->get_snames()) text += " -s " + name;
      for (const std::string& name : option->get_lnames()) text += " -l " + name;
      text += option->get_expected_min() > 0 ? " -r\n" : "\n";
    }
  }
  return text;
}

}  // namespace

void add_completion(CLI::App& app, Session&) {
  auto shell = std::make_shared<std::string>();
  CLI::App* verb = app.add_subcommand("completion", "Print a completion script for a shell");
  verb->add_option("shell", *shell, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
  verb->footer("Example:\n  source <(rarefy completion bash)");
  verb->callback([shell, &app] {
    std::string script;
    if (*shell == "fish") {
      script = fish_script(app);
    } else {
      script = (*shell == "zsh" ? "autoload -U +X bashcompinit && bashcompinit\n" : "") +
               bash_script(app);
    }
    std::fputs(script.c_str(), stdout);
  });
}

}  // namespace rarefy::cli
