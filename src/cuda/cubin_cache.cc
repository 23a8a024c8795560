#include "cuda/cubin_cache.h"

#include <fmt/format.h>

#include <cstdint>
#include <cstring>
#include <exception>

#include "base/cache_folder.h"
#include "base/files.h"
#include "base/hash.h"

namespace rarefy::cuda {
namespace {

struct Header {
  char magic[8] = {'R', 'A', 'R', 'E', 'C', 'U', 'B', '1'};
  std::uint64_t key_bytes = 0, image_bytes = 0, image_hash = 0;
};

}  // namespace

CubinCache CubinCache::standard() {
  const std::filesystem::path folder = cache_folder();
  return CubinCache(folder.empty() ? folder : folder / "cubin");
}

std::filesystem::path CubinCache::path_of(std::string_view key) const {
  return folder_ / fmt::format("{:016x}.cubin", fnv1a(key));
}

std::optional<std::vector<std::byte>> CubinCache::find(std::string_view key) const {
  if (folder_.empty()) return std::nullopt;
  const std::filesystem::path path = path_of(key);
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return std::nullopt;
  try {
    const MappedFile file(path);
    Header header;
    const Header expected;
    if (file.size() < sizeof header) return std::nullopt;
    std::memcpy(&header, file.data(), sizeof header);
    const std::size_t rest = file.size() - sizeof header;
    const bool fits = std::memcmp(header.magic, expected.magic, sizeof header.magic) == 0 &&
                      header.key_bytes == key.size() && header.key_bytes <= rest &&
                      header.image_bytes == rest - header.key_bytes;
    if (!fits) return std::nullopt;
    const std::byte* stored_key = file.data() + sizeof header;
    const std::byte* image = stored_key + header.key_bytes;
    if (std::memcmp(stored_key, key.data(), key.size()) != 0) return std::nullopt;
    if (fnv1a(image, header.image_bytes) != header.image_hash) return std::nullopt;
    return std::vector<std::byte>(image, image + header.image_bytes);
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

void CubinCache::store(std::string_view key, std::span<const std::byte> image) const {
  if (folder_.empty()) return;
  Header header;
  header.key_bytes = key.size();
  header.image_bytes = image.size();
  header.image_hash = fnv1a(image.data(), image.size());
  try {
    std::filesystem::create_directories(folder_);
    AtomicFile file(path_of(key));
    file.write(&header, sizeof header);
    file.write(key);
    file.write(image.data(), image.size());
    file.publish();  // The checksum catches what a crash of the machine leaves incomplete.
  } catch (const std::exception&) {
    return;  // A read-only or full disk costs the next process a compilation, nothing else.
  }
}

}  // namespace rarefy::cuda
