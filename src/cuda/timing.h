// How long work on the device takes: replays of a graph, so that launching costs nothing.
#pragma once

#include <functional>

#include "cuda/stream.h"

namespace rarefy::cuda {

struct Timing {
  double median_us = 0;  ///< Of one call.
  double least_us = 0, most_us = 0;
  double noise = 0;  ///< Relative standard error of the median.
  int replays = 0;   ///< That were timed.
};

struct TimingOptions {
  int calls = 20;  ///< In one graph; raised to whole rounds over `copies`, down to 5 where that is
                   ///< all that three replays within the budget allow.
  int copies = 1;  ///< `enqueue` gets 0 … copies-1 in turn: rotate weights through them, so that
                   ///< none is still in L2 when its turn comes again.
  int replays = 20;          ///< At most; the first is not timed.
  double budget_us = 200e3;  ///< Stops replaying after this long, but not before 3 replays.
};

/// Times `enqueue(copy)`, which must only enqueue to `stream`.
Timing time_calls(const Stream& stream, const std::function<void(int copy)>& enqueue,
                  const TimingOptions& options = {});

/// Copies of `bytes` that together exceed `span` (several times an L2; at most 64).
int rotating_copies(std::size_t bytes, std::size_t span = std::size_t{256} << 20);

}  // namespace rarefy::cuda
