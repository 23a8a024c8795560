#include "ops/spmm/cuda/search.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <limits>
#include <optional>
#include <random>

#include "base/check.h"
#include "cuda/memory.h"
#include "cuda/timing.h"
#include "ops/spmm/cuda/candidate_order.h"
#include "ops/spmm/cuda/choice_cache.h"
#include "ops/spmm/cuda/family_scales.h"

namespace rarefy::gpu {
namespace {

/// Activations of one measurement: ordinary numbers, since zeros draw less power and run faster.
cuda::DeviceBuffer random_activations(const cuda::Stream& stream, std::int64_t count, DType dtype) {
  // So many and no more, over and over: a prime, so that neighbouring tokens differ.
  constexpr std::int64_t kDifferent = 65537;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> values(static_cast<std::size_t>(std::min(count, kDifferent)));
  for (float& v : values) v = normal(random);
  std::vector<std::byte> bytes(static_cast<std::size_t>(count) * size_of(dtype));
  const std::size_t period = values.size() * size_of(dtype);
  convert_elements(values.data(), DType::kF32, bytes.data(), dtype, values.size());
  for (std::size_t done = period; done < bytes.size(); done += period)
    std::memcpy(bytes.data() + done, bytes.data(), std::min(period, bytes.size() - done));
  return cuda::upload<std::byte>(stream, bytes);
}

/// Compiles the sources of the first `count` candidates on all cores; a text that does not compile
/// gets its reason.
std::vector<std::string> compile_all(std::span<const Candidate> candidates, std::size_t count,
                                     const cuda::Arch& arch, ThreadPool& pool) {
  std::vector<std::string> complaints(count);
  pool.parallel_dynamic(static_cast<std::int64_t>(count), 1,
                        [&](std::int64_t begin, std::int64_t end) {
                          for (std::int64_t i = begin; i < end; ++i) {
                            const auto at = static_cast<std::size_t>(i);
                            if (candidates[at].source.text.empty()) continue;
                            try {
                              (void)cuda::compile(candidates[at].source, arch);
                            } catch (const Error& error) {
                              complaints[at] = error.what();
                            }
                          }
                        });
  return complaints;
}

/// The candidate of this name, among them or a variation of one of them.
std::optional<Candidate> find_candidate(std::span<const Candidate> candidates,
                                        const std::string& name) {
  for (const Candidate& c : candidates) {
    if (c.name == name) return c;
    if (!c.refine || !name.starts_with(c.name)) continue;
    for (Candidate& variation : c.refine()) {
      if (variation.name == name) return std::move(variation);
    }
  }
  return std::nullopt;
}

/// Takes out what does not take the weight; returns it with the reasons.
std::vector<Tried> take_out_refused(std::vector<Candidate>& candidates, const Weight& weight) {
  std::vector<Tried> refused;
  std::erase_if(candidates, [&](const Candidate& c) {
    std::string reason = c.refuses ? c.refuses(weight) : std::string();
    if (reason.empty()) return false;
    refused.push_back({.name = c.name,
                       .estimate_us = c.estimate_us,
                       .refused = true,
                       .reason = std::move(reason)});
    return true;
  });
  return refused;
}

/// Place of the kernel that is taken: the fastest, or, of those within `factor` of it, the fastest
/// among the smallest. Sizes that differ by less than kSameSize are alike.
std::size_t smallest_of_the_fast(const Choice& choice, double factor) {
  constexpr double kSameSize = 1.03;
  const auto is_fast = [&](const Tried& t) {
    return t.measured_us > 0 && t.measured_us <= choice.time_us * factor;
  };
  std::size_t least = std::numeric_limits<std::size_t>::max();
  for (const Tried& t : choice.tried)
    if (is_fast(t)) least = std::min(least, t.bytes);
  std::size_t best = choice.tried.size();
  for (std::size_t i = 0; i < choice.tried.size(); ++i) {
    const Tried& t = choice.tried[i];
    const bool small =
        factor <= 1 || static_cast<double>(t.bytes) <= kSameSize * static_cast<double>(least);
    if (is_fast(t) && small &&
        (best == choice.tried.size() || t.measured_us < choice.tried[best].measured_us))
      best = i;
  }
  return best;
}

}  // namespace

std::vector<Candidate> enumerate(const Problem& problem, const PatternStats& pattern,
                                 const cuda::DeviceFacts& device, std::string_view only) {
  std::vector<Candidate> all;
  for (const Family* family : families()) {
    const bool may_match = only.starts_with(family->name()) || family->name().starts_with(only);
    if (!may_match || !family->supports(problem, device)) continue;
    for (Candidate& c : family->candidates(problem, pattern, device))
      if (c.name.starts_with(only)) all.push_back(std::move(c));
  }
  std::stable_sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) {
    return a.estimate_us < b.estimate_us;
  });
  return all;
}

