#include "cli/numbers.h"

#include <fmt/format.h>

#include <charconv>
#include <string>
#include <system_error>

namespace rarefy::cli {
namespace {

template <class T>
bool lies_between(const std::string& text, T least, T most) {
  T value{};
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && stop == end && value >= least && value <= most;
}

/// Says `expected` of whatever `accepts` refuses; adds nothing to the help.
template <class Accepts>
CLI::Validator refusing(const Accepts& accepts, const std::string& expected) {
  return {[accepts, expected](std::string& text) {
            return accepts(text) ? std::string()
                                 : fmt::format("expected {}, got '{}'", expected, text);
          },
          ""};
}

}  // namespace

CLI::Validator whole(std::int64_t least, std::int64_t most) {
  const bool open = most == std::numeric_limits<std::int64_t>::max();
  return refusing(
      [least, most](const std::string& text) { return lies_between(text, least, most); },
      open ? fmt::format("a whole number of at least {}", least)
           : fmt::format("a whole number from {} to {}", least, most));
}

CLI::Validator number(double least, double most) {
  return refusing(
      [least, most](const std::string& text) { return lies_between(text, least, most); },
      fmt::format("a number from {} to {}", least, most));
}

}  // namespace rarefy::cli
