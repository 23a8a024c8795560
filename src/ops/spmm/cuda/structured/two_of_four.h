// Whether a weight is 2:4: what sparse tensor cores multiply without losing anything.
#pragma once

#include <optional>
#include <string>

#include "rarefy/matrix.h"
#include "rarefy/threads.h"

namespace rarefy::gpu {

/// Why `source` is not 2:4, by the first of its groups, row after row: "row 3 has 4 nonzeros in
/// columns 8 to 11". Empty when each aligned group of four columns of every row holds at most two
/// nonzeros. -0.0 is a zero, NaN is not.
std::optional<std::string> breaks_two_of_four(const RowSource& source,
                                              ThreadPool& pool = default_pool());

}  // namespace rarefy::gpu
