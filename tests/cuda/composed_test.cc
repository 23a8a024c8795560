// The composed family: packing on any machine, every kind of kernel against the reference on a GPU.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <random>
#include <set>

#include "cuda/memory.h"
#include "formats/csr.h"
#include "formats/test_weights.h"
#include "gpu_or_skip.h"
#include "ops/spmm/cuda/composed/pack.h"
#include "ops/spmm/cuda/families.h"
#include "ops/spmm/cuda/search.h"

namespace rarefy::gpu {
namespace {

using testing::make_weights;
using testing::Pattern;
using testing::WeightCase;

/// A weight of a test with what kernels want to know of it.
struct TestWeight {
  TestWeight(const WeightCase& c, DType dtype, std::uint32_t seed = 1) {
    const std::vector<float> values = make_weights(c, seed);
    bytes.resize(values.size() * size_of(dtype));
    convert_elements(values.data(), DType::kF32, bytes.data(), dtype, values.size());
    source =
        std::make_unique<DenseSource>(ConstMatrixRef{bytes.data(), dtype, c.rows, c.cols, c.cols});
    pattern = pattern_stats(*source);
    csr = pack(*source, format::kCsr32);
  }
  [[nodiscard]] Weight weight() const { return {source.get(), &pattern, csr}; }

  std::vector<std::byte> bytes;
  std::unique_ptr<DenseSource> source;
  PatternStats pattern;
  MatrixPtr csr;
};

TEST(PackComposed, HoldsEveryNonzeroOnceInWholeVectors) {
  for (Pattern pattern : {Pattern::kUniform, Pattern::kEmptyRows, Pattern::kOneFullRow,
                          Pattern::kRowSkew, Pattern::kZero, Pattern::kFull}) {
    const TestWeight w({37, 301, pattern, 0.2}, DType::kF32);
    const auto& csr = dynamic_cast<const CsrMatrix&>(*w.csr);
    for (const std::int64_t longest : {16, 64, 1000}) {
      const bool swizzled = longest == 64;
      const ComposedArrays arrays = pack_composed(
          csr, {.vec = 4, .index_bits = 16, .swizzled = swizzled, .longest_piece = longest});
      std::vector<float> dense(37 * 301);
      std::map<std::uint32_t, std::uint32_t> row_of_slot;
      for (std::size_t i = 0; i < arrays.rows.size(); ++i) {
        for (std::uint32_t slot = arrays.slots[i]; slot < arrays.slots[i + 1]; ++slot)
          row_of_slot[slot] = arrays.rows[i];
      }
      std::int64_t last_count = std::numeric_limits<std::int64_t>::max();
      const auto* columns = reinterpret_cast<const std::uint16_t*>(arrays.columns.data());
      const auto* values = reinterpret_cast<const float*>(arrays.values.data());
      for (std::size_t i = 0; i < arrays.target.size(); ++i) {
        const std::uint32_t to = arrays.target[i];
        const std::uint32_t row = to >> 31 != 0 ? row_of_slot.at(to & 0x7FFFFFFF) : to;
        const std::int64_t count = (arrays.begin[i + 1] - arrays.begin[i]) * 4;
        EXPECT_LE(count, longest);
        EXPECT_LE(count, last_count) << "items fall in length";
        last_count = count;
        for (std::int64_t j = 0; j < count; ++j) {
          const std::size_t at = arrays.begin[i] * 4 + static_cast<std::size_t>(j);
          const unsigned column = columns[at];  // The swizzle is its own inverse.
          dense[row * 301 + (swizzled ? column ^ (column >> 3 & 7) : column)] += values[at];
        }
      }
      std::vector<float> expected(37 * 301);
      w.source->read_rows(0, 37, expected.data());
      EXPECT_EQ(dense, expected) << testing::to_string(pattern) << " " << longest;
    }
  }
}

TEST(ComposedFamily, OffersLegalConfigurationsOfDistinctNames) {
  cuda::DeviceFacts hopper;
  hopper.major = 9;
  hopper.multiprocessors = 132;
  hopper.threads_per_multiprocessor = 2048;
  hopper.registers_per_multiprocessor = 65536;
  hopper.shared_per_multiprocessor = 233472;
  hopper.shared_per_block = 232448;
  hopper.clock_ghz = 1.98;
  hopper.memory_gb_per_s = 3352;
  for (const std::int64_t k : {64, 4096, 200000}) {
    for (const std::int64_t n : {1, 3, 16, 200}) {
      PatternStats pattern;
      pattern.rows = 1000;
      pattern.cols = k;
      pattern.nnz = 1000 * k / 50;
      const Problem problem{.m = 1000, .k = k, .n = n};
      const std::vector<Candidate> found = composed_family().candidates(problem, pattern, hopper);
      EXPECT_FALSE(found.empty()) << k << " " << n;
      std::set<std::string> names;
      for (const Candidate& c : found) {
        EXPECT_TRUE(names.insert(c.name).second) << c.name;
        EXPECT_GT(c.estimate_us, 0) << c.name;
        EXPECT_LT(c.estimate_us, 1e5) << c.name;
      }
    }
  }
}

struct Epilogue {
  Activation activation = Activation::kNone;
  bool bias = false, residual = false;
};

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

