// Packed weights: pack, read back, multiply.
#include "rarefy/matrix.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <variant>
#include <vector>

#include "arguments.h"
#include "array.h"
#include "bindings.h"
#include "handles.h"
#include "packed.h"
#include "rarefy/sddmm.h"
#include "rarefy/spmm.h"
#include "source.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace rarefy::python {
namespace {

using PackedPtr = std::shared_ptr<Packed>;

/// @param plan the format's, where nobody planned.
PackedPtr pack(const ArrayArgument& weight, const std::variant<Plan, std::string>& plan,
               const std::optional<std::string>& dtype) {
  const SourceArgument source(weight, "weight");
  const Plan* planned = std::get_if<Plan>(&plan);
  const FormatSpec spec =
      planned != nullptr ? planned->format : format_argument(std::get<std::string>(plan));
  const DType type = dtype ? dtype_argument(*dtype, "dtype") : (*source).dtype();
  const nb::gil_scoped_release unlocked;
  MatrixPtr matrix = rarefy::pack(*source, spec, type);
  return planned != nullptr ? Packed::make(std::move(matrix), *planned)
                            : Packed::make(std::move(matrix));
}

void spmm(const Packed& a, const ArrayArgument& b_argument, const ArrayArgument& out_argument,
          const std::optional<ArrayArgument>& bias_argument, const std::string& activation,
          const std::optional<ArrayArgument>& residual_argument, const std::string& layout,
          const std::string& precision, const std::optional<std::string>& kernel_name) {
  const Array b(b_argument, "b");
  const Array out = Array::output(out_argument, "out");
  SpmmArgs args;
  args.b = b.matrix();
  args.c = out.mutable_matrix();
  std::optional<Array> bias;
  if (bias_argument) {
    bias.emplace(*bias_argument, "bias");
    args.bias = static_cast<const float*>(bias->contiguous(DType::kF32));
    require(bias->ndim() == 1 && bias->size() == a.matrix()->rows(),
            "bias: expected f32 [{}], got {}", a.matrix()->rows(), bias->describe());
  }
  std::optional<Array> residual;
  if (residual_argument) {
    residual.emplace(*residual_argument, "residual");
    args.residual = residual->matrix();
  }
  args.activation = activation_argument(activation);
  args.layout = layout_argument(layout);
  args.precision = precision_argument(precision);
  const SpmmKernel* kernel = nullptr;
  if (kernel_name) {
    kernel = find_spmm_kernel(*kernel_name);
    require(kernel != nullptr, "kernel: no kernel is named '{}'; spmm_kernels() lists them",
            *kernel_name);
  }
  const nb::gil_scoped_release unlocked;
  if (kernel != nullptr) {
    rarefy::spmm(*a.matrix(), args, default_pool(), kernel);
  } else {
    a.run(args, default_pool());
  }
}

PackedPtr sddmm(const Packed& pattern, const ArrayArgument& p_argument,
                const ArrayArgument& q_argument) {
  const Array p(p_argument, "p");
  const Array q(q_argument, "q");
  const ConstMatrixRef p_matrix = p.matrix();
  const ConstMatrixRef q_matrix = q.matrix();
  const nb::gil_scoped_release unlocked;
  return Packed::make(rarefy::sddmm(*pattern.matrix(), p_matrix, q_matrix));
}

std::string repr(const Packed& packed) {
  const Matrix& matrix = *packed.matrix();
  return fmt::format("Matrix({}x{} {} {}, {:.1f} % stored, {} bytes)", matrix.rows(), matrix.cols(),
                     to_string(matrix.dtype()), matrix.spec().name(), 100 * matrix.density(),
                     matrix.bytes());
}

}  // namespace

void bind_matrix(nb::module_& module) {
  nb::class_<Packed>(module, "Matrix",
                     "A packed weight, M×K in any format; immutable. `pack` and `plan` make them.")
      .def_prop_ro(
          "shape",
          [](const Packed& self) {
            return nb::make_tuple(self.matrix()->rows(), self.matrix()->cols());
          },
          nb::sig("def shape(self) -> tuple[int, int]"), "(M, K): outputs and inputs.")
      .def_prop_ro(
          "dtype",
          [](const Packed& self) { return std::string(to_string(self.matrix()->dtype())); },
          "f32, f16 or bf16.")
      .def_prop_ro(
          "format", [](const Packed& self) { return self.matrix()->spec().name(); },
          "As `pack` takes it: bitmap, csr16, 2:4, bsr16x32, …")
      .def_prop_ro(
          "nnz", [](const Packed& self) { return self.matrix()->nnz(); },
          "Values that are not zero.")
      .def_prop_ro(
          "nbytes", [](const Packed& self) { return self.matrix()->bytes(); },
          "In memory: every array, with its padding.")
      .def_prop_ro(
          "density", [](const Packed& self) { return self.matrix()->density(); }, "nnz / (M·K).")
      .def("_handle", &host_handle, "The two numbers by which torch's operators know this weight.")
      .def("_device_handle", &device_handle, "address"_a, "device"_a, "memory"_a,
           "The same where `memory` holds them on a GPU; known by its address.")
      .def(
          "validate",
          [](const Packed& self) {
            const nb::gil_scoped_release unlocked;
            self.matrix()->validate();
          },
          "Checks every offset, index and count; raises CorruptError.")
      .def(
          "transposed",
          [](Packed& self) {
            const nb::gil_scoped_release unlocked;
            return self.transposed(default_pool());
          },
          "The K×M transpose, packed at the first call and kept: what gradients of inputs multiply "
          "by.")
      .def_prop_ro(
          "plan",
          [](const Packed& self) -> std::optional<Plan> {
            if (self.plan().steps.empty()) return std::nullopt;
            return self.plan();
          },
          "What it was packed by; None where only a format was given.")
      .def(
          "_read",
          [](const Packed& self, const ArrayArgument& out) { read_dense(*self.matrix(), out); },
          "out"_a)
      .def("__repr__", &repr)
      .def("__copy__", [](const PackedPtr& self) { return self; })
      .def(
          "__deepcopy__", [](const PackedPtr& self, const nb::object&) { return self; }, "memo"_a);

  module.def("pack", &pack, "weight"_a, "plan"_a, "dtype"_a = nb::none());
  module.def("spmm", &spmm, "a"_a, "b"_a, "out"_a, "bias"_a = nb::none(), "activation"_a = "none",
             "residual"_a = nb::none(), "layout"_a = "token", "precision"_a = "exact",
             "kernel"_a = nb::none());
  module.def("sddmm", &sddmm, "pattern"_a, "p"_a, "q"_a);
  module.def(
      "spmm_kernels",
      [] {
        std::vector<std::string> names;
        for (const SpmmKernel* kernel : rarefy::spmm_kernels()) names.emplace_back(kernel->name());
        return names;
      },
      "Names of all SpMM kernels of this build.");
}

}  // namespace rarefy::python
