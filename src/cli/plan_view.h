// A model's plans as tables and JSON: what `tune`, `explain` and the report show.
#pragma once

#include <string>

#include "cli/verb.h"

namespace rarefy::cli {

/// One object a weight: format, bytes, and for each range of N the kernel, its time and the best
/// dense time.
OrderedJson plans_as_json(const Model& model);

/// The candidates of one plan, each with its fate.
OrderedJson candidates_as_json(const Plan& plan);

/// The steps whose N was measured; all of them where nothing was.
std::string plans_as_table(const Model& model);
/// For each N what was chosen, then what was measured, then what was estimated; below, by reason,
/// what could not compete.
std::string candidates_as_table(const Plan& plan);

}  // namespace rarefy::cli
