#include "ops/spmm/cuda/kernel_chooser.h"

#include <fmt/format.h>

#include <cmath>
#include <optional>
#include <utility>
#include <vector>

#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/search.h"

namespace rarefy::gpu {
namespace {

/// Above this density no sparse kernel is fast enough to be worth packing for.
constexpr double kDenseFrom = 0.85;

/// Weights whose densities round to the same step are alike.
constexpr double kDensitySteps = 50;

std::string kind_of(const Problem& p, double density, bool dense) {
  return fmt::format("{}x{} n{} {} {} {} {}", p.m, p.k, p.n, to_string(p.weight),
                     to_string(p.activations), to_string(p.output),
                     dense ? -1 : std::lround(density * kDensitySteps));
}

/// The operator of the candidate of this name, or nullptr when there is none or it does not take
/// this weight: a pattern that is less even than that of the weight before may need more room.
std::unique_ptr<Operator> build_named(const std::string& name, const Problem& problem,
                                      const Weight& weight, const cuda::Stream& stream) {
  const std::optional<Candidate> found =
      find_candidate(problem, *weight.pattern, stream.device().facts(), name);
  if (!found) return nullptr;
  try {
    return found->build(weight, stream);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUnsupported) throw;
    return nullptr;
  }
}

/// The weight in a format that expands, or nullptr: many tokens can do without.
std::unique_ptr<Operator> expandable_form(const Problem& problem, const Weight& weight,
                                          const cuda::Stream& stream) {
  const std::vector<Candidate> candidates =
      composed_family().candidates(problem, *weight.pattern, stream.device().facts());
  if (candidates.empty()) return nullptr;
  try {
    return candidates.front().build(weight, stream);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUnsupported && error.kind() != ErrorKind::kOutOfMemory) throw;
    return nullptr;
  }
}

}  // namespace

KernelChooser::Chosen KernelChooser::make(const RowSource& source, const Problem& problem,
                                          const ChooserOptions& options, const cuda::Stream& stream,
                                          ThreadPool& pool) {
  PatternStats pattern;
  pattern.rows = problem.m;
  pattern.cols = problem.k;
  pattern.nnz = problem.m * problem.k;
  if (!options.dense_only) pattern = pattern_stats(source, pool);
  const bool dense = options.dense_only || pattern.density() > kDenseFrom;
  Weight weight{.source = &source, .pattern = &pattern, .csr = {}};
  if (!dense) weight.csr = pack(source, format::kCsr32, pool);

  Chosen chosen;
  Known& known = known_[kind_of(problem, pattern.density(), dense)];
  if (!known.kernel.empty()) chosen.op = build_named(known.kernel, problem, weight, stream);
  if (chosen.op == nullptr) {
    SearchOptions search{.given_for_bytes = kGivenForBytes};
    if (dense) search.only = "dense";
    if (!options.measure) search.measure_best = 1;
    Choice choice = choose(weight, problem, stream, search, pool);
    known = {choice.name, choice.time_us};
    chosen.op = std::move(choice.op);
  }
  chosen.kernel = known.kernel;
  chosen.time_us = known.time_us;

  const auto dense_bytes =
      static_cast<std::size_t>(problem.m * problem.k) * size_of(problem.weight);
  if (!dense && !chosen.op->expands() && chosen.op->bytes() < dense_bytes &&
      pattern.density() <= options.two_formats_up_to)
    chosen.expandable = expandable_form(problem, weight, stream);
  return chosen;
}

}  // namespace rarefy::gpu