std::optional<Candidate> find_candidate(const Problem& problem, const PatternStats& pattern,
                                        const cuda::DeviceFacts& device, const std::string& name) {
  const std::string family = name.substr(0, name.find('.'));  // Variations begin with it as well.
  return find_candidate(enumerate(problem, pattern, device, family), name);
}

Measurement measure(const Operator& op, const Problem& problem, const cuda::Stream& stream,
                    double budget_us) {
  const bool token_major = problem.layout == Layout::kTokenMajor;
  const cuda::DeviceBuffer b =
      random_activations(stream, problem.k * problem.n, problem.activations);
  const cuda::DeviceBuffer c(
      stream, static_cast<std::size_t>(problem.m * problem.n) * size_of(problem.output));
  const cuda::DeviceBuffer bias(stream, static_cast<std::size_t>(problem.m) * sizeof(float));
  cuda::fill_bytes(stream, c.address(), 0, c.size());
  cuda::fill_bytes(stream, bias.address(), 0, bias.size());
  const Operands operands{.b = b.address(),
                          .b_stride = token_major ? problem.k : problem.n,
                          .c = c.address(),
                          .c_stride = token_major ? problem.m : problem.n,
                          .bias = bias.address(),
                          .residual = problem.residual ? c.address() : 0,
                          .residual_stride = token_major ? problem.m : problem.n,
                          .n = problem.n};
  std::vector<std::unique_ptr<Operator>> copies;
  const int count = cuda::rotating_copies(op.bytes());
  for (int i = 1; i < count; ++i) copies.push_back(op.copy(stream));
  const cuda::Timing timing = cuda::time_calls(
      stream,
      [&](int copy) {
        const Operator& one = copy == 0 ? op : *copies[static_cast<std::size_t>(copy - 1)];
        one.enqueue(stream, operands);
      },
      {.copies = count, .budget_us = budget_us});
  return {timing.median_us, timing.noise, timing.least_us, timing.most_us};
}