  void expect_close(const std::vector<float>& result, const std::string& what) const {
    // The output's own rounding, and that of the f32 sum: at most K roundings of |A||B|.
    const double output_eps = p_.output == DType::kF32   ? 0x1p-24
                              : p_.output == DType::kF16 ? 0x1p-11
                                                         : 0x1p-8;
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
      const double tolerance =
          output_eps * std::abs(expected) * 2 + bound_[i] * 0x1p-23 * 16 + 1e-6;
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

class ComposedOnDevice : public ::testing::Test {
 protected:
  void SetUp() override { RAREFY_SKIP_WITHOUT_GPU(); }

  /// Runs every `step`th candidate of the problem.
  static void check(const TestWeight& weight, Problem problem, std::size_t step,
                    float special = 0) {
    const cuda::Stream stream;
    problem.m = weight.source->rows();
    problem.k = weight.source->cols();
    problem.weight = weight.source->dtype();
    const Case run(weight, problem, special);
    const std::vector<Candidate> candidates =
        composed_family().candidates(problem, weight.pattern, stream.device().facts());
    ASSERT_FALSE(candidates.empty());
    for (std::size_t i = 0; i < candidates.size(); i += step) {
      const std::unique_ptr<Operator> op = candidates[i].build(weight.weight(), stream);
      const std::vector<float> result = run.device(*op, stream);
      run.expect_close(result, candidates[i].name);
      if (HasFatalFailure()) return;
      const std::vector<float> again = run.device(*op->copy(stream), stream);
      ASSERT_EQ(std::memcmp(again.data(), result.data(), result.size() * sizeof(float)), 0)
          << candidates[i].name << " gives other bits the second time";
    }
  }
};

TEST_F(ComposedOnDevice, EveryPatternEveryDtype) {
  for (const DType dtype : {DType::kF16, DType::kBF16, DType::kF32}) {
    for (const Pattern pattern :
         {Pattern::kUniform, Pattern::kEmptyRows, Pattern::kOneFullRow, Pattern::kRowSkew,
          Pattern::kColumnRuns, Pattern::kZero, Pattern::kFull, Pattern::kNegativeZeros}) {
      const TestWeight weight({131, 515, pattern, 0.1}, dtype);
      check(weight, {.n = 3, .activations = dtype, .output = dtype}, 7);
    }
  }
}

TEST_F(ComposedOnDevice, EveryNumberOfTokensInBothLayouts) {
  const TestWeight weight({300, 1000, Pattern::kUniform, 0.05}, DType::kF16);
  for (const std::int64_t n : {1, 2, 5, 8, 16, 17, 33, 64, 100}) {
    for (const Layout layout : {Layout::kTokenMajor, Layout::kFeatureMajor})
      check(weight, {.n = n, .layout = layout}, 5);
  }
}

TEST_F(ComposedOnDevice, EveryConfigurationOfOneProblem) {
  const TestWeight weight({700, 2000, Pattern::kUniform, 0.2}, DType::kF16);
  check(weight, {.n = 1}, 1);
  check(weight, {.n = 8, .layout = Layout::kFeatureMajor}, 1);
}

TEST_F(ComposedOnDevice, MixedDtypesAndEpilogues) {
  const TestWeight weight({65, 300, Pattern::kRowSkew, 0.2}, DType::kBF16);
  for (const Epilogue& e :
       {Epilogue{Activation::kRelu, true, false}, Epilogue{Activation::kGelu, false, true},
        Epilogue{Activation::kSilu, true, true}}) {
    check(weight,
          {.n = 4,
           .activations = DType::kF32,
           .output = DType::kF32,
           .activation = e.activation,
           .bias = e.bias,
           .residual = e.residual},
          5);
  }
}

TEST_F(ComposedOnDevice, ColumnsBeyondSixteenBits) {
  const TestWeight weight({20, 70000, Pattern::kUniform, 0.01}, DType::kF16);
  check(weight, {.n = 1}, 3);
  check(weight, {.n = 2, .layout = Layout::kFeatureMajor}, 3);
  check(weight, {.n = 2}, 3);
}

TEST_F(ComposedOnDevice, NotFiniteActivationsReachTheRowsThatHoldThem) {
  const TestWeight weight({64, 128, Pattern::kUniform, 0.3}, DType::kF16);
  for (const float special :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    check(weight, {.n = 1, .output = DType::kF32}, 3, special);
  }
}

TEST_F(ComposedOnDevice, SearchFindsAKernelAndRemembersIt) {
  const std::string folder = ::testing::TempDir() + "composed_search";
  setenv("RAREFY_CACHE", folder.c_str(), 1);
  const TestWeight weight({2048, 2048, Pattern::kUniform, 0.05}, DType::kF16);
  const cuda::Stream stream;
  const Problem problem{.m = 2048, .k = 2048, .n = 1};
  const Choice first = choose(weight.weight(), problem, stream, {.measure_best = 4});
  EXPECT_FALSE(first.from_cache);
  EXPECT_GT(first.time_us, 0.5);
  EXPECT_LT(first.time_us, 1000);
  const Choice again = choose(weight.weight(), problem, stream, {.measure_best = 4});
  EXPECT_TRUE(again.from_cache);
  EXPECT_EQ(again.name, first.name);
  const Case run(weight, problem);
  run.expect_close(run.device(*again.op, stream), again.name);
  unsetenv("RAREFY_CACHE");
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace rarefy::gpu
