// Data that tests may use where it is present: models and text too large for the repository.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>

namespace rarefy::testing {

/// `relative` below $RAREFY_SHARED, or below `shared/` beside the source tree; nullopt where it is
/// absent. Tests then GTEST_SKIP() and say what is missing.
inline std::optional<std::filesystem::path> shared_path(const std::string& relative) {
  const char* root = std::getenv("RAREFY_SHARED");
  const std::filesystem::path base =
      root != nullptr ? std::filesystem::path(root)
                      : std::filesystem::path(RAREFY_SOURCE_DIR).parent_path() / "shared";
  const std::filesystem::path path = base / relative;
  return std::filesystem::exists(path) ? std::optional(path) : std::nullopt;
}

/// A file or folder of the repository itself: below $RAREFY_SOURCE, or where this was built.
inline std::filesystem::path source_path(const std::string& relative) {
  const char* root = std::getenv("RAREFY_SOURCE");
  return std::filesystem::path(root != nullptr ? root : RAREFY_SOURCE_DIR) / relative;
}

}  // namespace rarefy::testing
