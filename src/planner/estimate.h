// Time of a run from counted bytes and cycles.
#pragma once

#include "rarefy/planner.h"

namespace rarefy::planning {

/// max(memory, compute) plus a share of the smaller one, which never hides completely, plus the
/// start of a job; microseconds.
double estimate_us(const Roofline& floors);

/// Floors with the weight coming from where `from_cache` says.
Roofline floors_of(const SpmmCost& cost, const MachineCeilings& ceilings, int threads,
                   bool from_cache);

/// Whether a program that touches `working_set` bytes between two uses finds the weight in a cache.
bool stays_in_cache(std::size_t working_set);

}  // namespace rarefy::planning
