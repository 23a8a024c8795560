// Long work reports here; the command line draws it on a terminal and is silent in a pipe. The
// library itself never prints.
#pragma once

#include <cstdint>
#include <string_view>

namespace rarefy {

class Progress {
 public:
  virtual ~Progress() = default;
  /// `done` of `total` steps of `what` are finished; `detail` names the current item. Called from
  /// one thread at a time.
  virtual void update(std::string_view what, std::int64_t done, std::int64_t total,
                      std::string_view detail) = 0;
};

/// A progress that says nothing.
Progress& no_progress();

}  // namespace rarefy
