// Timing several candidates fairly on a noisy machine: round-robin, paired ratios, early stop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "rarefy/spmm.h"

namespace rarefy::planning {

/// One thing to time.
struct Trial {
  FormatSpec format;
  const SpmmKernel* kernel = nullptr;
  std::int64_t n = 1;
};

/// What runs and times trials: the real machine, or a script in tests.
class TrialRunner {
 public:
  virtual ~TrialRunner() = default;
  /// Packs what `format` needs (once) and returns the bytes of the whole packed weight. Throws
  /// `Error` when the weight cannot be packed so after all.
  virtual std::size_t prepare(const FormatSpec& format) = 0;
  /// Puts the weights where they would come from (out of the caches, say).
  virtual void begin_round() = 0;
  /// Microseconds of one run, scaled to the whole weight: the median of a batch that is long beside
  /// the clock's resolution and the waking of threads. Trials of one format take different `slot`s,
  /// each with a packed weight of its own: on the same one, the second kernel of a round would find
  /// in the caches what the first had brought there.
  virtual double run(const Trial& trial, int slot) = 0;
  /// Seconds since the runner was made.
  virtual double elapsed_s() = 0;
};

struct Timing {
  double median_us = 0;  ///< Median ratio to the first trial × the first trial's median.
  double noise = 0;      ///< Standard error of that median, relative.
  int samples = 0;       ///< 0: the deadline came first, or the trial failed.
  bool dropped = false;  ///< Clearly slower: sampled less than the others.
};

struct SamplingOptions {
  int min_rounds = 3;
  int max_rounds = 15;
  double drop_ratio = 1.25;   ///< After min_rounds: a trial this much slower than the best retires.
  double deadline_s = 1e300;  ///< On the runner's clock.
  double latest_s = 0;        ///< Up to here min_rounds are run even past the deadline: fewer say
                              ///< nothing. Packing and the first eviction may have taken the time.
  /// … and more rounds while the best leads the reference by this share, but by less than twice its
  /// standard error: a noisy minute costs time rather than the plan.
  double worth_knowing = 0.02;
};

/// Times `trials` round-robin (every round starts with another one, and mixes the others), retires
/// those that are clearly slower, and stops when the best is known beyond the noise or the deadline
/// is reached. The first trial is the reference of the paired ratios and never retires.
std::vector<Timing> sample(TrialRunner& runner, std::span<const Trial> trials,
                           const SamplingOptions& options);

/// Median of `values`, which are reordered; 0 for none.
double median(std::span<double> values);

}  // namespace rarefy::planning
