#include "cli/help.h"

#include <string>
#include <string_view>
#include <vector>

#include "cli/terminal.h"

namespace rarefy::cli {

std::string HelpFormatter::make_footer(const CLI::App* app) const {
  const std::string footer = CLI::Formatter::make_footer(app);
  if (app->get_parent() == nullptr) return footer;
  const CLI::App* program = app;
  while (program->get_parent() != nullptr) program = program->get_parent();
  const std::vector<const CLI::Option*> common = program->get_options(
      [](const CLI::Option* option) { return option->get_group() == kCommonOptions; });
  // A group begins with an empty line, and so does what comes before a footer.
  return make_group(kCommonOptions, false, common).substr(1) + "\n" + footer;
}

std::string HelpFormatter::make_option(const CLI::Option* option, bool is_positional) const {
  std::string name = "  " + make_option_name(option, is_positional) + make_option_opts(option);
  const std::string indent(column_width_, ' ');
  // A name that leaves no gap before the column has a line of its own.
  name = columns_of(name) + 2 > column_width_ ? name + "\n" + indent
                                              : name + indent.substr(columns_of(name));
  return name + make_option_desc(option) + "\n";
}

std::string HelpFormatter::make_option_name(const CLI::Option* option, bool is_positional) const {
  std::string name = CLI::Formatter::make_option_name(option, is_positional);
  // A flag that turns something off is declared "!--name", and CLI11 shows "--name{false}".
  constexpr std::string_view kOff = "{false}";
  if (const auto at = name.find(kOff); at != std::string::npos) name.erase(at, kOff.size());
  return name;
}

std::string HelpFormatter::make_option_opts(const CLI::Option* option) const {
  if (option->get_type_size() == 0) return "";
  const std::string type = option->get_type_name();
  // "TEXT:{f32,f16}": choices say more than the type before them.
  const auto choices = type.find('{');
  std::string text = " " + (choices == std::string::npos ? type : type.substr(choices));
  if (!option->get_default_str().empty()) text += "=" + option->get_default_str();
  if (option->get_required()) text += " (required)";
  return text;
}

}  // namespace rarefy::cli
