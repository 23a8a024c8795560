// Which kernel for this weight on this GPU: estimate all, compile and measure the best, keep the
// winner; remembered on disk.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "ops/spmm/cuda/device_spmm.h"
#include "rarefy/threads.h"

namespace rarefy::gpu {

struct SearchOptions {
  int measure_best = 24;       ///< Candidates that are compiled and measured, beside dense ones and
                               ///< a twelfth as many of every family that is not hopeless.
  double time_budget_s = 2.0;  ///< Measuring stops after this long.
  std::string only;            ///< Candidates whose name starts with this; empty: all.
  double given_for_bytes = 1;  ///< Of the kernels within this factor of the fastest, the smallest
                               ///< is taken.
  bool use_cache = true;       ///< Takes and keeps choices in the cache folder.
  bool learn = true;           ///< Corrects estimates by what earlier searches of this device have
                               ///< measured (family_scales.h), and adds what this one does.
  /// Called with each kernel that was measured: to check its answer.
  std::function<void(const std::string& name, const Operator& op)> inspect;
};

/// A candidate and what became of it.
struct Tried {
  std::string name;
  double estimate_us = 0;
  double measured_us = 0;  ///< 0: not measured.
  double least_us = 0, most_us = 0;
  double noise = 0;
  std::size_t bytes = 0;
  bool refused = false;  ///< It cannot run this.
  std::string reason;    ///< Why it was not measured.
};

struct Choice {
  std::unique_ptr<Operator> op;
  std::string name;
  double time_us = 0;
  /// Fastest first, then by estimate, then what refuses the weight; of a choice that was remembered
  /// itself alone.
  std::vector<Tried> tried;
  bool from_cache = false;
};

/// Finds the fastest candidate of all families for this weight. A candidate that does not compile
/// or does not fit in memory is passed over and keeps the reason. Throws `Error` (kUnsupported)
/// when none is left.
Choice choose(const Weight& weight, const Problem& problem, const cuda::Stream& stream,
              const SearchOptions& options = {}, ThreadPool& pool = default_pool());

/// All candidates of all families whose name starts with `only`, best estimate first. Families that
/// cannot have one are not asked.
std::vector<Candidate> enumerate(const Problem& problem, const PatternStats& pattern,
                                 const cuda::DeviceFacts& device, std::string_view only = "");

/// The candidate of this name, or a variation of one; empty when there is none.
std::optional<Candidate> find_candidate(const Problem& problem, const PatternStats& pattern,
                                        const cuda::DeviceFacts& device, const std::string& name);

/// Time of one run by graph replays, through copies of the weight that exceed the caches.
struct Measurement {
  double us = 0, noise = 0;
  double least_us = 0, most_us = 0;
};
Measurement measure(const Operator& op, const Problem& problem, const cuda::Stream& stream,
                    double budget_us = 30e3);

}  // namespace rarefy::gpu
