// rarefy completion: a script that completes verbs and options in bash, zsh or fish, made from the
// options themselves.
#include <fmt/format.h>

#include <cstdio>

#include "cli/verb.h"

namespace rarefy::cli {
namespace {

std::vector<const CLI::App*> verbs_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

/// Every spelling of every option, between spaces.
std::string options_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_snames()) names.push_back("-" + name);
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  }
  return fmt::format("{}", fmt::join(names, " "));
}

/// "  <verb>) words=… ;;", and "<verb> <verb within>" before it, which the longer pattern matches.
std::string bash_cases(const CLI::App& app, const std::string& path, const std::string& common) {
  std::string cases;
  std::string within;
  for (const CLI::App* verb : verbs_of(app)) {
    cases += bash_cases(*verb, path + verb->get_name() + " ", common);
    within += verb->get_name() + " ";
  }
  if (path.empty()) return cases + "    *) words=\"" + within + options_of(app) + "\" ;;\n";
  return cases + "    \"" + path + "\"*) words=\"" + within + options_of(app) + " " + common +
         "\" ;;\n";
}

std::string bash_script(const CLI::App& app) {
  return "_rarefy() {\n"
         "  local current=\"${COMP_WORDS[COMP_CWORD]}\" words\n"
         "  case \"${COMP_WORDS[*]:1:COMP_CWORD-1} \" in\n" +
         bash_cases(app, "", options_of(app)) +
         "  esac\n"
         "  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
         "  if [[ $current != -* && COMP_CWORD -gt 1 ]]; then\n"
         "    COMPREPLY+=($(compgen -f -- \"$current\"))\n"
         "  fi\n"
         "}\n"
         "complete -o filenames -F _rarefy rarefy\n";
}

std::string fish_quoted(const std::string& text) {
  std::string quoted = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') quoted += '\\';
    quoted += c;
  }
  return quoted + "'";
}

void fish_options(const CLI::App& app, const std::string& condition, std::string& text) {
  for (const CLI::Option* option : app.get_options()) {
    if (!option->nonpositional()) continue;
    text += "complete -c rarefy" + condition;
    for (const std::string& name : option->get_snames()) text += " -s " + name;
    for (const std::string& name : option->get_lnames()) text += " -l " + name;
    if (option->get_expected_min() > 0) text += " -r";
    text += " -d " + fish_quoted(option->get_description()) + "\n";
  }
}

void fish_verbs(const CLI::App& app, const std::string& condition, std::string& text) {
  for (const CLI::App* verb : verbs_of(app)) {
    text += "complete -c rarefy" + condition + " -f -a " + verb->get_name() + " -d " +
            fish_quoted(verb->get_description()) + "\n";
    const std::string seen = " -n '__fish_seen_subcommand_from " + verb->get_name() + "'";
    fish_options(*verb, seen, text);
    fish_verbs(*verb, seen, text);
  }
}

std::string fish_script(const CLI::App& app) {
  std::string text;
  fish_options(app, "", text);
  fish_verbs(app, " -n __fish_use_subcommand", text);
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
