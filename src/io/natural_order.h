// Names in the order people count: "layers.2" before "layers.10".
#pragma once

#include <string_view>

namespace rarefy::io {

/// A strict total order: runs of digits compare by value, the rest by bytes; equal values that are
/// written differently ("01", "1") by their bytes.
bool natural_less(std::string_view a, std::string_view b);

}  // namespace rarefy::io
