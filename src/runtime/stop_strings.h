// Stop strings in a stream of text whose pieces need not line up with them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace rarefy::runtime {

/// Holds back the end of the text while it may still become a stop string.
class StopStrings {
 public:
  /// Empty strings are ignored.
  explicit StopStrings(std::vector<std::string> strings);

  /// Takes more text, returns what is final now. After a stop string was completed the text before
  /// it is returned and `found()` is true; of several, the one that begins first counts.
  std::string push(std::string_view text);
  /// What was held back, when the stream ends without a stop.
  std::string flush();
  [[nodiscard]] bool found() const { return found_; }

 private:
  std::vector<std::string> strings_;
  std::string held_;
  bool found_ = false;
};

}  // namespace rarefy::runtime
