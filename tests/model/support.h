// What the tests of models share.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "rarefy/model.h"

namespace rarefy::testing {

/// A planner that neither measures nor remembers.
inline Planner& quiet_planner() {
  static Planner planner(Planner::Options{.cache_dir = {}, .use_cache = false, .freeze = true});
  return planner;
}

inline std::unique_ptr<Model> load_with(const std::filesystem::path& directory,
                                        std::vector<FormatSpec> formats,
                                        ThreadPool& pool = default_pool()) {
  LoadOptions options;
  options.formats = std::move(formats);
  options.measure = false;
  return Model::load(directory, quiet_planner(), options, pool);
}

inline std::unique_ptr<Model> load_dense(const std::filesystem::path& directory,
                                         ThreadPool& pool = default_pool()) {
  return load_with(directory, {format::kDense}, pool);
}

inline std::vector<float> floats_of(const Buffer& buffer) {
  const auto values = buffer.span<float>();
  return {values.begin(), values.end()};
}

inline TokenId argmax(std::span<const float> logits) {
  return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

}  // namespace rarefy::testing