Choice choose(const Weight& weight, const Problem& problem, const cuda::Stream& stream,
              const SearchOptions& options, ThreadPool& pool) {
  const cuda::Device& device = stream.device();
  std::vector<Candidate> candidates =
      enumerate(problem, *weight.pattern, device.facts(), options.only);
  const std::vector<Tried> refused = take_out_refused(candidates, weight);
  const ChoiceCache cache(options, problem, *weight.pattern, device, candidates);

  Choice choice;
  if (const std::optional<Tried> known = cache.find()) {
    if (const std::optional<Candidate> c = find_candidate(candidates, known->name)) {
      try {
        choice.op = c->build(weight, stream);
        choice.name = c->name;
        choice.time_us = known->measured_us;
        choice.tried = {*known};
        choice.from_cache = true;
        return choice;
      } catch (const Error&) {
        choice = {};  // Another machine's luck: searched again.
      }
    }
  }

  const std::set<std::string> leading = leaders(candidates, options.measure_best / 12);
  FamilyScales scales = options.learn ? read_scales(device.facts()) : FamilyScales();
  correct(candidates, problem, scales);

  // The best estimates first, behind them what is measured anyway, then the rest.
  const std::size_t best =
      std::min(candidates.size(), static_cast<std::size_t>(std::max(options.measure_best, 1)));
  const auto rest = std::stable_partition(
      candidates.begin() + static_cast<std::ptrdiff_t>(best), candidates.end(),
      [&](const Candidate& c) { return c.always || leading.contains(c.name); });
  const auto count = static_cast<std::size_t>(rest - candidates.begin());
  const std::vector<std::string> complaints =
      compile_all(candidates, count, device.facts().arch(), pool);
  const auto start = std::chrono::steady_clock::now();
  ErrorKind refusal = ErrorKind::kUnsupported;  // Memory can be freed: worth telling apart.
  const auto try_out = [&](const Candidate& c) {
    Tried tried{.name = c.name, .estimate_us = c.estimate_us};
    try {
      std::unique_ptr<Operator> op = c.build(weight, stream);
      const Measurement m = measure(*op, problem, stream);
      tried.measured_us = m.us;
      tried.noise = m.noise;
      tried.least_us = m.least_us;
      tried.most_us = m.most_us;
      tried.bytes = op->bytes();
      if (options.inspect) options.inspect(c.name, *op);
      if (choice.op == nullptr || m.us < choice.time_us) {
        choice.op = std::move(op);
        choice.name = c.name;
        choice.time_us = m.us;
      }
    } catch (const Error& error) {
      if (error.kind() == ErrorKind::kInternal) throw;  // The device is in an unknown state.
      if (error.kind() == ErrorKind::kOutOfMemory) refusal = error.kind();
      tried.refused = true;
      tried.reason = error.what();
    }
    choice.tried.push_back(std::move(tried));
  };
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    const Candidate& c = candidates[i];
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    Tried passed{.name = c.name, .estimate_us = c.estimate_us};
    const bool anyway = c.always || leading.contains(c.name);
    const bool hopeless =
        choice.op != nullptr && !anyway && c.estimate_us > kHopeless * choice.time_us;
    if (i >= count || hopeless) {
      passed.reason = "not measured: estimate";
    } else if (!complaints[i].empty()) {
      passed.refused = true;
      passed.reason = complaints[i];
    } else if (choice.op != nullptr && !c.always && spent.count() > options.time_budget_s) {
      passed.reason = "not measured: the time budget is spent";
    }
    if (passed.reason.empty()) {
      try_out(c);
    } else {
      choice.tried.push_back(std::move(passed));
    }
  }
  if (options.learn) {
    learn(scales, problem, choice.tried);
    write_scales(device.facts(), scales);
  }
  if (const std::optional<Candidate> c = find_candidate(candidates, choice.name); c && c->refine) {
    for (const Candidate& variation : c->refine()) try_out(variation);
  }
  choice.tried.insert(choice.tried.end(), refused.begin(), refused.end());
  if (choice.op == nullptr)
    fail(refusal, "GPU: no kernel for a {}x{} weight of {} and {} columns: {}", problem.m,
         problem.k, to_string(problem.weight), problem.n,
         choice.tried.empty() ? "no family supports it" : choice.tried.front().reason);
  const Tried chosen = choice.tried[smallest_of_the_fast(choice, options.given_for_bytes)];
  if (chosen.name != choice.name) {
    choice.op = find_candidate(candidates, chosen.name)->build(weight, stream);
    choice.name = chosen.name;
    choice.time_us = chosen.measured_us;
  }
  std::stable_sort(choice.tried.begin(), choice.tried.end(), [](const Tried& a, const Tried& b) {
    const bool measured_a = a.measured_us > 0;
    const bool measured_b = b.measured_us > 0;
    if (measured_a != measured_b) return measured_a;
    return measured_a && a.measured_us < b.measured_us;
  });
  cache.store(chosen);
  return choice;
}

}  // namespace rarefy::gpu
