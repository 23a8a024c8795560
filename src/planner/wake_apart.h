// Threads as a model finds them before a timing: awake, each on a core of its own.
#pragma once

#include "rarefy/threads.h"

namespace rarefy::planning {

/// Runs short jobs on `pool` until one ends as fast as it does when every thread has a core, or
/// 10 ms have passed. A thread that slept, or that another library's threads drove away, may wake
/// on its caller's core and stay there for milliseconds: a call then takes twice its time, which
/// within a model, where operators follow each other, the system has long mended.
void wake_apart(ThreadPool& pool);

}  // namespace rarefy::planning
