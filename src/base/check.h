// Shorthand for the checks at public entries: `fail(ErrorKind::kCorrupt, "{}: expected {}, found
// {}", …)`.
#pragma once

#include <fmt/format.h>

#include "rarefy/error.h"

namespace rarefy {

template <class... Args>
[[noreturn]] void fail(ErrorKind kind, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(kind, fmt::format(format, std::forward<Args>(args)...));
}

/// Throws kInvalidArgument with the message unless `ok`.
template <class... Args>
void require(bool ok, fmt::format_string<Args...> format, Args&&... args) {
  if (!ok)
    throw Error(ErrorKind::kInvalidArgument, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace rarefy
