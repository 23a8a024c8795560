#include "ops/decoder/cuda/weights.h"

#include <utility>

#include "ops/spmm/cuda/converted_rows.h"

namespace rarefy::gpu {

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
  const ChooserOptions choice{.dense_only = options_.dense_only,
                              .measure = options_.measure,
                              .weight_memory = options_.weight_memory.value_or(kWeightMemory)};
  KernelChooser::Chosen chosen = chooser_.make(source, problem, choice, stream_, pool_);
  std::unique_ptr<Operator> op =
      expander_.wrap(std::move(chosen.op), problem, chosen.time_us, std::move(chosen.expandable));
  info.kernel = chosen.kernel;
  info.rows = problem.m;
  info.cols = problem.k;
  info.bytes = op->bytes();
  info.many_from = chosen.many_from;
  info.time_us = chosen.time_us;
  return op;
}

}  // namespace rarefy::gpu
