#include "base/cache_folder.h"

#include <cstdlib>
#include <string>

namespace rarefy {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

}  // namespace

std::filesystem::path cache_folder() {
  if (const std::string own = environment("RAREFY_CACHE"); !own.empty()) return own;
  if (const std::string xdg = environment("XDG_CACHE_HOME"); !xdg.empty())
    return std::filesystem::path(xdg) / "rarefy";
  if (const std::string home = environment("HOME"); !home.empty())
    return std::filesystem::path(home) / ".cache" / "rarefy";
  return {};
}

}  // namespace rarefy
