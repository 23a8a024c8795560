#include "ops/spmm/cuda/kernel_chooser.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "ops/spmm/cuda/blocks/block_shapes.h"
#include "ops/spmm/cuda/dense_products.h"
#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/structured/structured_products.h"
#include "ops/spmm/cuda/structured/two_of_four.h"
#include "ops/spmm/cuda/two_kernels.h"

namespace rarefy::gpu {
namespace {

/// Above this density no sparse kernel is fast enough to be worth packing for.
constexpr double kDenseFrom = 0.85;

/// Weights whose densities round to the same step are alike.
constexpr double kDensitySteps = 50;

/// Weights whose shares of empty 64×64 blocks do: these decide about kernels of blocks.
constexpr double kBlockSteps = 16;

std::string kind_of(const Problem& p, const Weight& weight, bool dense) {
  std::string kind = fmt::format("{}x{} n{} {} {} {}", p.m, p.k, p.n, to_string(p.weight),
                                 to_string(p.activations), to_string(p.output));
  if (dense) return kind + " dense";
  const PatternStats& pattern = *weight.pattern;
  kind += fmt::format(" {} {}", std::lround(pattern.density() * kDensitySteps),
                      std::lround(pattern.block_share(64, 64) * kBlockSteps));
  if (p.n >= kFewestStructuredTokens && !breaks_two_of_four(*weight.source)) kind += " 2:4";
  return kind;
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

/// Of a prompt, at once: what a second form is chosen for.
constexpr std::int64_t kManyTokens = 2048;

/// Of the dense product's time: what blocks must be estimated at to be worth their memory.
constexpr double kBlocksPay = 0.8;

/// Whether blocks for many tokens pay, beside `few_bytes` of the form for few.
bool blocks_pay(const Problem& many, const PatternStats& pattern, std::size_t few_bytes,
                double most_bytes, const cuda::DeviceFacts& device) {
  if (!blocks_family().supports(many, device)) return false;
  const double dense_us = dense_estimate_us(many, device);
  for (const BlockShape& shape : shapes_worth_storing(many, pattern)) {
    const BlockProblem blocks = block_problem(many, shape.rows, shape.cols, shape.stored);
    const double bytes = shape.stored * static_cast<double>(many.m * many.k) *
                         static_cast<double>(size_of(many.weight));
    if (supports(blocks, device) && bytes + static_cast<double>(few_bytes) <= most_bytes &&
        block_configs(blocks, device).front().estimate_us(blocks, device) < kBlocksPay * dense_us)
      return true;
  }
  return false;
}

/// The fewest tokens, of powers of two, for which blocks are faster than passes of `few`, which
/// take `few_us` for the problem's. Estimates are scaled by what the kernel took for many.
std::int64_t tokens_for_blocks(const Problem& problem, const PatternStats& pattern,
                               const Operator& few, double few_us, const std::string& kernel,
                               double many_us, const cuda::DeviceFacts& device) {
  const auto passes = [a_pass = few.tokens_a_pass()](std::int64_t n) {
    const std::int64_t count = (n + a_pass - 1) / a_pass;
    return static_cast<double>(count);
  };
  const auto estimate_us = [&](std::int64_t n) {
    Problem now = problem;
    now.n = n;
    for (const Candidate& c : blocks_family().candidates(now, pattern, device))
      if (c.name == kernel) return c.estimate_us;
    return std::numeric_limits<double>::infinity();
  };
  const double pass_us = few_us / passes(problem.n);
  const double scale = many_us / estimate_us(kManyTokens);
  for (std::int64_t n = 32; n < kManyTokens; n *= 2)
    if (n > problem.n && scale * estimate_us(n) < pass_us * passes(n)) return n;
  return kManyTokens;
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

  const std::string kind = kind_of(problem, weight, dense);
  SearchOptions search{.given_for_bytes = kGivenForBytes};
  if (dense) search.only = "dense";
  if (!options.measure) search.measure_best = 1;
  Form few = form_of(kind, problem, weight, search, stream, pool);
  Chosen chosen{.op = std::move(few.op),
                .expandable = {},
                .kernel = few.known.kernel,
                .time_us = few.known.time_us};
  if (dense) return chosen;

  const cuda::DeviceFacts& device = stream.device().facts();
  const auto dense_bytes =
      static_cast<std::size_t>(problem.m * problem.k) * size_of(problem.weight);
  Problem many = problem;
  many.n = kManyTokens;
  if (chosen.op->tokens_a_pass() < kManyTokens &&
      blocks_pay(many, pattern, chosen.op->bytes(),
                 options.two_kernels_up_to * static_cast<double>(dense_bytes), device)) {
    search.only = "blocks.";
    search.given_for_bytes = 1;
    if (Form blocks = blocks_form("blocks of " + kind, many, weight, search, stream, pool);
        blocks.op != nullptr) {
      Known& known = blocks.known;
      if (known.from == 0)
        known.from = tokens_for_blocks(problem, pattern, *chosen.op, chosen.time_us, known.kernel,
                                       known.time_us, device);
      chosen.many_from = known.from;
      chosen.op =
          two_kernels(problem, std::move(chosen.op), std::move(blocks.op), chosen.many_from);
      chosen.kernel += fmt::format(", from {} tokens {}", chosen.many_from, known.kernel);
      return chosen;
    }
  }
  if (!chosen.op->expands() && chosen.op->bytes() < dense_bytes &&
      pattern.density() <= options.two_formats_up_to) {
    chosen.expandable = expandable_form(problem, weight, stream);
  }
  return chosen;
}

KernelChooser::Form KernelChooser::blocks_form(const std::string& kind, const Problem& problem,
                                               const Weight& weight, const SearchOptions& search,
                                               const cuda::Stream& stream, ThreadPool& pool) {
  try {
    return form_of(kind, problem, weight, search, stream, pool);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUnsupported && error.kind() != ErrorKind::kOutOfMemory) throw;
    return {nullptr, known_[kind]};
  }
}

KernelChooser::Form KernelChooser::form_of(const std::string& kind, const Problem& problem,
                                           const Weight& weight, const SearchOptions& search,
                                           const cuda::Stream& stream, ThreadPool& pool) {
  Known& known = known_[kind];
  if (!known.kernel.empty()) {
    if (std::unique_ptr<Operator> op = build_named(known.kernel, problem, weight, stream))
      return {std::move(op), known};
  }
  Choice choice = choose(weight, problem, stream, search, pool);
  known = {choice.name, choice.time_us};
  return {std::move(choice.op), known};
}

}  // namespace rarefy::gpu
