#include "ops/decoder/cuda/weights.h"

#include <fmt/format.h>

#include <cmath>

#include "base/check.h"
#include "cuda/memory.h"
#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/search.h"

namespace rarefy::gpu {
namespace {

/// Above this density no sparse kernel is fast enough to be worth packing for.
constexpr double kDenseFrom = 0.85;

/// A weight of at most this density whose format cannot be expanded for prompts is kept in a second
/// one that can: 2 or 4 bytes a nonzero more.
constexpr double kThinEnoughForTwo = 0.05;

/// Weights whose densities round to the same step are alike.
constexpr double kDensitySteps = 50;

std::size_t dense_bytes(const Problem& problem) {
  return static_cast<std::size_t>(problem.m * problem.k) * size_of(problem.weight);
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

}  // namespace

void ConvertedRows::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  if (from_->dtype() == dtype_) return from_->read_rows(begin, end, out);
  const auto row = static_cast<std::size_t>(cols());
  std::vector<std::byte> values(row * size_of(from_->dtype()));
  for (std::int64_t r = begin; r < end; ++r) {
    from_->read_rows(r, r + 1, values.data());
    convert_elements(
        values.data(), from_->dtype(),
        static_cast<std::byte*>(out) + static_cast<std::size_t>(r - begin) * row * size_of(dtype_),
        dtype_, row);
  }
}

void TableProduct::enqueue(const cuda::Stream& stream, const Operands& o) const {
  auto found = products_.find(o.n);
  if (found == products_.end()) {
    cuda::DenseProblem problem = problem_;
    problem.n = o.n;
    found = products_.emplace(o.n, cuda::DenseMatmul(stream, problem, 1)).first;
  }
  found->second.enqueue(stream, 0, table_, o.b, o.c);
}

std::unique_ptr<Operator> TableProduct::copy(const cuda::Stream& /*stream*/) const {
  return std::make_unique<TableProduct>(table_, problem_);
}

std::unique_ptr<Operator> WeightMaker::for_prompts(std::unique_ptr<Operator> op,
                                                   const Problem& problem, const Weight& weight,
                                                   double time_us, DeviceWeight& info) {
  std::unique_ptr<Operator> expandable;
  const bool dense = op->bytes() >= dense_bytes(problem);
  if (!op->expands() && !dense && weight.pattern->density() <= kThinEnoughForTwo) {
    const std::vector<Candidate> candidates =
        composed_family().candidates(problem, *weight.pattern, stream_.device().facts());
    try {
      if (!candidates.empty()) expandable = candidates.front().build(weight, stream_);
    } catch (const Error& error) {
      // Prompts can do without.
      if (error.kind() != ErrorKind::kUnsupported && error.kind() != ErrorKind::kOutOfMemory) throw;
    }
  }
  op = expander_.wrap(std::move(op), problem, time_us, std::move(expandable));
  info.bytes = op->bytes();
  return op;
}

std::unique_ptr<Operator> WeightMaker::make(const RowSource& given, DType output,
                                            DeviceWeight& info) {
  const ConvertedRows source(given, options_.dtype);
  const Problem problem{.m = source.rows(),
                        .k = source.cols(),
                        .n = options_.tokens,
                        .weight = options_.dtype,
                        .activations = options_.dtype,
                        .output = output};
  info.rows = problem.m;
  info.cols = problem.k;
  PatternStats pattern;
  pattern.rows = problem.m;
  pattern.cols = problem.k;
  pattern.nnz = problem.m * problem.k;
  if (!options_.dense_only) pattern = pattern_stats(source, pool_);
  const bool dense = options_.dense_only || pattern.density() > kDenseFrom;
  Weight weight{.source = &source, .pattern = &pattern, .csr = {}};
  if (!dense) weight.csr = pack(source, format::kCsr32, pool_);

  const Kind kind{
      fmt::format("{}x{} {}", problem.m, problem.k,
                  dense ? std::string("dense")
                        : fmt::format("{}", std::lround(pattern.density() * kDensitySteps))),
      output};
  const auto known = known_.find(kind);
  const auto describe = [&](const Known& kernel, const Operator& op) {
    info.kernel = kernel.kernel;
    info.time_us = kernel.time_us;
    info.bytes = op.bytes();
  };
  if (known != known_.end()) {
    if (auto op = build_named(known->second.kernel, problem, weight, stream_)) {
      describe(known->second, *op);
      return for_prompts(std::move(op), problem, weight, known->second.time_us, info);
    }
  }
  SearchOptions search{.given_for_bytes = kGivenForBytes};
  if (dense) search.only = "dense";
  if (!options_.measure) search.measure_best = 1;
  Choice choice = choose(weight, problem, stream_, search, pool_);
  const Known chosen{choice.name, choice.time_us};
  describe(chosen, *choice.op);
  known_[kind] = chosen;
  return for_prompts(std::move(choice.op), problem, weight, chosen.time_us, info);
}

}  // namespace rarefy::gpu
