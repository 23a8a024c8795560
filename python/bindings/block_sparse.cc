// Block-sparse weights that train: the three products of include/rarefy/block_sparse.h over arrays
// that torch keeps.
#include "rarefy/block_sparse.h"

#include <nanobind/stl/optional.h>

#include <algorithm>
#include <vector>

#include "arguments.h"
#include "array.h"
#include "bias.h"
#include "bindings.h"
#include "block_arguments.h"
#include "small_work.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace rarefy::python {
namespace {

/// The arrays of a pattern as operators take them.
struct PatternArguments {
  const ArrayArgument &row_offsets, &col_indices, &col_offsets, &row_indices, &order;
  std::int64_t rows, cols;
};

/// @param values whose last two dimensions are the block shape.
/// @param by_columns whether the arrays by columns are read, too: each takes 0.1 µs.
BlockPattern pattern_of(const PatternArguments& arguments, const Array& values, const char* name,
                        bool by_columns) {
  require(values.ndim() == 3 && is_compute_dtype(values.dtype()),
          "{}: expected f32, f16 or bf16 [blocks, block rows, block columns], got {}", name,
          values.describe());
  BlockPattern pattern{.rows = arguments.rows,
                       .cols = arguments.cols,
                       .block_rows = block_side(values.shape(1)),
                       .block_cols = block_side(values.shape(2)),
                       .row_offsets = indices(arguments.row_offsets, "row_offsets"),
                       .col_indices = indices(arguments.col_indices, "col_indices")};
  if (by_columns) {
    pattern.col_offsets = indices(arguments.col_offsets, "col_offsets");
    pattern.row_indices = indices(arguments.row_indices, "row_indices");
    pattern.order = indices(arguments.order, "order");
  }
  return pattern;
}

/// out = x·Aᵀ + bias, or x·A when `transposed`, over the last dimension. False, with nothing done,
/// where x or the values have to be made contiguous first.
bool linear(const ArrayArgument& x_argument, const ArrayArgument& values_argument,
            const ArrayArgument& row_offsets, const ArrayArgument& col_indices,
            const ArrayArgument& col_offsets, const ArrayArgument& row_indices,
            const ArrayArgument& order, std::int64_t out_features, std::int64_t in_features,
            const std::optional<ArrayArgument>& bias_argument, bool transposed,
            const ArrayArgument& out_argument) {
  const Array x(x_argument, "x");
  const Array values(values_argument, "values");
  const Array out = Array::output(out_argument, "out");
  const BlockPattern pattern = pattern_of(
      {row_offsets, col_indices, col_offsets, row_indices, order, out_features, in_features},
      values, "values", transposed);
  const std::int64_t features = transposed ? out_features : in_features;
  require(x.ndim() >= 1 && x.shape(x.ndim() - 1) == features && is_compute_dtype(x.dtype()),
          "x: expected f32, f16 or bf16 […, {}], got {}", features, x.describe());
  SpmmArgs args;
  MatrixRef b;
  if (!x.rows(b) || !values.is_contiguous()) return false;
  args.b = b;
  require(out.rows(args.c), "out: expected contiguous rows, got {}", out.describe());
  std::optional<Bias> bias;
  if (bias_argument) args.bias = bias.emplace(Array(*bias_argument, "bias"), args.c.cols).values();
  const ConstBlockValues stored{values.contiguous(values.dtype()), values.dtype(), values.size()};
  const nb::gil_scoped_release unlocked;
  ThreadPool& pool = pool_for(stored.count, b.rows);
  if (transposed) {
    block_linear_transposed(pattern, stored, args, pool);
  } else {
    block_linear(pattern, stored, args, pool);
  }
  return true;
}

/// out = the stored blocks of pᵀ·q, both flattened to rows of their last dimension. False, with
/// nothing done, where p or q have to be made contiguous first.
bool sddmm(const ArrayArgument& p_argument, const ArrayArgument& q_argument,
           const ArrayArgument& row_offsets, const ArrayArgument& col_indices,
           const ArrayArgument& col_offsets, const ArrayArgument& row_indices,
           const ArrayArgument& order, std::int64_t out_features, std::int64_t in_features,
           const ArrayArgument& out_argument) {
  const Array p(p_argument, "p");
  const Array q(q_argument, "q");
  const Array out = Array::output(out_argument, "out");
  const BlockPattern pattern = pattern_of(
      {row_offsets, col_indices, col_offsets, row_indices, order, out_features, in_features}, out,
      "out", false);
  MatrixRef p_rows;
  MatrixRef q_rows;
  if (!p.rows(p_rows) || !q.rows(q_rows)) return false;
  const BlockValues stored{out.contiguous(out.dtype()), out.dtype(), out.size()};
  const nb::gil_scoped_release unlocked;
  block_sddmm(pattern, p_rows, q_rows, stored, pool_for(stored.count, p_rows.rows));
  return true;
}

/// Fills the arrays by columns from those by rows.
void columns(const ArrayArgument& row_offsets, const ArrayArgument& col_indices,
             std::int64_t out_features, std::int64_t in_features, std::int64_t block_rows,
             std::int64_t block_cols, const ArrayArgument& col_offsets,
             const ArrayArgument& row_indices, const ArrayArgument& order) {
  const BlockPattern pattern{.rows = out_features,
                             .cols = in_features,
                             .block_rows = block_side(block_rows),
                             .block_cols = block_side(block_cols),
                             .row_offsets = indices(row_offsets, "row_offsets"),
                             .col_indices = indices(col_indices, "col_indices")};
  const BlockColumns found = block_columns(pattern);
  const auto fill = [](const ArrayArgument& argument, const char* name,
                       const std::vector<std::int32_t>& from) {
    const Array array = Array::output(argument, name);
    require(array.ndim() == 1 && array.size() == std::ssize(from), "{}: expected i32 [{}], got {}",
            name, from.size(), array.describe());
    std::copy(from.begin(), from.end(), static_cast<std::int32_t*>(array.contiguous(DType::kI32)));
  };
  fill(col_offsets, "col_offsets", found.offsets);
  fill(row_indices, "row_indices", found.row_indices);
  fill(order, "order", found.order);
}

}  // namespace

void bind_block_sparse(nb::module_& module) {
  module.def("bsr_linear", &linear, "x"_a, "values"_a, "row_offsets"_a, "col_indices"_a,
             "col_offsets"_a, "row_indices"_a, "order"_a, "out_features"_a, "in_features"_a,
             "bias"_a.none(), "transposed"_a, "out"_a);
  module.def("bsr_sddmm", &sddmm, "p"_a, "q"_a, "row_offsets"_a, "col_indices"_a, "col_offsets"_a,
             "row_indices"_a, "order"_a, "out_features"_a, "in_features"_a, "out"_a);
  module.def("bsr_columns", &columns, "row_offsets"_a, "col_indices"_a, "out_features"_a,
             "in_features"_a, "block_rows"_a, "block_cols"_a, "col_offsets"_a, "row_indices"_a,
             "order"_a);
}

}  // namespace rarefy::python
