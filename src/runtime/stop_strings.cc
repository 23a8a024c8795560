#include "runtime/stop_strings.h"

#include <algorithm>
#include <utility>

namespace rarefy::runtime {
namespace {

/// Length of the longest end of `text` that begins `string` but is not all of it.
std::size_t partial_match(std::string_view text, std::string_view string) {
  for (std::size_t length = std::min(text.size(), string.size() - 1); length > 0; --length) {
    if (text.substr(text.size() - length) == string.substr(0, length)) return length;
  }
  return 0;
}

}  // namespace

StopStrings::StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {
  std::erase(strings_, "");
}

std::string StopStrings::push(std::string_view text) {
  if (found_) return {};
  held_ += text;
  std::size_t first = std::string::npos;
  for (const std::string& string : strings_) first = std::min(first, held_.find(string));
  if (first != std::string::npos) {
    found_ = true;
    held_.resize(first);
    return std::exchange(held_, {});
  }
  std::size_t keep = 0;
  for (const std::string& string : strings_) keep = std::max(keep, partial_match(held_, string));
  std::string final_text = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return final_text;
}

std::string StopStrings::flush() {
  return std::exchange(held_, {});
}

}  // namespace rarefy::runtime
