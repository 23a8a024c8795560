// Which Rarefy this is.
#pragma once

namespace rarefy::cli {

/// Short git hash of the tree that was built, "+" behind it where there were uncommitted changes;
/// "unknown" outside of git.
const char* commit();

}  // namespace rarefy::cli
