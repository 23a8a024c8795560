// Choices of the search on disk, a file each.
#pragma once

#include <filesystem>
#include <optional>
#include <span>

#include "base/json.h"
#include "ops/spmm/cuda/search.h"

namespace rarefy::gpu {

/// The file of one choice: of a problem, a class of patterns, a device, the kernels of this build
/// and the libraries that are there. Whatever is wrong with it is a miss. A search for some
/// candidates only, or without the cache, finds and stores nothing.
class ChoiceCache {
 public:
  ChoiceCache(const SearchOptions& options, const Problem& problem, const PatternStats& pattern,
              const cuda::Device& device, std::span<const Candidate> candidates);

  /// Name, time and noise of the choice.
  [[nodiscard]] std::optional<Tried> find() const;
  void store(const Tried& best) const;

 private:
  Json key_;
  std::filesystem::path path_;  ///< Empty: there is no file.
};

}  // namespace rarefy::gpu
