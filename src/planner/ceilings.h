// What this machine can do, measured: bandwidth of memory and cache, clock under vector load.
#pragma once

#include "base/json.h"
#include "planner/plan_cache.h"
#include "rarefy/planner.h"

namespace rarefy::planning {

/// Reads with all threads of `pool`, eight streams a thread; about half a second and up to 1 GiB.
MachineCeilings measure_ceilings(ThreadPool& pool);

/// Whether they should be measured again. They are measured several times, some time apart, before
/// they are believed: somebody else may have used the machine meanwhile, and a ceiling is what it
/// does alone.
bool is_due(const KnownCeilings& known, std::int64_t now);

/// `known` raised by what was measured now, at `when`.
KnownCeilings best_of_both(const KnownCeilings& known, const MachineCeilings& now,
                           std::int64_t when);

/// Ordinary figures, for when nothing may be measured.
MachineCeilings assumed_ceilings(int threads);

/// CPU brand, instruction set, threads: what the ceilings and every plan depend on.
Json machine_key(int threads);

/// Bytes that a read must pass over so that what was in the caches is gone: 1.25 times the last
/// level, at least 256 MiB, at most 1 GiB and a quarter of the memory that is free.
std::size_t eviction_bytes();

}  // namespace rarefy::planning
