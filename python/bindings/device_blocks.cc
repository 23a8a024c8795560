// Block-sparse weights that train on a GPU beside torch: its memory, its streams. Calls keep the
// interpreter's lock while they launch, which takes microseconds, and give it up while kernels are
// chosen.
#include "ops/block_sparse/device_blocks.h"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <string_view>

#include "array.h"
#include "base/check.h"
#include "bindings.h"
#include "block_arguments.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace rarefy::python {
namespace {

std::uintptr_t address(const void* data) {
  return reinterpret_cast<std::uintptr_t>(data);
}

/// A pattern on a GPU, and what arguments are held against.
class PlacedBlocks {
 public:
  PlacedBlocks(const ArrayArgument& row_offsets, const ArrayArgument& col_indices,
               std::int64_t out_features, std::int64_t in_features, std::int64_t block_rows,
               std::int64_t block_cols, int device)
      : place_(Place::cuda(device)), rows_(out_features), cols_(in_features) {
    const int high = block_side(block_rows), wide = block_side(block_cols);
    require(device >= 0, "device: expected a number from 0 on, got {}", device);
    const BlockPattern pattern{.rows = out_features,
                               .cols = in_features,
                               .block_rows = high,
                               .block_cols = wide,
                               .row_offsets = indices(row_offsets, "row_offsets"),
                               .col_indices = indices(col_indices, "col_indices")};
    block_rows_ = high;
    block_cols_ = wide;
    count_ = pattern.blocks();
    blocks_ = blocks_on_device(pattern, device);
  }

  /// Why there are no kernels for it; None where there are. f16 and bf16 are one to them.
  [[nodiscard]] std::optional<std::string> unsupported() const {
    const Support support = blocks_->supports(DType::kBF16);
    return support ? std::nullopt : std::optional(support.reason);
  }

  /// out = x·Aᵀ + bias, or x·A, enqueued on the current stream. False, with nothing done, where x
  /// or the values have to be copied first: their strides or addresses are not those of kernels.
  bool linear(const ArrayArgument& x_argument, const ArrayArgument& values_argument,
              const std::optional<ArrayArgument>& bias_argument, bool transposed,
              const ArrayArgument& out_argument) {
    const Array x = Array::at(place_, x_argument, "x");
    const Array values = Array::at(place_, values_argument, "values");
    const Array out = Array::at(place_, out_argument, "out");
    check_values(values, "values");
    const std::int64_t inputs = transposed ? rows_ : cols_;
    const std::int64_t outputs = transposed ? cols_ : rows_;
    check_rows(x, "x", inputs, values.dtype());
    MatrixRef from;
    MatrixRef to;
    if (!x.rows(from) || !values.is_contiguous() || !is_aligned(from)) return false;
    require(
        out.dtype() == values.dtype() && out.rows(to) && to.cols == outputs && to.rows == from.rows,
        "out: expected {} [{}, {}] in memory, got {}", to_string(values.dtype()), from.rows,
        outputs, out.describe());
    DeviceBlockCall call{
        .product = transposed ? DeviceProduct::kTransposed : DeviceProduct::kLinear,
        .dtype = values.dtype(),
        .values = address(values.contiguous(values.dtype())),
        .x = {address(from.data), from.row_stride},
        .y = {address(to.data), to.row_stride},
        .tokens = from.rows};
    if (call.values % kAlignment != 0) return false;
    if (bias_argument) {
      const Array bias = Array::at(place_, *bias_argument, "bias");
      require(bias.ndim() == 1 && bias.size() == outputs, "bias: expected f32 [{}], got {}",
              outputs, bias.describe());
      call.bias = address(bias.contiguous(DType::kF32));
    }
    if (outputs != 0) launch(x_argument, call);
    return true;
  }

