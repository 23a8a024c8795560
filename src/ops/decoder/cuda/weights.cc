#include "ops/decoder/cuda/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "cuda/memory.h"
#include "ops/spmm/cuda/search.h"

namespace rarefy::gpu {
namespace {

/// Above this density no sparse kernel is fast enough to be worth packing for.
constexpr double kDenseFrom = 0.85;

/// Weights whose densities round to the same step are alike.
constexpr double kDensitySteps = 50;

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

cuda::DeviceBuffer upload_rows(const cuda::Stream& stream, const RowSource& source,
                               ThreadPool& pool) {
  const std::size_t row_bytes = static_cast<std::size_t>(source.cols()) * size_of(source.dtype());
  const std::size_t bytes = static_cast<std::size_t>(source.rows()) * row_bytes;
  cuda::DeviceBuffer buffer(stream, bytes);
  const void* data = source.dense_data();
  Buffer rows;
  if (data == nullptr) {
    rows = Buffer(bytes);
    pool.parallel_for(source.rows(), [&](std::int64_t begin, std::int64_t end) {
      source.read_rows(begin, end, rows.data() + static_cast<std::size_t>(begin) * row_bytes);
    });
    data = rows.data();
  }
  cuda::copy_to_device(stream, buffer.address(), data, bytes);
  stream.synchronize();
  return buffer;
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
  if (known != known_.end()) {
    std::vector<Candidate> candidates = enumerate(problem, pattern, stream_.device().facts());
    const auto same = std::find_if(candidates.begin(), candidates.end(), [&](const Candidate& c) {
      return c.name == known->second.kernel;
    });
    if (same != candidates.end()) {
      std::unique_ptr<Operator> op = same->build(weight, stream_);
      info.kernel = same->name;
      info.time_us = known->second.time_us;
      info.bytes = op->bytes();
      return op;
    }
  }
  SearchOptions search;
  if (dense) search.only = "dense";
  if (!options_.measure) search.measure_best = 1;
  Choice choice = choose(weight, problem, stream_, search, pool_);
  known_[kind] = {choice.name, choice.time_us};
  info.kernel = choice.name;
  info.time_us = choice.time_us;
  info.bytes = choice.op->bytes();
  return std::move(choice.op);
}

}  // namespace rarefy::gpu
