// What the lists of `bench ops` name: one weight for each pattern, shape and sparsity.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace rarefy::bench {

struct Case {
  std::string pattern;
  /// 0 for a file, which brings its own shape and sparsity.
  std::int64_t m = 0, k = 0;
  double sparsity = 0;

  [[nodiscard]] bool is_file() const { return m == 0; }
};

/// Every pattern with every shape ("MxK") and sparsity; a pattern that is a file (.smtx, .mtx)
/// counts once. Throws `Error` (kInvalidArgument) for a shape that is none.
std::vector<Case> list_cases(const std::vector<std::string>& patterns,
                             const std::vector<std::string>& shapes,
                             const std::vector<double>& sparsities);

}  // namespace rarefy::bench
