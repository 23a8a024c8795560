#include "rarefy/matrix.h"

#include "capi/entry.h"
#include "rarefy/planner.h"
#include "rarefy/spmm.h"

using namespace rarefy;

struct rarefy_matrix {
  std::shared_ptr<ThreadPool> pool;
  Linear linear;
};

namespace {

Plan plan_for(const RowSource& source, const char* format, ThreadPool& pool) {
  Plan plan;
  if (format != nullptr) {
    const std::optional<FormatSpec> spec = FormatSpec::parse(format);
    require(spec.has_value(),
            "format: expected a format such as dense, bitmap, csr16, sell8, 2:4 or bsr16x32, got "
            "'{}'",
            format);
    plan.format = *spec;  // Without steps: every call takes the default kernel.
    return plan;
  }
  PlanRequest request;
  request.workloads = {{1, 1.0}, {128, 0.05}};
  Planner planner({}, pool);
  return planner.plan(source, request);
}

Activation activation_argument(int32_t activation) {
  switch (activation) {
    case RAREFY_ACTIVATION_NONE:
      return Activation::kNone;
    case RAREFY_ACTIVATION_RELU:
      return Activation::kRelu;
    case RAREFY_ACTIVATION_GELU:
      return Activation::kGelu;
    case RAREFY_ACTIVATION_SILU:
      return Activation::kSilu;
    default:
      fail(ErrorKind::kInvalidArgument, "args: activation: expected 0 to 3, got {}", activation);
  }
}

rarefy_dtype to_c(DType dtype) {
  return dtype == DType::kF32 ? RAREFY_F32 : dtype == DType::kF16 ? RAREFY_F16 : RAREFY_BF16;
}

}  // namespace

rarefy_status rarefy_matrix_pack(const void* dense, rarefy_dtype dtype, int64_t rows, int64_t cols,
                                 int64_t row_stride, const char* format, rarefy_matrix** matrix) {
  return capi::entry("rarefy_matrix_pack", [&] {
    capi::require_given(matrix, "matrix");
    const DType type = capi::dtype_argument(dtype, "dtype");
    require(rows >= 0 && cols >= 0, "rows, cols: expected a shape, got {}x{}", rows, cols);
    if (rows > 0 && cols > 0) capi::require_given(dense, "dense");
    const std::int64_t stride = capi::row_stride_argument(rows, cols, row_stride, "row_stride");
    const DenseSource source({dense, type, rows, cols, stride});
    auto pool = capi::current_pool();
    Plan plan = plan_for(source, format, *pool);
    // Packed even where a plan would borrow dense rows: the caller's memory is not ours to keep.
    MatrixPtr packed = pack(source, plan.format, *pool);
    *matrix = new rarefy_matrix{std::move(pool), Linear(std::move(packed), std::move(plan))};
  });
}

void rarefy_matrix_free(rarefy_matrix* matrix) {
  delete matrix;
}

rarefy_status rarefy_matrix_info(const rarefy_matrix* matrix,
                                 rarefy_matrix_description* description) {
  return capi::entry("rarefy_matrix_info", [&] {
    capi::require_given(matrix, "matrix");
    capi::require_result(description, "description");
    const Matrix& packed = matrix->linear.matrix();
    rarefy_matrix_description out{};
    const std::string name = packed.spec().name();
    name.copy(static_cast<char*>(out.format), sizeof(out.format) - 1);
    out.dtype = to_c(packed.dtype());
    out.rows = packed.rows();
    out.cols = packed.cols();
    out.nnz = packed.nnz();
    out.bytes = packed.bytes();
    capi::write_result(description, out);
  });
}

rarefy_status rarefy_spmm(const rarefy_matrix* matrix, const rarefy_spmm_args* args) {
  return capi::entry("rarefy_spmm", [&] {
    capi::require_given(matrix, "matrix");
    capi::require_given(args, "args");
    const rarefy_spmm_args given = capi::read_options(args, "args");
    require(given.reserved == 0, "args: reserved: expected 0, got {}", given.reserved);
    require(given.n >= 0, "args: n: expected >= 0, got {}", given.n);
    require(given.layout == RAREFY_TOKEN_MAJOR || given.layout == RAREFY_FEATURE_MAJOR,
            "args: layout: expected RAREFY_TOKEN_MAJOR or RAREFY_FEATURE_MAJOR (0 or 1), got {}",
            given.layout);
    const bool token_major = given.layout == RAREFY_TOKEN_MAJOR;
    const Matrix& a = matrix->linear.matrix();

    SpmmArgs out;
    out.layout = token_major ? Layout::kTokenMajor : Layout::kFeatureMajor;
    out.activation = activation_argument(given.activation);
    out.precision = given.bf16_activations != 0 ? Precision::kBf16 : Precision::kExact;
    out.bias = given.bias;
    out.b.data = given.b;
    out.b.dtype = capi::dtype_argument(given.b_dtype, "args: b_dtype");
    out.b.rows = token_major ? given.n : a.cols();
    out.b.cols = token_major ? a.cols() : given.n;
    out.b.row_stride =
        capi::row_stride_argument(out.b.rows, out.b.cols, given.b_row_stride, "args: b_row_stride");
    out.c.data = given.c;
    out.c.dtype = capi::dtype_argument(given.c_dtype, "args: c_dtype");
    out.c.rows = token_major ? given.n : a.rows();
    out.c.cols = token_major ? a.rows() : given.n;
    out.c.row_stride =
        capi::row_stride_argument(out.c.rows, out.c.cols, given.c_row_stride, "args: c_row_stride");
    if (given.residual != nullptr) {
      out.residual = out.c;
      out.residual.data = given.residual;
    }
    matrix->linear.run(out, *matrix->pool);
  });
}
