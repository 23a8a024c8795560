// What goes wrong, and how it is said. Every public entry checks its arguments once, before it
// touches anything, and throws `Error` with one line: who complains (a file, a tensor, an
// operator's argument), what was expected, what came.
#pragma once

#include <stdexcept>
#include <string>

namespace rarefy {

enum class ErrorKind {
  kInvalidArgument,  ///< The caller passed something that can never work: a wrong shape, dtype or
                     ///< range.
  kUnsupported,      ///< Well-formed, but not something this build, machine or kernel does.
  kCorrupt,          ///< A file or a structure contradicts itself or its specification.
  kIo,               ///< The operating system refused: missing file, full disk, no permission.
  kOutOfMemory,      ///< An allocation or a memory budget was exceeded.
  kInternal,         ///< A broken invariant of Rarefy itself: a bug.
};

/// Stable lower-case name of a kind: "invalid-argument", "unsupported", "corrupt", "io",
/// "out-of-memory", "internal".
const char* to_string(ErrorKind kind);

/// `message` with control characters as \xNN: names read from files may contain anything.
std::string one_line(const std::string& message);

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message)
      : std::runtime_error(one_line(message)), kind_(kind) {}
  [[nodiscard]] ErrorKind kind() const { return kind_; }

 private:
  ErrorKind kind_;
};

/// Answer to "could this run?": yes, or no with the reason. Planner candidates and kernels speak
/// it.
struct Support {
  bool ok = true;
  std::string
      reason;  ///< Empty when ok; otherwise a clause such as "needs AMX, this CPU has none".

  static Support yes() { return {}; }
  static Support no(std::string why) { return {false, std::move(why)}; }
  explicit operator bool() const { return ok; }
};

}  // namespace rarefy
