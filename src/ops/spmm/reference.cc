// SpMM in double, one product after the other.
#include <cmath>
#include <numbers>
#include <vector>

#include "base/check.h"
#include "rarefy/spmm.h"

namespace rarefy {
namespace {

double element(const ConstMatrixRef& x, std::int64_t r, std::int64_t c) {
  switch (x.dtype) {
    case DType::kF64:
      return x.row<double>(r)[c];
    case DType::kF32:
      return x.row<float>(r)[c];
    case DType::kF16:
      return to_float(x.row<Float16>(r)[c]);
    case DType::kBF16:
      return to_float(x.row<BFloat16>(r)[c]);
    default:
      fail(ErrorKind::kUnsupported, "spmm_reference: expected f64, f32, f16 or bf16, got {}",
           to_string(x.dtype));
  }
}

double activate(Activation activation, double x) {
  switch (activation) {
    case Activation::kNone:
      return x;
    case Activation::kRelu:
      return x < 0 ? 0 : x;
    case Activation::kGelu:
      return x * 0.5 * (1 + std::erf(x / std::numbers::sqrt2));
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
  }
  return x;
}

}  // namespace

void spmm_reference(const RowSource& a, const SpmmArgs& args) {
  const bool token_major = args.layout == Layout::kTokenMajor;
  const std::int64_t n = token_major ? args.b.rows : args.b.cols;
  require(args.c.dtype == DType::kF64, "spmm_reference: c: expected f64, got {}",
          to_string(args.c.dtype));
  require((token_major ? args.b.cols : args.b.rows) == a.cols(),
          "spmm_reference: b: expected K = {}", a.cols());
  require((token_major ? args.c.cols : args.c.rows) == a.rows() &&
              (token_major ? args.c.rows : args.c.cols) == n,
          "spmm_reference: c: expected M = {}, N = {}", a.rows(), n);

  const auto at = [token_major](const ConstMatrixRef& x, std::int64_t token, std::int64_t feature) {
    return token_major ? element(x, token, feature) : element(x, feature, token);
  };
  std::vector<std::byte> raw(static_cast<std::size_t>(a.cols()) * size_of(a.dtype()));
  for (std::int64_t r = 0; r < a.rows(); ++r) {
    a.read_rows(r, r + 1, raw.data());
    const ConstMatrixRef row{raw.data(), a.dtype(), 1, a.cols(), a.cols()};
    for (std::int64_t token = 0; token < n; ++token) {
      double sum = 0;
      for (std::int64_t k = 0; k < a.cols(); ++k) {
        const double weight = element(row, 0, k);
        if (weight != 0) sum += weight * at(args.b, token, k);  // NaN != 0 holds.
      }
      if (args.bias != nullptr) sum += args.bias[r];
      double result = activate(args.activation, sum);
      if (args.residual.data != nullptr) result += at(args.residual, token, r);
      (token_major ? args.c.row<double>(token)[r] : args.c.row<double>(r)[token]) = result;
    }
  }
}

}  // namespace rarefy
