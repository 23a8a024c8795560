#include "planner/choose.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace rarefy::planning {
namespace {

/// A sparse format must beat dense by this much at least, and lose no more were it slower by twice
/// its standard error: between runs of a program, timings differ by a per cent or two even where
/// they are stable.
constexpr double kLeastGain = 0.02;
/// Estimates are further off than measurements; a plan that rests on them alone wants more.
constexpr double kLeastEstimatedGain = 0.10;
/// Sparse formats whose objectives differ by no more than this, or by their noise up to the second
/// number, count as equally fast: the smallest is taken. So a repeated search ends alike, and what
/// cannot be told apart costs no memory. Up to the second number, too, where the estimates, which
/// learned from other weights and other hours, say the opposite of the measurement.
constexpr double kTie = 0.03;
constexpr double kMostTie = 0.08;
/// Dense formats that are this close are equally fast, whatever the noise: the lower estimate
/// decides. No more than a plan may lose to dense.
constexpr double kDenseTie = 0.02;
/// Kernels of one format that are this close are equally fast: the lower estimate decides.
constexpr double kKernelTie = 0.02;

bool is_dense(const FormatSpec& format) {
  return format.format == Format::kDense;
}

/// Objective of one format, and how sure it is.
struct Score {
  double value = std::numeric_limits<double>::infinity();
  double estimated = std::numeric_limits<double>::infinity();  ///< The same of estimates alone.
  double noise = 0;
  bool measured = true;  ///< At every n.
  bool complete = true;  ///< A kernel at every n.
};

/// The lowest dense estimate at `n`; 1 when there is none.
double dense_estimate_us(std::span<const Entry> entries, std::int64_t n) {
  double lowest = std::numeric_limits<double>::infinity();
  for (const Entry& entry : entries) {
    const Candidate& c = entry.candidate;
    if (entry.kernel != nullptr && c.n == n && is_dense(c.format) && c.estimate_us > 0)
      lowest = std::min(lowest, c.estimate_us);
  }
  return std::isfinite(lowest) ? lowest : 1.0;
}

Score score_of(std::span<const Entry> entries, const PlanRequest& request,
               const FormatSpec& format) {
  Score score;
  double sum = 0;
  double estimates = 0;
  double weights = 0;
  double variance = 0;  // Of the sum: a noisy workload of little weight decides little.
  for (const Workload& workload : request.workloads) {
    const Entry* best = best_of(entries, format, workload.n);
    if (best == nullptr) return {.measured = false, .complete = false};
    const double dense = dense_time_us(entries, workload.n);
    const double term = workload.weight * (dense > 0 ? best->candidate.time_us() / dense : 1.0);
    sum += term;
    estimates +=
        workload.weight * best->candidate.estimate_us / dense_estimate_us(entries, workload.n);
    weights += workload.weight;
    variance += term * best->candidate.noise * term * best->candidate.noise;
    score.measured = score.measured && best->candidate.measured_us > 0;
  }
  score.noise = sum > 0 ? std::sqrt(variance) / sum : 0.0;
  score.value = weights > 0 ? sum / weights : 1.0;
  score.estimated = weights > 0 ? estimates / weights : 1.0;
  return score;
}

std::vector<FormatSpec> distinct_formats(std::span<const Entry> entries) {
  std::vector<FormatSpec> formats;
  for (const Entry& entry : entries) {
    if (entry.possible() &&
        std::find(formats.begin(), formats.end(), entry.candidate.format) == formats.end())
      formats.push_back(entry.candidate.format);
  }
  return formats;
}

/// Bytes of the format: exact where it was packed, the same for all its kernels.
std::size_t bytes_of(std::span<const Entry> entries, const FormatSpec& format) {
  for (const Entry& entry : entries) {
    if (entry.possible() && entry.candidate.format == format) return entry.candidate.bytes;
  }
  return 0;
}

std::string over_budget(std::size_t bytes, std::size_t budget) {
  return fmt::format("over the memory budget: {:.1f} MB of {:.1f} MB",
                     static_cast<double>(bytes) / 1e6, static_cast<double>(budget) / 1e6);
}

/// What is known about every format that some kernel runs.
struct Standing {
  FormatSpec format;
  Score score;
  std::size_t bytes = 0;
  bool fits = true;
};

/// Whether a format is faster than dense, and no risk.
bool beats(const Score& s, double dense) {
  if (!s.measured) return s.value <= dense * (1 - kLeastEstimatedGain);
  return s.value <= dense * (1 - kLeastGain) &&
         s.value * (1 + 2 * s.noise) <= dense * (1 + kLeastGain);
}

/// Whether `s` was measured to be as fast as `best`, as far as the noise lets tell.
bool as_fast(const Standing& s, const Standing& best) {
  const double noise = std::hypot(s.score.noise, best.score.noise);
  const bool contradicted = s.score.estimated < best.score.estimated;
  const double tie = contradicted ? kMostTie : std::clamp(noise, kTie, kMostTie);
  return s.score.measured && s.score.value <= best.score.value * (1 + tie);
}

/// The smallest of those that are as fast as `best`.
const Standing* smallest_of_equals(std::span<const Standing* const> rivals, const Standing& best) {
  const Standing* smallest = &best;
  for (const Standing* s : rivals) {
    if (as_fast(*s, best) && s->bytes < smallest->bytes) smallest = s;
  }
  return smallest;
}

void give_reasons(std::span<Entry> entries, const PlanRequest& request,
                  std::span<const Standing> standings, const Standing& chosen) {
  for (Entry& entry : entries) {
    Candidate& c = entry.candidate;
    if (!entry.possible()) continue;
    const Entry* winner = best_of(entries, chosen.format, c.n);
    const double best_us = winner != nullptr ? winner->candidate.time_us() : 0;
    if (winner == &entry) {
      c.chosen = true;
      continue;
    }
    const auto standing = std::find_if(standings.begin(), standings.end(),
                                       [&](const Standing& s) { return s.format == c.format; });
    const bool rival = standing != standings.end();
    if (c.format == chosen.format) {
      // Dealt with below: it lost to another kernel of the same format.
    } else if (rival && !standing->fits) {
      c.reason = over_budget(c.bytes, request.memory_budget);
      continue;
    } else if (rival && !standing->score.complete) {
      c.reason = "no kernel of this format runs every workload";
      continue;
    }
    if (c.measured_us <= 0 && winner != nullptr && winner->candidate.measured_us > 0) {
      c.reason = fmt::format("not measured: estimate {:.0f} us against {:.0f} us", c.estimate_us,
                             winner->candidate.estimate_us);
    } else if (c.time_us() > best_us) {
      c.reason = fmt::format("slower: {:.0f} us against {:.0f} us", c.time_us(), best_us);
    } else if (rival && standing->score.value > chosen.score.value) {
      c.reason = fmt::format("slower over all workloads: {:.2f} of dense against {:.2f}",
                             standing->score.value, chosen.score.value);
    } else if (is_dense(c.format) && is_dense(chosen.format) && c.format != chosen.format) {
      c.reason = "as fast within the noise, but by the estimate slower";
    } else if (rival && !is_dense(chosen.format) && c.format != chosen.format) {
      c.reason =
          fmt::format("as fast within the noise, but {:.1f} MB against {:.1f} MB",
                      static_cast<double>(c.bytes) / 1e6, static_cast<double>(chosen.bytes) / 1e6);
    } else if (c.format == chosen.format) {
      c.reason = fmt::format("as fast within the noise: {:.0f} us against {:.0f} us", c.time_us(),
                             best_us);
    } else {
      c.reason = fmt::format("not faster than dense by more than the noise ({:.1f} %)",
                             100 * std::max(2 * c.noise, kLeastGain));
    }
  }
}

}  // namespace

