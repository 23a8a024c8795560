// Where the library says what it decided. It never prints: without a callback every line is
// dropped.
#pragma once

#include <functional>
#include <string_view>

namespace rarefy {

/// Called with whole lines, without the newline, from whichever thread has something to say; one
/// call at a time.
using LogCallback = std::function<void(std::string_view line)>;

/// Replaces the callback of the process; an empty one silences the log again.
void set_log(LogCallback callback);

/// Whether anybody listens: lets callers skip work that only a log would show.
bool log_enabled();

/// Hands `text` to the callback line by line; a callback that throws is the caller's problem.
void log_lines(std::string_view text);

}  // namespace rarefy
