// The sources of a search space, each once.
#pragma once

#include <set>
#include <string>
#include <utility>
#include <vector>

#include "cuda/compiler.h"
#include "rarefy/dtype.h"

namespace rarefy::gpu {

class SourceList {
 public:
  /// Unless one of this name is there.
  void add(cuda::Source source) {
    if (names_.insert(source.name).second) sources_.push_back(std::move(source));
  }
  /// The same for a source whose name leaves the dtype out.
  void add(cuda::Source source, DType dtype) {
    source.name += std::string(".") + to_string(dtype);
    add(std::move(source));
  }
  [[nodiscard]] std::vector<cuda::Source> take() && { return std::move(sources_); }

 private:
  std::set<std::string> names_;
  std::vector<cuda::Source> sources_;
};

}  // namespace rarefy::gpu
