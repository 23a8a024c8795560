// Compiled kernels on disk: one file a (text, options, compiler), so that each is compiled once on
// a machine.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rarefy::cuda {

/// A folder of entries. An entry repeats its whole key and carries a checksum: a hash collision, a
/// renamed, cut or damaged file is a miss. Writers go through a temporary file and a rename, so
/// any number of processes may share the folder. Nothing here throws for what is on disk.
class CubinCache {
 public:
  /// An empty path keeps nothing.
  explicit CubinCache(std::filesystem::path folder) : folder_(std::move(folder)) {}
  /// "cubin" in Rarefy's cache folder.
  static CubinCache standard();

  [[nodiscard]] std::optional<std::vector<std::byte>> find(std::string_view key) const;
  void store(std::string_view key, std::span<const std::byte> image) const;
  [[nodiscard]] std::filesystem::path path_of(std::string_view key) const;

 private:
  std::filesystem::path folder_;
};

}  // namespace rarefy::cuda
