// The text of --help.
#pragma once

#include <CLI/CLI.hpp>

namespace rarefy::cli {

/// Name of the group of options that the program declares and every verb takes.
inline constexpr const char* kCommonOptions = "Options of every verb";

/// CLI11's layout, with three differences: a verb lists the common options too; columns align
/// beside names that are not ASCII; and an option shows its value's name, choices and default, but
/// no ranges (the message of a wrong value says them).
class HelpFormatter final : public CLI::Formatter {
 public:
  std::string make_footer(const CLI::App* app) const override;
  std::string make_option(const CLI::Option* option, bool is_positional) const override;
  std::string make_option_name(const CLI::Option* option, bool is_positional) const override;
  std::string make_option_opts(const CLI::Option* option) const override;
};

}  // namespace rarefy::cli
