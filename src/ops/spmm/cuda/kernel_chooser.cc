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

/// The problem for as many.
Problem for_many(Problem problem) {
  problem.n = kManyTokens;
  return problem;
}

/// Of every shape of blocks that many tokens may take.
std::vector<FormCost> block_costs(const Problem& many, const PatternStats& pattern,
                                  const cuda::DeviceFacts& device) {
  std::vector<FormCost> costs;
  if (!blocks_family().supports(many, device)) return costs;
  for (const BlockShape& shape : shapes_worth_storing(many, pattern)) {
    const BlockProblem blocks = block_problem(many, shape.rows, shape.cols, shape.stored);
    if (!supports(blocks, device)) continue;
    costs.push_back({.bytes = shape.stored * static_cast<double>(dense_bytes(many)),
                     .us = block_configs(blocks, device).front().estimate_us(blocks, device)});
  }
  return costs;
}

/// The fewest tokens, of powers of two, for which blocks are faster than passes of `few`. Estimates
/// are scaled by what the kernel took for many.
std::int64_t tokens_for_blocks(const Passes& few, const Problem& problem,
                               const PatternStats& pattern, const std::string& kernel,
                               double many_us, const cuda::DeviceFacts& device) {
  const auto estimate_us = [&](std::int64_t n) {
    Problem now = problem;
    now.n = n;
    const std::optional<Candidate> found = find_candidate(now, pattern, device, kernel);
    return found ? found->estimate_us : std::numeric_limits<double>::infinity();
  };
  const double scale = many_us / estimate_us(kManyTokens);
  std::vector<std::int64_t> tokens;
  for (std::int64_t n = 32; n < kManyTokens; n *= 2)
    if (n > problem.n) tokens.push_back(n);
  return first_faster(tokens, few, [&](std::int64_t n) { return scale * estimate_us(n); })
      .value_or(kManyTokens);
}

/// The fewest tokens for which the dense form is faster than passes of `few`; kAnyNumber: none are.
/// It is measured with the first that could be: what many tokens take is all arithmetic, and says
/// nothing of how fast the weight is read.
std::int64_t tokens_for_dense(const Passes& few, const Problem& problem, const Operator& dense,
                              double many_us, const cuda::Stream& stream) {
  const std::vector<std::int64_t> starts = few.starts(kManyTokens);
  if (starts.empty()) return kAnyNumber;
  Problem first = problem;
  first.n = starts.front();
  const double first_us = measure(dense, first, stream).us;
  const auto dense_us = [&](std::int64_t n) {
    return roofline_us(n, first_us, kManyTokens, many_us);
  };
  return first_faster(starts, few, dense_us).value_or(kAnyNumber);
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
  if (chosen.op->tokens_a_pass() < kManyTokens) {
    const Problem many = for_many(problem);
    const FormCost whole{.bytes = static_cast<double>(dense_bytes(many)),
                         .us = dense_estimate_us(many, device)};
    for (const SecondForm second : second_forms(
             chosen.op->bytes(), whole, block_costs(many, pattern, device), options.weight_memory))
      if (add_second(chosen, second, kind, problem, weight, search, stream, pool)) return chosen;
  }
  if (!chosen.op->expands() && chosen.op->bytes() < dense_bytes(problem) &&
      pattern.density() <= options.two_formats_up_to) {
    chosen.expandable = expandable_form(problem, weight, stream);
  }
  return chosen;
}

bool KernelChooser::add_second(Chosen& chosen, SecondForm second, const std::string& kind,
                               const Problem& problem, const Weight& weight, SearchOptions search,
                               const cuda::Stream& stream, ThreadPool& pool) {
  const bool blocks = second == SecondForm::kBlocks;
  const std::string second_kind = (blocks ? "blocks of " : "dense of ") + kind;
  Known& known = known_[second_kind];
  if (known.from == kAnyNumber) return false;
  search.only = blocks ? "blocks." : "dense.";
  search.given_for_bytes = 1;
  std::unique_ptr<Operator> op;
  try {
    op = form_of(second_kind, for_many(problem), weight, search, stream, pool).op;
    if (known.from == 0) {
      const Passes few(chosen.op->tokens_a_pass(), problem.n, chosen.time_us);
      known.from = blocks ? tokens_for_blocks(few, problem, *weight.pattern, known.kernel,
                                              known.time_us, stream.device().facts())
                          : tokens_for_dense(few, problem, *op, known.time_us, stream);
    }
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUnsupported && error.kind() != ErrorKind::kOutOfMemory) throw;
    return false;
  }
  if (known.from == kAnyNumber) return false;
  chosen.many_from = known.from;
  chosen.op = two_kernels(problem, std::move(chosen.op), std::move(op), chosen.many_from);
  chosen.kernel += fmt::format(", from {} tokens {}", chosen.many_from, known.kernel);
  return true;
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