const Entry* best_of(std::span<const Entry> entries, const FormatSpec& format, std::int64_t n) {
  const auto competes = [&](const Entry& e) {
    return e.possible() && e.candidate.format == format && e.candidate.n == n;
  };
  const bool measured = std::any_of(entries.begin(), entries.end(), [&](const Entry& e) {
    return competes(e) && e.candidate.measured_us > 0;
  });
  double fastest = std::numeric_limits<double>::infinity();
  for (const Entry& e : entries) {
    if (competes(e) && (e.candidate.measured_us > 0) == measured)
      fastest = std::min(fastest, e.candidate.time_us());
  }
  const Entry* best = nullptr;
  for (const Entry& e : entries) {
    if (!competes(e) || (e.candidate.measured_us > 0) != measured) continue;
    if (e.candidate.time_us() > fastest * (measured ? 1 + kKernelTie : 1)) continue;
    if (best == nullptr || e.candidate.estimate_us < best->candidate.estimate_us) best = &e;
  }
  return best;
}

double dense_time_us(std::span<const Entry> entries, std::int64_t n) {
  double measured = 0;
  double estimated = 0;
  const auto lower = [](double& to, double value) {
    if (value > 0 && (to == 0 || value < to)) to = value;
  };
  for (const Entry& entry : entries) {
    const Candidate& c = entry.candidate;
    if (entry.kernel == nullptr || c.n != n || !is_dense(c.format)) continue;
    lower(measured, c.measured_us);
    lower(estimated, c.estimate_us);
  }
  return measured > 0 ? measured : estimated;
}

