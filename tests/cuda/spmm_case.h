// What tests of SpMM kernels on a GPU share: a weight, and a multiplication held against double.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "cuda/memory.h"
#include "formats/csr.h"
#include "formats/test_weights.h"
#include "ops/spmm/cuda/device_spmm.h"
#include "rarefy/threads.h"

namespace rarefy::gpu {

using testing::make_weights;
using testing::Pattern;
using testing::WeightCase;

/// A weight of a test with what kernels want to know of it.
struct TestWeight {
  TestWeight(const WeightCase& c, DType dtype, std::uint32_t seed = 1)
      : TestWeight(make_weights(c, seed), c.rows, c.cols, dtype) {}
  TestWeight(const std::vector<float>& values, std::int64_t rows, std::int64_t cols, DType dtype) {
    bytes.resize(values.size() * size_of(dtype));
    convert_elements(values.data(), DType::kF32, bytes.data(), dtype, values.size());
    source = std::make_unique<DenseSource>(ConstMatrixRef{bytes.data(), dtype, rows, cols, cols});
    pattern = pattern_stats(*source);
    csr = pack(*source, format::kCsr32);
  }
  [[nodiscard]] Weight weight() const { return {source.get(), &pattern, csr}; }

  std::vector<std::byte> bytes;
  std::unique_ptr<DenseSource> source;
  PatternStats pattern;
  MatrixPtr csr;
};

/// Compiles every `step`th candidate's kernel on all cores, so that building them finds it.
inline void compile_ahead(const std::vector<Candidate>& candidates, std::size_t step) {
  const cuda::Arch arch = cuda::Device::get().facts().arch();
  const auto count = static_cast<std::int64_t>((candidates.size() + step - 1) / step);
  default_pool().parallel_dynamic(count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const cuda::Source& source = candidates[static_cast<std::size_t>(i) * step].source;
      if (!source.text.empty()) (void)cuda::compile(source, arch);
    }
  });
}

struct Epilogue {
  Activation activation = Activation::kNone;
  bool bias = false, residual = false;
};

/// When a kernel rounds to the output's dtype: what it returns, the sum that bias and activation
/// are applied to as well, or the sum of some of the products as well.
enum class Rounds { kOnce, kAheadOfEpilogue, kBetweenParts };

/// One run on the device and the same in double.
class Case {
 public:
  Case(const TestWeight& weight, const Problem& problem, float special = 0) : p_(problem) {
    std::mt19937 random(7);
    std::normal_distribution<float> normal;
    const auto fill = [&](std::int64_t count, DType dtype) {
      std::vector<float> values(static_cast<std::size_t>(count));
      for (float& v : values) v = normal(random);
      std::vector<std::byte> raw(values.size() * size_of(dtype));
      convert_elements(values.data(), DType::kF32, raw.data(), dtype, values.size());
      return raw;
    };
    b_ = fill(p_.k * p_.n, p_.activations);
    residual_ = fill(p_.m * p_.n, p_.output);
    bias_.resize(static_cast<std::size_t>(p_.m));
    for (float& v : bias_) v = normal(random);
    if (special != 0)
      convert_elements(&special, DType::kF32, b_.data() + b_.size() / 2 / 4 * 4, p_.activations, 1);
    reference_.resize(static_cast<std::size_t>(p_.m * p_.n));
    bound_.resize(reference_.size());
    compute_reference(*weight.source);
  }

  [[nodiscard]] std::vector<float> device(const Operator& op, const cuda::Stream& stream) const {
    const bool tokens = p_.layout == Layout::kTokenMajor;
    const std::size_t c_bytes = reference_.size() * size_of(p_.output);
    const cuda::DeviceBuffer b = cuda::upload<std::byte>(stream, b_);
    const cuda::DeviceBuffer residual = cuda::upload<std::byte>(stream, residual_);
    const cuda::DeviceBuffer bias = cuda::upload<float>(stream, bias_);
    const cuda::DeviceBuffer c(stream, c_bytes);
    cuda::fill_bytes(stream, c.address(), 0xFF, c_bytes);  // NaN: what is not written shows.
    op.enqueue(stream, {.b = b.address(),
                        .b_stride = tokens ? p_.k : p_.n,
                        .c = c.address(),
                        .c_stride = tokens ? p_.m : p_.n,
                        .bias = p_.bias ? bias.address() : 0,
                        .residual = p_.residual ? residual.address() : 0,
                        .residual_stride = tokens ? p_.m : p_.n,
                        .n = p_.n});
    const std::vector<std::byte> raw = cuda::download<std::byte>(stream, c);
    std::vector<float> result(reference_.size());
    convert_elements(raw.data(), p_.output, result.data(), DType::kF32, result.size());
    return result;
  }

  void expect_close(const std::vector<float>& result, const std::string& what,
                    Rounds rounds = Rounds::kOnce) const {
    // The output's own rounding, and 16 roundings of f32 on what a sum of K products of about 1
    // passes through: 4·√K holds nearly all of them.
    const double output_eps = p_.output == DType::kF32   ? 0x1p-24
                              : p_.output == DType::kF16 ? 0x1p-11
                                                         : 0x1p-8;
    const bool epilogue = p_.bias || p_.activation != Activation::kNone;
    const bool twice =
        rounds == Rounds::kBetweenParts || (rounds == Rounds::kAheadOfEpilogue && epilogue);
    const double sum_eps = (twice ? output_eps : 0) + 0x1p-23 * 16;
    for (std::size_t i = 0; i < result.size(); ++i) {
      const double expected = reference_[i];
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(result[i])) << what << " at " << i << ": " << result[i];
        continue;
      }
      if (std::isinf(expected)) {
        ASSERT_EQ(result[i], expected) << what << " at " << i;
        continue;
      }
      const double tolerance = output_eps * std::abs(expected) * 2 + bound_[i] * sum_eps + 1e-6;
      ASSERT_NEAR(result[i], expected, tolerance) << what << " at " << i;
    }
  }

 private:
  void compute_reference(const RowSource& a) {
    SpmmArgs args;
    const bool tokens = p_.layout == Layout::kTokenMajor;
    const auto ref = [&](const void* data, DType dtype, std::int64_t features) {
      return tokens ? ConstMatrixRef{data, dtype, p_.n, features, features}
                    : ConstMatrixRef{data, dtype, features, p_.n, p_.n};
    };
    args.b = ref(b_.data(), p_.activations, p_.k);
    args.layout = p_.layout;
    args.activation = p_.activation;
    if (p_.bias) args.bias = bias_.data();
    if (p_.residual) args.residual = ref(residual_.data(), p_.output, p_.m);
    const ConstMatrixRef c = ref(reference_.data(), DType::kF64, p_.m);
    args.c = {reference_.data(), DType::kF64, c.rows, c.cols, c.row_stride};
    spmm_reference(a, args);
    for (std::size_t i = 0; i < bound_.size(); ++i)
      bound_[i] = 4 * std::sqrt(static_cast<double>(p_.k)) + std::abs(reference_[i]);
  }

  Problem p_;
  std::vector<std::byte> b_, residual_;
  std::vector<float> bias_;
  std::vector<double> reference_, bound_;
};

}  // namespace rarefy::gpu
