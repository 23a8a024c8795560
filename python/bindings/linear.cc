// What torch's operators call, made for little overhead: no result is allocated here, no argument
// is parsed twice.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include "arguments.h"
#include "array.h"
#include "bias.h"
#include "bindings.h"
#include "handles.h"
#include "packed.h"
#include "small_work.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace rarefy::python {
namespace {

/// out = act(x·Aᵀ + bias) over the last dimension, A being the weight of the handle or its
/// transpose. False, with nothing done, where x has to be made contiguous first.
bool linear(const ArrayArgument& x_argument, const ArrayArgument& weight,
            const std::optional<ArrayArgument>& bias_argument, const std::string& activation,
            bool transposed, const ArrayArgument& out_argument) {
  const std::shared_ptr<Packed> packed = weight_argument(weight, "weight");
  const Array x(x_argument, "x");
  const Array out = Array::output(out_argument, "out");
  const std::int64_t rows = packed->matrix()->rows();
  const std::int64_t cols = packed->matrix()->cols();
  const std::int64_t features = transposed ? rows : cols;
  require(x.ndim() >= 1 && x.shape(x.ndim() - 1) == features && is_compute_dtype(x.dtype()),
          "x: expected f32, f16 or bf16 […, {}], got {}", features, x.describe());
  SpmmArgs args;
  MatrixRef b;
  if (!x.rows(b)) return false;
  args.b = b;
  require(out.rows(args.c) && args.c.rows == b.rows && args.c.cols == (transposed ? cols : rows),
          "out: expected [{}, {}] in memory, got {}", b.rows, transposed ? cols : rows,
          out.describe());
  args.activation = activation_argument(activation);
  std::optional<Bias> bias;
  if (bias_argument) args.bias = bias.emplace(Array(*bias_argument, "bias"), args.c.cols).values();
  // bf16 activations lose nothing so, and take the faster kernels.
  args.precision = b.dtype == DType::kBF16 ? Precision::kBf16 : Precision::kExact;
  const nb::gil_scoped_release unlocked;
  (transposed ? packed->transposed(default_pool()) : packed)
      ->run(args, pool_for(packed->matrix()->nnz(), b.rows));
  return true;
}

}  // namespace

void bind_linear(nb::module_& module) {
  module.def("linear", &linear, "x"_a, "weight"_a, "bias"_a.none(), "activation"_a, "transposed"_a,
             "out"_a);
}

}  // namespace rarefy::python
