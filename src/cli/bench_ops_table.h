// One problem of `bench ops` as a table on stdout.
#pragma once

#include "cli/bench_ops_rows.h"
#include "cli/bench_ops_run.h"

namespace rarefy::bench {

/// Prints one problem as it finishes: people watch.
void print_problem(const Result& result, const Context& context, bool markdown);

}  // namespace rarefy::bench