  /// out = the stored blocks of pᵀ·q. False as `linear`.
  bool samples(const ArrayArgument& p_argument, const ArrayArgument& q_argument,
               const ArrayArgument& out_argument) {
    const Array p = Array::at(place_, p_argument, "p");
    const Array q = Array::at(place_, q_argument, "q");
    const Array out = Array::at(place_, out_argument, "out");
    check_values(out, "out");
    check_rows(p, "p", rows_, out.dtype());
    check_rows(q, "q", cols_, out.dtype());
    MatrixRef p_rows;
    MatrixRef q_rows;
    if (!p.rows(p_rows) || !q.rows(q_rows) || !is_aligned(p_rows) || !is_aligned(q_rows))
      return false;
    require(p_rows.rows == q_rows.rows, "q: expected {} rows as p, got {}", p_rows.rows,
            q_rows.rows);
    launch(p_argument, {.product = DeviceProduct::kSamples,
                        .dtype = out.dtype(),
                        .values = address(out.contiguous(out.dtype())),
                        .x = {address(p_rows.data), p_rows.row_stride},
                        .y = {address(q_rows.data), q_rows.row_stride},
                        .tokens = p_rows.rows});
    return true;
  }

  /// (product, dtype, tokens, kernel, microseconds, whether they were measured) of each choice.
  [[nodiscard]] nb::list kernels() const {
    nb::list found;
    for (const DeviceBlockKernel& k : blocks_->kernels())
      found.append(nb::make_tuple(to_string(k.product), std::string(to_string(k.dtype)), k.tokens,
                                  k.kernel, k.time_us, k.measured));
    return found;
  }
  [[nodiscard]] std::size_t bytes() const { return blocks_->bytes(); }
  [[nodiscard]] bool recorded() const { return blocks_->recorded(); }

 private:
  static constexpr std::uintptr_t kAlignment = 16;

  static bool is_aligned(const MatrixRef& rows) {
    return address(rows.data) % kAlignment == 0 && rows.row_stride * 2 % kAlignment == 0;
  }

  void check_values(const Array& values, const char* name) const {
    require(values.ndim() == 3 && values.shape(0) == count_ && values.shape(1) == block_rows_ &&
                values.shape(2) == block_cols_ &&
                (values.dtype() == DType::kF16 || values.dtype() == DType::kBF16),
            "{}: expected f16 or bf16 [{}, {}, {}], got {}", name, count_, block_rows_, block_cols_,
            values.describe());
  }
  static void check_rows(const Array& rows, const char* name, std::int64_t features, DType dtype) {
    require(rows.ndim() >= 1 && rows.shape(rows.ndim() - 1) == features && rows.dtype() == dtype,
            "{}: expected {} […, {}], got {}", name, to_string(dtype), features, rows.describe());
  }

  void launch(const ArrayArgument& tensor, const DeviceBlockCall& call) {
    void* stream = current_stream(tensor, place_);
    if (blocks_->enqueue(stream, call)) return;
    const nb::gil_scoped_release unlocked;
    const char* freeze = std::getenv("RAREFY_FREEZE");
    blocks_->prepare(stream, call, freeze == nullptr || std::string_view(freeze) != "1");
    require(blocks_->enqueue(stream, call), "block-sparse {}: not ready after it was prepared",
            to_string(call.product));
  }

  Place place_;
  std::int64_t rows_, cols_, block_rows_ = 0, block_cols_ = 0, count_ = 0;
  std::unique_ptr<DeviceBlocks> blocks_;
};

}  // namespace

void bind_device_blocks(nb::module_& module) {
  nb::class_<PlacedBlocks>(module, "DeviceBlocks",
                           "A block pattern on a GPU, with the kernels that were chosen for it.")
      .def(nb::init<const ArrayArgument&, const ArrayArgument&, std::int64_t, std::int64_t,
                    std::int64_t, std::int64_t, int>(),
           "row_offsets"_a, "col_indices"_a, "out_features"_a, "in_features"_a, "block_rows"_a,
           "block_cols"_a, "device"_a)
      .def_prop_ro("unsupported", &PlacedBlocks::unsupported)
      .def("linear", &PlacedBlocks::linear, "x"_a, "values"_a, "bias"_a.none(), "transposed"_a,
           "out"_a)
      .def("samples", &PlacedBlocks::samples, "p"_a, "q"_a, "out"_a)
      .def("kernels", &PlacedBlocks::kernels,
           nb::sig("def kernels(self) -> list[tuple[str, str, int, str, float, bool]]"))
      .def_prop_ro("nbytes", &PlacedBlocks::bytes)
      .def_prop_ro("recorded", &PlacedBlocks::recorded, "Whether a graph has recorded a product.");
}

}  // namespace rarefy::python
