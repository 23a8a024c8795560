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
  /// Puts the weights where they would come from (out of the caches, say); returns for how many
  /// passes they will do so, at least 1.
  virtual int begin_round() = 0;
  /// Microseconds of one run, scaled to the whole weight; `pass` counts from 0 in every round.
  /// Trials of one format take different `slot`s, each with packed weights of its own: on the same
  /// ones, the second kernel of a pass would find in the caches what the first had brought there.
  virtual double run(const Trial& trial, int slot, int pass) = 0;
  /// Seconds since the runner was made.
  virtual double elapsed_s() = 0;
};

struct Timing {
  double median_us = 0;  ///< Median ratio to the best reference × that one's median.
  double noise = 0;      ///< Standard error of that ratio, relative; 0 for the best reference.
  int samples = 0;       ///< Passes; 0: the deadline came first.
  bool dropped = false;  ///< Clearly slower: sampled less than the others.
};

struct SamplingOptions {
  std::size_t references = 1;  ///< The first so many are what the others must beat (dense).
  int min_rounds = 3;
  int max_rounds = 15;
  double drop_ratio = 1.25;   ///< After min_rounds: a trial this much slower than the best retires.
  double deadline_s = 1e300;  ///< On the runner's clock.
  double latest_s = 0;        ///< Up to here min_rounds are run even past the deadline: fewer say
                              ///< nothing. Packing and the first eviction may have taken the time.
  /// … and up to most_rounds while noise hides whether another leads the best reference by this
  /// share, or might lose as much: a noisy minute costs time rather than the plan.
  double worth_knowing = 0.02;
  int most_rounds = 45;
};

/// Times `trials` as a model calls kernels, one after another: in every pass each runs once,
/// another one first and the others mixed, so none finds threads awake and caches warm from its own
/// last run. Ratios are paired within passes, with the fastest reference. What is clearly slower
/// retires; sampling stops when the best is known beyond the noise or the deadline is reached.
std::vector<Timing> sample(TrialRunner& runner, std::span<const Trial> trials,
                           const SamplingOptions& options);

/// Median of `values`, which are reordered; 0 for none.
double median(std::span<double> values);

}  // namespace rarefy::planning
