// Checks of numbers on the command line, with messages that people can read: CLI11's own ranges
// print the largest double in 309 digits, and let 99999999999999999999 through.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <limits>

namespace rarefy::cli {

/// A whole number in decimal digits from `least` to `most`: "expected a whole number of at least
/// 1, got 'x'".
CLI::Validator whole(std::int64_t least,
                     std::int64_t most = std::numeric_limits<std::int64_t>::max());

/// A finite number from `least` to `most`: "expected a number from 0 to 1, got 'nan'".
CLI::Validator number(double least, double most);

}  // namespace rarefy::cli
