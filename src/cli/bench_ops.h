// rarefy bench ops: every kernel beside its rivals on one operator.
#pragma once

#include "cli/verb.h"

namespace rarefy::cli {

/// Adds the verb `ops` below `bench`.
void add_bench_ops(CLI::App& bench, Session& session);

}  // namespace rarefy::cli
