// Errors are part of the interface: tests check the kind and what the one line names.
#pragma once

#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "rarefy/error.h"

namespace rarefy::testing {

/// Expects `action` to throw an Error of `kind`, of one line, with every one of `parts` in it.
template <class Action>
void expect_error(Action&& action, ErrorKind kind, std::initializer_list<const char*> parts) {
  try {
    action();
  } catch (const Error& e) {
    const std::string message = e.what();
    EXPECT_EQ(e.kind(), kind) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    for (const char* part : parts) {
      EXPECT_NE(message.find(part), std::string::npos) << "'" << part << "' in: " << message;
    }
    return;
  }
  ADD_FAILURE() << "expected an error (" << to_string(kind) << "), got none";
}

}  // namespace rarefy::testing
