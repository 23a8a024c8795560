#include "cli/bench_ops_cases.h"

#include <utility>

#include "base/check.h"
#include "cli/bench_ops_weights.h"

namespace rarefy::bench {
namespace {

std::pair<std::int64_t, std::int64_t> parse_shape(const std::string& text) {
  const auto shape = parse_pair(text, 'x');
  require(shape.has_value(), "--shape: expected MxK such as 4096x14336, got '{}'", text);
  return *shape;
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
