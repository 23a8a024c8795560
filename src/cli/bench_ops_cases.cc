#include "cli/bench_ops_cases.h"

#include <charconv>
#include <utility>

#include "base/check.h"

namespace rarefy::bench {
namespace {

std::pair<std::int64_t, std::int64_t> parse_shape(const std::string& text) {
  std::int64_t m = 0;
  std::int64_t k = 0;
  const char* end = text.data() + text.size();
  const auto [cross, e1] = std::from_chars(text.data(), end, m);
  const bool crossed = e1 == std::errc{} && cross != end && *cross == 'x';
  const auto [stop, e2] = std::from_chars(crossed ? cross + 1 : end, end, k);
  require(crossed && e2 == std::errc{} && stop == end && m > 0 && k > 0,
          "--shape: expected MxK such as 4096x14336, got '{}'", text);
  return {m, k};
}

}  // namespace

std::vector<Case> list_cases(const std::vector<std::string>& patterns,
                             const std::vector<std::string>& shapes,
                             const std::vector<double>& sparsities) {
  std::vector<Case> cases;
  for (const std::string& pattern : patterns) {
    if (pattern.ends_with(".smtx") || pattern.ends_with(".mtx")) {
      cases.push_back({pattern});
      continue;
    }
    for (const std::string& shape : shapes) {
      const auto [m, k] = parse_shape(shape);
      for (const double sparsity : sparsities) cases.push_back({pattern, m, k, sparsity});
    }
  }
  return cases;
}

}  // namespace rarefy::bench
