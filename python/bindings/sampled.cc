// Weights whose values train at fixed places without structure: the values are the caller's, the
// places those of a weight packed in CSR.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/tuple.h>

#include <cstring>
#include <tuple>
#include <vector>

#include "arguments.h"
#include "array.h"
#include "bindings.h"
#include "formats/csr.h"
#include "formats/panels.h"
#include "handles.h"
#include "packed.h"
#include "rarefy/sddmm.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace rarefy::python {
namespace {

const CsrMatrix& csr_of(const Packed& pattern) {
  const auto* csr = dynamic_cast<const CsrMatrix*>(pattern.matrix().get());
  if (csr == nullptr) {
    fail(ErrorKind::kUnsupported, "pattern: expected a weight packed as csr or csr16, got {}",
         pattern.matrix()->spec().name());
  }
  return *csr;
}

Array values_argument(const Array& values, const CsrMatrix& pattern, const char* name) {
  require(
      values.ndim() == 1 && values.size() == pattern.entries() && is_compute_dtype(values.dtype()),
      "{}: expected f32, f16 or bf16 [{}], one for each place of the pattern, got {}", name,
      pattern.entries(), values.describe());
  return values;
}

Buffer copy_of(const Buffer& from) {
  Buffer to(from.size());
  std::memcpy(to.data(), from.data(), from.size());
  return to;
}

/// Room for `entries` values and the tail that kernels may read.
Buffer values_buffer(std::int64_t entries, DType dtype) {
  return Buffer::zeros(static_cast<std::size_t>(entries) * size_of(dtype) + kTailBytes);
}

/// The pattern's places with these values.
MatrixPtr with_values(const CsrMatrix& pattern, const Array& values) {
  const std::int64_t entries = pattern.entries();
  Buffer stored = values_buffer(entries, values.dtype());
  if (entries > 0) {
    std::memcpy(stored.data(), values.contiguous(values.dtype()),
                static_cast<std::size_t>(entries) * size_of(values.dtype()));
  }
  return std::make_shared<CsrMatrix>(
      PackedShape{pattern.spec(), pattern.rows(), pattern.cols(), values.dtype(), entries},
      CsrMatrix::Arrays{copy_of(pattern.arrays().row_offsets),
                        copy_of(pattern.arrays().col_indices), std::move(stored)});
}

/// The same turned, K×M in 32-bit CSR: counted by column, then filled row by row, so that rows
/// ascend within each.
template <class Index, class Value>
MatrixPtr turned(const CsrMatrix& pattern, const Value* values, DType dtype) {
  const std::int64_t entries = pattern.entries();
  const std::int64_t* offsets = pattern.row_offsets();
  const Index* columns = pattern.col_indices<Index>();
  CsrMatrix::Arrays to{
      Buffer::zeros(static_cast<std::size_t>(pattern.cols() + 1) * sizeof(std::int64_t)),
      Buffer::zeros(static_cast<std::size_t>(entries) * sizeof(std::uint32_t) + kTailBytes),
      values_buffer(entries, dtype)};
  auto* starts = to.row_offsets.as<std::int64_t>();
  for (std::int64_t i = 0; i < entries; ++i) ++starts[columns[i] + 1];
  for (std::int64_t c = 0; c < pattern.cols(); ++c) starts[c + 1] += starts[c];
  std::vector<std::int64_t> next(starts, starts + pattern.cols());
  auto* rows = to.col_indices.as<std::uint32_t>();
  auto* stored = to.values.as<Value>();
  for (std::int64_t r = 0; r < pattern.rows(); ++r) {
    for (std::int64_t i = offsets[r]; i < offsets[r + 1]; ++i) {
      const std::int64_t at = next[columns[i]]++;
      rows[at] = static_cast<std::uint32_t>(r);
      stored[at] = values[i];
    }
  }
  return std::make_shared<CsrMatrix>(
      PackedShape{format::kCsr32, pattern.cols(), pattern.rows(), dtype, entries}, std::move(to));
}

MatrixPtr turned(const CsrMatrix& pattern, const Array& values) {
  const void* data = values.contiguous(values.dtype());
  const auto of = [&]<class Index>(Index) {
    if (values.dtype() == DType::kF32)
      return turned<Index>(pattern, static_cast<const std::uint32_t*>(data), values.dtype());
    return turned<Index>(pattern, static_cast<const std::uint16_t*>(data), values.dtype());
  };
  return pattern.spec().index_bits == 16 ? of(std::uint16_t{}) : of(std::uint32_t{});
}

/// out = x·Aᵀ, or x·A when `transposed`, with A the values at the pattern's places. False, with
/// nothing done, where x or the values have to be made contiguous first.
bool linear(const ArrayArgument& x_argument, const ArrayArgument& values_given,
            const ArrayArgument& handle, bool transposed, const ArrayArgument& out_argument) {
  const std::shared_ptr<Packed> packed = weight_argument(handle, "pattern");
  const CsrMatrix& pattern = csr_of(*packed);
  const Array x(x_argument, "x");
  const Array values = values_argument(Array(values_given, "values"), pattern, "values");
  const Array out = Array::output(out_argument, "out");
  const std::int64_t features = transposed ? pattern.rows() : pattern.cols();
  require(x.ndim() >= 1 && x.shape(x.ndim() - 1) == features && is_compute_dtype(x.dtype()),
          "x: expected f32, f16 or bf16 […, {}], got {}", features, x.describe());
  MatrixRef b;
  if (!x.rows(b) || !values.is_contiguous()) return false;
  SpmmArgs args;
  args.b = b;
  require(out.rows(args.c), "out: expected contiguous rows, got {}", out.describe());
  args.precision = b.dtype == DType::kBF16 ? Precision::kBf16 : Precision::kExact;
  const nb::gil_scoped_release unlocked;
  spmm(transposed ? *turned(pattern, values) : *with_values(pattern, values), args);
  return true;
}

/// out = the products pᵀ·q at the pattern's places, row after row. False, with nothing done, where
/// p or q have to be made contiguous first.
bool sddmm(const ArrayArgument& p_argument, const ArrayArgument& q_argument,
           const ArrayArgument& handle, const ArrayArgument& out_argument) {
  const std::shared_ptr<Packed> packed = weight_argument(handle, "pattern");
  const CsrMatrix& pattern = csr_of(*packed);
  const Array p(p_argument, "p");
  const Array q(q_argument, "q");
  const Array out = values_argument(Array::output(out_argument, "out"), pattern, "out");
  MatrixRef p_rows;
  MatrixRef q_rows;
  if (!p.rows(p_rows) || !q.rows(q_rows)) return false;
  void* to = out.contiguous(out.dtype());
  const nb::gil_scoped_release unlocked;
  const MatrixPtr result = rarefy::sddmm(pattern, p_rows, q_rows);
  const auto& csr = dynamic_cast<const CsrMatrix&>(*result);
  if (csr.entries() > 0) {
    convert_elements(csr.values(), csr.dtype(), to, out.dtype(),
                     static_cast<std::size_t>(csr.entries()));
  }
  return true;
}

/// The values of a pattern, row after row.
void values(const Packed& pattern, const ArrayArgument& out_argument) {
  const CsrMatrix& csr = csr_of(pattern);
  const Array out = values_argument(Array::output(out_argument, "out"), csr, "out");
  void* to = out.contiguous(out.dtype());
  if (out.size() == 0) return;
  convert_elements(csr.values(), csr.dtype(), to, out.dtype(),
                   static_cast<std::size_t>(csr.entries()));
}

/// Rows, columns and places of a pattern.
std::tuple<std::int64_t, std::int64_t, std::int64_t> shape(const ArrayArgument& handle) {
  const std::shared_ptr<Packed> packed = weight_argument(handle, "pattern");
  const CsrMatrix& csr = csr_of(*packed);
  return {csr.rows(), csr.cols(), csr.entries()};
}

/// Where a pattern's places lie in a dense matrix: row · K + column.
void places(const ArrayArgument& handle, const ArrayArgument& out_argument) {
  const std::shared_ptr<Packed> packed = weight_argument(handle, "pattern");
  const CsrMatrix& csr = csr_of(*packed);
  const Array out = Array::output(out_argument, "out");
  require(out.ndim() == 1 && out.size() == csr.entries() && out.dtype() == DType::kI64,
          "out: expected i64 [{}], got {}", csr.entries(), out.describe());
  auto* to = static_cast<std::int64_t*>(out.contiguous(DType::kI64));
  const auto write = [&]<class Index>(Index) {
    const Index* columns = csr.col_indices<Index>();
    for (std::int64_t r = 0; r < csr.rows(); ++r)
      for (std::int64_t i = csr.row_offsets()[r]; i < csr.row_offsets()[r + 1]; ++i)
        to[i] = r * csr.cols() + static_cast<std::int64_t>(columns[i]);
  };
  csr.spec().index_bits == 16 ? write(std::uint16_t{}) : write(std::uint32_t{});
}

}  // namespace

void bind_sampled(nb::module_& module) {
  module.def("csr_linear", &linear, "x"_a, "values"_a, "pattern"_a, "transposed"_a, "out"_a);
  module.def("csr_sddmm", &sddmm, "p"_a, "q"_a, "pattern"_a, "out"_a);
  module.def("csr_values", &values, "pattern"_a, "out"_a);
  module.def("csr_shape", &shape, "pattern"_a);
  module.def("csr_places", &places, "pattern"_a, "out"_a);
}

}  // namespace rarefy::python
