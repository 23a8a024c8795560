// Names and checksums for files of caches.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace rarefy {

/// FNV-1a, 64 bits: the same in every run and on every machine, which std::hash is not.
inline std::uint64_t fnv1a(const void* data, std::size_t bytes) {
  const auto* p = static_cast<const unsigned char*>(data);
  std::uint64_t hash = 0xCBF29CE484222325ULL;
  for (std::size_t i = 0; i < bytes; ++i) {
    hash ^= p[i];
    hash *= 0x100000001B3ULL;
  }
  return hash;
}
inline std::uint64_t fnv1a(std::string_view text) {
  return fnv1a(text.data(), text.size());
}

}  // namespace rarefy