std::vector<RankedFormat> rank_formats(std::span<const Entry> entries, const PlanRequest& request) {
  std::vector<RankedFormat> ranked;
  for (const FormatSpec& format : distinct_formats(entries)) {
    const Score score = score_of(entries, request, format);
    const bool fits = bytes_of(entries, format) <= request.memory_budget;
    if (score.complete && fits) ranked.push_back({format, score.value});
  }
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const RankedFormat& a, const RankedFormat& b) { return a.score < b.score; });
  return ranked;
}

std::optional<FormatSpec> choose_format(std::span<Entry> entries, const PlanRequest& request) {
  std::vector<Standing> standings;
  for (const FormatSpec& format : distinct_formats(entries)) {
    standings.push_back({.format = format,
                         .score = score_of(entries, request, format),
                         .bytes = bytes_of(entries, format),
                         .fits = bytes_of(entries, format) <= request.memory_budget});
  }
  const Standing* dense = nullptr;
  for (const Standing& s : standings) {
    if (!is_dense(s.format) || !s.fits || !s.score.complete) continue;
    const bool better =
        dense == nullptr || (s.score.measured && !dense->score.measured) ||
        (s.score.measured == dense->score.measured && s.score.value < dense->score.value);
    if (better) dense = &s;
  }
  if (dense != nullptr && dense->score.measured) {
    const Standing& fastest = *dense;
    for (const Standing& s : standings) {
      const bool close = s.score.measured && s.score.value <= fastest.score.value * (1 + kDenseTie);
      if (is_dense(s.format) && s.fits && s.score.complete && close &&
          s.score.estimated < dense->score.estimated)
        dense = &s;
    }
  }
  const bool only_measured =
      dense != nullptr ? dense->score.measured
                       : std::any_of(standings.begin(), standings.end(), [](const Standing& s) {
                           return s.fits && s.score.complete && s.score.measured;
                         });
  std::vector<const Standing*> rivals;
  for (const Standing& s : standings) {
    if (is_dense(s.format) || !s.fits || !s.score.complete) continue;
    if (only_measured && !s.score.measured) continue;
    if (dense != nullptr && !beats(s.score, dense->score.value)) continue;
    rivals.push_back(&s);
  }
  const Standing* sparse = nullptr;
  for (const Standing* s : rivals) {
    if (sparse == nullptr || s->score.value < sparse->score.value) sparse = s;
  }
  if (sparse != nullptr && sparse->score.measured) sparse = smallest_of_equals(rivals, *sparse);
  const Standing* chosen = sparse != nullptr ? sparse : dense;
  if (chosen == nullptr) return std::nullopt;
  give_reasons(entries, request, standings, *chosen);
  return chosen->format;
}

}  // namespace rarefy::planning
