#include "base/json.h"

#include <set>
#include <vector>

#include "base/check.h"

namespace rarefy {

Json parse_json(std::string_view text, const std::string& where) {
  constexpr int kMaxDepth = 128;
  if (const auto nul = text.find('\0'); nul != std::string_view::npos) {
    // The parser would take it for the end and ignore what follows.
    fail(ErrorKind::kCorrupt, "{}: expected JSON text, found a NUL byte at offset {}", where, nul);
  }
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const Json::parser_callback_t watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxDepth)
      fail(ErrorKind::kCorrupt, "{}: JSON nests deeper than {} levels", where, kMaxDepth);
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key &&
        !keys.back().insert(parsed.get<std::string>()).second) {
      fail(ErrorKind::kCorrupt, "{}: expected distinct keys, found '{}' twice in one object", where,
           parsed.get<std::string>());
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), watch);
  } catch (const Json::exception& e) {
    std::string_view what = e.what();  // "[json.exception.parse_error.101] parse error at line …"
    if (const auto id = what.find("] "); what.starts_with('[') && id != std::string_view::npos)
      what.remove_prefix(id + 2);
    fail(ErrorKind::kCorrupt, "{}: expected valid JSON, found: {}", where, what);
  }
}

}  // namespace rarefy
