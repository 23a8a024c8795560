// Threads as a model finds them before a timing: awake, each on a core of its own.
#pragma once

#include "rarefy/threads.h"

namespace rarefy::planning {

/// Lets the threads of `pool` meet in jobs until they do so as fast as with a core each, or 30 ms
/// have passed. Returns whether they did. A thread that slept, or that another library's threads
/// drove away, may wake on its caller's core and stay there as long as the two take turns: a call
/// then takes twice its time. Within a model, where operators follow each other, the system has
/// long mended that.
bool wake_apart(ThreadPool& pool);

}  // namespace rarefy::planning
