// Where Rarefy keeps what it can make again: plans, ceilings, compiled kernels.
#pragma once

#include <filesystem>

namespace rarefy {

/// $RAREFY_CACHE, else $XDG_CACHE_HOME/rarefy, else ~/.cache/rarefy; empty when none is known.
std::filesystem::path cache_folder();

}  // namespace rarefy
