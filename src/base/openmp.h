// The two calls of OpenMP that Rarefy makes, to steer libraries that run on its threads. GCC's own
// omp.h cannot be read by clang-tidy.
#pragma once

extern "C" {
void omp_set_num_threads(int threads);
int omp_pause_resource_all(int kind);
}

namespace rarefy {

/// `omp_pause_soft`: ends the idle threads of the process' pool; the next parallel region starts
/// new ones. They would spin for milliseconds beside the threads of our own pool.
inline void stop_openmp_threads() {
  constexpr int kSoft = 1;
  omp_pause_resource_all(kSoft);
}

}  // namespace rarefy
