// Jobs of thread pools on somebody else's threads.
//
// A process with two sets of threads has them in each other's way: those of OpenMP go on spinning
// for milliseconds after a region of torch's, on the core that a pool's worker wants. On borrowed
// threads a job goes to those that spin.
#pragma once

namespace rarefy {

/// Calls task(context) on at most `count` threads at once, the caller's among them, and returns
/// when all have returned. libgomp's GOMP_parallel is one.
using ParallelRunner = void (*)(void (*task)(void*), void* context, unsigned count, unsigned flags);

/// From now on jobs of all pools run there, whatever number of threads it gives them; nullptr: on
/// the pools' own threads. Results are the same bits. The runner must work as long as the process.
void borrow_threads(ParallelRunner runner);

}  // namespace rarefy
