// Every SpMM kernel of this build against the reference in double: formats, patterns, shapes, N,
// dtypes, epilogues, layouts, instruction sets, threads, activations that are not finite.
//
// One kernel alone: --gtest_filter='*bitmap_avx512*' (dots are underscores).
#include "rarefy/spmm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <memory>
#include <random>

#include "formats/test_weights.h"

namespace rarefy {
namespace {

/// Races do not hide in sizes: under ThreadSanitizer, twenty times slower, fewer do.
#ifdef __SANITIZE_THREAD__
constexpr std::int64_t kTokenCounts[] = {1, 3, 17};
#else
constexpr std::int64_t kTokenCounts[] = {1, 2, 3, 7, 16, 17, 33, 128};
#endif

using testing::all_specs;
using testing::make_weights;
using testing::Pattern;
using testing::try_pack;
using testing::WeightCase;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

/// A matrix of activations in any dtype whose rows have a gap behind them, filled with NaN: a
/// kernel that reads past a row, or writes past one, shows it.
class Activations {
 public:
  Activations(std::int64_t rows, std::int64_t cols, std::int64_t gap, DType dtype)
      : rows_(rows), cols_(cols), stride_(cols + gap), dtype_(dtype) {
    bytes_.resize(static_cast<std::size_t>(rows > 0 ? (rows - 1) * stride_ + cols : 0) *
                  size_of(dtype));
    const std::vector<float> nan(bytes_.size() / size_of(dtype), kNaN);
    convert_elements(nan.data(), DType::kF32, bytes_.data(), dtype, nan.size());
  }
  void set(std::int64_t r, std::int64_t c, float x) {
    convert_elements(&x, DType::kF32, at(r, c), dtype_, 1);
  }
  [[nodiscard]] float get(std::int64_t r, std::int64_t c) const {
    float x = 0;
    convert_elements(const_cast<Activations*>(this)->at(r, c), dtype_, &x, DType::kF32, 1);
    return x;
  }
  void fill_normal(std::uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (std::int64_t r = 0; r < rows_; ++r) {
      for (std::int64_t c = 0; c < cols_; ++c) set(r, c, normal(random));
    }
  }
  [[nodiscard]] MatrixRef ref() { return {bytes_.data(), dtype_, rows_, cols_, stride_}; }
  [[nodiscard]] bool gaps_untouched() const {
    for (std::int64_t r = 0; r + 1 < rows_; ++r) {
      for (std::int64_t c = cols_; c < stride_; ++c) {
        if (!std::isnan(get(r, c))) return false;
      }
    }
    return true;
  }
  [[nodiscard]] const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::byte* at(std::int64_t r, std::int64_t c) {
    return bytes_.data() + static_cast<std::size_t>(r * stride_ + c) * size_of(dtype_);
  }
  std::int64_t rows_, cols_, stride_;
  DType dtype_;
  std::vector<std::byte> bytes_;
};

/// One multiplication with everything that goes in and the answers in double.
struct Case {
  WeightCase weight;
  std::int64_t n = 1;
  DType weight_dtype = DType::kF32, b_dtype = DType::kF32, c_dtype = DType::kF32;
  Precision precision = Precision::kExact;
  Layout layout = Layout::kTokenMajor;
  Activation activation = Activation::kNone;
  bool bias = false, residual = false, in_place = false;
  std::int64_t gap = 0;

  std::vector<float> values{};
  MatrixPtr dense{};
  std::shared_ptr<Activations> b{}, added{};
  std::vector<float> bias_values{};
  std::vector<double> expected{}, tolerance{};  ///< N×M
  std::map<std::string, MatrixPtr> packed{};

  [[nodiscard]] std::string describe() const {
    const auto p = [](bool yes, const char* text) { return std::string(yes ? text : ""); };
    return std::to_string(weight.rows) + "x" + std::to_string(weight.cols) + " " +
           testing::to_string(weight.pattern) + " " + std::to_string(weight.density) +
           " n=" + std::to_string(n) + " w=" + to_string(weight_dtype) +
           " b=" + to_string(b_dtype) + " c=" + to_string(c_dtype) +
           " act=" + to_string(activation) + p(bias, " bias") + p(residual, " residual") +
           p(in_place, " in-place") + p(precision == Precision::kBf16, " bf16-precision") +
           p(layout == Layout::kFeatureMajor, " feature-major") + " gap=" + std::to_string(gap);
  }
  [[nodiscard]] bool token_major() const { return layout == Layout::kTokenMajor; }
  [[nodiscard]] std::shared_ptr<Activations> activations(std::int64_t features, DType dtype) const {
    return token_major() ? std::make_shared<Activations>(n, features, gap, dtype)
                         : std::make_shared<Activations>(features, n, gap, dtype);
  }
  [[nodiscard]] SpmmArgs args(Activations& c) const {
    SpmmArgs a;
    a.b = b->ref();
    a.c = c.ref();
    a.bias = bias ? bias_values.data() : nullptr;
    a.activation = activation;
    if (residual) a.residual = in_place ? c.ref() : added->ref();
    a.layout = layout;
    a.precision = precision;
    return a;
  }
  const Matrix* pack_as(const FormatSpec& spec, ThreadPool& pool) {
    const auto [it, is_new] = packed.try_emplace(spec.name());
    if (is_new) it->second = try_pack(*dense, spec, weight_dtype, pool);
    return it->second.get();
  }
};

double unit_roundoff(DType dtype) {
  return dtype == DType::kF32 ? 0x1p-24 : dtype == DType::kF16 ? 0x1p-11 : 0x1p-8;
}

/// Bounds the error of one result. `magnitude` is Σ|a||b|. A sum of K products in f32, in any
/// order, is off by at most γ = K·2^-24 / (1 - K·2^-24) of it (Higham 2002, §3.1), plus one
/// rounding for the bias. Precision lets activations lose all but 16 bits (kExact) or be rounded to
/// bf16 (kBf16). The activations are Lipschitz with 1.13 and evaluated to 2^-20; then the result is
/// rounded once.
double bound(const Case& c, double magnitude, double bias, double result, double residual) {
  const double k = static_cast<double>(c.weight.cols) + 2;
  const double gamma = k * 0x1p-24 / (1 - k * 0x1p-24);
  const double input = c.precision == Precision::kBf16 ? 0x1p-8 : 0x1p-16;
  const double sum = (gamma + input) * (magnitude + std::abs(bias));
  const double activated =
      c.activation == Activation::kNone ? sum : 1.13 * sum + 0x1p-20 * (magnitude + std::abs(bias));
  return activated +
         unit_roundoff(c.c_dtype) * (std::abs(result) + std::abs(residual) + activated) + 1e-30;
}

void prepare(Case& c, std::uint32_t seed, ThreadPool& pool) {
  const std::int64_t m = c.weight.rows;
  const std::int64_t k = c.weight.cols;
  c.values = make_weights(c.weight, seed);
  c.dense = pack(DenseSource({c.values.data(), DType::kF32, m, k, k}), format::kDense,
                 c.weight_dtype, pool);
  c.b = c.activations(k, c.b_dtype);
  c.b->fill_normal(seed + 1);
  c.added = c.activations(m, c.c_dtype);
  c.added->fill_normal(seed + 2);
  std::mt19937 random(seed + 3);
  std::normal_distribution<float> normal;
  for (std::int64_t r = 0; r < m; ++r) c.bias_values.push_back(normal(random));
}

/// Expected results and their tolerances, from what B holds now.
void solve(Case& c, ThreadPool& pool) {
  const std::int64_t m = c.weight.rows;
  const std::int64_t k = c.weight.cols;
  const auto rows = c.token_major() ? c.n : m;
  const auto cols = c.token_major() ? m : c.n;
  std::vector<double> out(static_cast<std::size_t>(m * c.n));
  SpmmArgs args = c.args(*c.added);
  if (args.residual.data != nullptr) args.residual = c.added->ref();
  args.c = {out.data(), DType::kF64, rows, cols, cols};
  spmm_reference(*c.dense, args);

  std::vector<float> weights(c.values.size());
  pack(*c.dense, format::kDense, DType::kF32, pool)->read_rows(0, m, weights.data());
  c.expected.assign(out.size(), 0);
  c.tolerance.assign(out.size(), 0);
  for (std::int64_t t = 0; t < c.n; ++t) {
    for (std::int64_t r = 0; r < m; ++r) {
      double magnitude = 0;
      for (std::int64_t i = 0; i < k; ++i) {
        const double x = c.token_major() ? c.b->get(t, i) : c.b->get(i, t);
        magnitude += std::abs(weights[static_cast<std::size_t>(r * k + i)] * x);
      }
      const auto at = static_cast<std::size_t>(t * m + r);
      c.expected[at] = out[static_cast<std::size_t>(c.token_major() ? t * m + r : r * c.n + t)];
      const double residual = !c.residual       ? 0
                              : c.token_major() ? c.added->get(t, r)
                                                : c.added->get(r, t);
      c.tolerance[at] = bound(c, magnitude, c.bias ? c.bias_values[static_cast<std::size_t>(r)] : 0,
                              c.expected[at], residual);
    }
  }
}

/// All the cases that every kernel meets: shapes × N in full, the rest rotated through with periods
/// that share no factor.
std::vector<Case> make_cases() {
  const WeightCase weights[] = {
      {1, 1, Pattern::kFull, 1.0},           {1, 300, Pattern::kUniform, 0.4},
      {67, 3, Pattern::kUniform, 0.5},       {16, 64, Pattern::kTwoOfFour, 0.5},
      {33, 100, Pattern::kUniform, 0.3},     {48, 128, Pattern::kUniform, 0.05},
      {35, 141, Pattern::kEmptyRows, 0.5},   {31, 515, Pattern::kOneFullRow, 1.0},
      {64, 256, Pattern::kTwoOfFour, 0.5},   {70, 190, Pattern::kRowSkew, 0.45},
      {18, 1200, Pattern::kColumnRuns, 0.1}, {40, 96, Pattern::kZero, 0.0},
      {19, 77, Pattern::kFull, 1.0},         {32, 160, Pattern::kNegativeZeros, 0.6},
  };
  std::vector<Case> cases;
  unsigned i = 0;
  for (const WeightCase& weight : weights) {
    for (const std::int64_t n : kTokenCounts) {
      if (n == 128 && weight.rows * weight.cols > 8192) continue;  // Keeps the reference quick.
      for (const DType dtype : kDTypes) {
        Case c;
        c.weight = weight;
        c.n = n;
        c.weight_dtype = dtype;
        c.b_dtype = kDTypes[(i / 2) % 3];
        c.c_dtype = i % 5 < 3 ? DType::kF32 : kDTypes[i % 5 - 2];
        c.precision =
            i % 4 == 1 || c.b_dtype == DType::kBF16 ? Precision::kBf16 : Precision::kExact;
        c.layout = i % 7 == 3 ? Layout::kFeatureMajor : Layout::kTokenMajor;
        c.activation = i % 3 == 2 ? static_cast<Activation>(1 + i / 3 % 3) : Activation::kNone;
        c.bias = i % 11 < 4;
        c.residual = i % 13 < 5;
        c.in_place = i % 2 == 0;
        c.gap = i % 3 == 0 ? 5 : 0;
        cases.push_back(std::move(c));
        ++i;
      }
    }
  }
  return cases;
}

ThreadPool& test_pool() {
  static ThreadPool pool(2);
  return pool;
}

/// Prepared and solved once, shared by the tests of all kernels.
std::vector<Case>& cases() {
  static std::vector<Case> all = [] {
    std::vector<Case> made = make_cases();
    test_pool().parallel_dynamic(static_cast<std::int64_t>(made.size()), 1,
                                 [&](std::int64_t begin, std::int64_t) {
                                   ThreadPool alone(1);
                                   Case& c = made[static_cast<std::size_t>(begin)];
                                   prepare(c, static_cast<std::uint32_t>(begin * 10 + 1), alone);
                                   solve(c, alone);
                                 });
    return made;
  }();
  return all;
}

SpmmProblem problem_of(const Case& c, int threads) {
  return {.m = c.weight.rows,
          .k = c.weight.cols,
          .n = c.n,
          .weight = c.weight_dtype,
          .activations = c.b_dtype,
          .output = c.c_dtype,
          .precision = c.precision,
          .threads = threads};
}

/// The first result outside its tolerance, as text; empty when all are within.
std::string first_error(const Case& c, const Activations& result) {
  for (std::int64_t t = 0; t < c.n; ++t) {
    for (std::int64_t r = 0; r < c.weight.rows; ++r) {
      const auto at = static_cast<std::size_t>(t * c.weight.rows + r);
      const double got = c.token_major() ? result.get(t, r) : result.get(r, t);
      if (!(std::abs(got - c.expected[at]) <= c.tolerance[at])) {
        return "token " + std::to_string(t) + " row " + std::to_string(r) + ": expected " +
               std::to_string(c.expected[at]) + " +- " + std::to_string(c.tolerance[at]) +
               ", got " + std::to_string(got);
      }
    }
  }
  return result.gaps_untouched() ? "" : "wrote between the rows of c";
}

std::shared_ptr<Activations> run(Case& c, const Matrix& a, const SpmmKernel* kernel,
                                 ThreadPool& pool) {
  const auto result = c.activations(c.weight.rows, c.c_dtype);
  if (c.residual && c.in_place) *result = *c.added;
  spmm(a, c.args(*result), pool, kernel);
  return result;
}

std::vector<Isa> available_isas() {
  force_isa(std::nullopt);
  std::vector<Isa> isas;
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    if (isa <= active_isa()) isas.push_back(isa);
  }
  return isas;
}

class SpmmKernelTest : public ::testing::TestWithParam<const SpmmKernel*> {
 protected:
  void TearDown() override { force_isa(std::nullopt); }

  /// Skips kernels that this CPU does not have.
  void use_own_isa() {
    if (GetParam()->isa() > available_isas().back())
      GTEST_SKIP() << "this CPU has no " << to_string(GetParam()->isa());
    force_isa(GetParam()->isa());
  }
};

TEST_P(SpmmKernelTest, MatchesTheReference) {
  const SpmmKernel* kernel = GetParam();
  int runs = 0;
  int failures = 0;
  for (const Isa isa : available_isas()) {
    force_isa(isa);
    int index = 0;
    for (Case& c : cases()) {
      // Above its own level a kernel changes at most its helpers: a sample is enough.
      if (++index % 7 != 0 && isa > kernel->isa()) continue;
      for (const FormatSpec& spec : all_specs()) {
        const bool supported = kernel->supports(spec, problem_of(c, 2)).ok;
        if (isa < kernel->isa()) {
          EXPECT_FALSE(supported) << kernel->name() << " claims to run at " << to_string(isa);
          continue;
        }
        if (!supported) continue;
        const Matrix* a = c.pack_as(spec, test_pool());
        if (a == nullptr) continue;
        const auto result = run(c, *a, kernel, test_pool());
        ++runs;
        const std::string error = first_error(c, *result);
        EXPECT_EQ(error, "") << kernel->name() << " " << spec.name() << " at " << to_string(isa)
                             << ": " << c.describe();
        if (!error.empty() && ++failures == 5) FAIL() << "further failures are not shown";
      }
    }
  }
  if (kernel->isa() <= available_isas().back()) {
    EXPECT_GT(runs, 0) << "no case reaches the kernel";
  }
}

TEST_P(SpmmKernelTest, GivesTheSameBitsForAnyNumberOfThreads) {
  use_own_isa();
  if (IsSkipped()) return;
  const SpmmKernel* kernel = GetParam();
  ThreadPool one(1);
  std::vector<std::unique_ptr<ThreadPool>> pools;
  for (const int threads : {2, 3, 5}) pools.push_back(std::make_unique<ThreadPool>(threads));
  const Pattern patterns[] = {Pattern::kTwoOfFour, Pattern::kRowSkew};
  for (const std::int64_t n : {1, 4, 16, 45}) {
    for (const DType dtype : kDTypes) {
      for (const Pattern pattern : patterns) {
        Case c;
        c.weight = {147, 320, pattern, 0.4};
        c.n = n;
        c.weight_dtype = dtype;
        c.b_dtype = n == 4 ? DType::kBF16 : DType::kF32;
        prepare(c, 5, one);
        for (const FormatSpec& spec : all_specs()) {
          if (!kernel->supports(spec, problem_of(c, 1))) continue;
          const Matrix* a = c.pack_as(spec, one);
          if (a == nullptr) continue;
          const auto expected = run(c, *a, kernel, one);
          for (const auto& pool : pools) {
            const auto got = run(c, *a, kernel, *pool);
            ASSERT_EQ(std::memcmp(got->bytes().data(), expected->bytes().data(),
                                  expected->bytes().size()),
                      0)
                << kernel->name() << " " << spec.name() << " with " << pool->size()
                << " threads: " << c.describe();
          }
        }
      }
    }
  }
}

TEST_P(SpmmKernelTest, CarriesInfinityAndNanToTheRowsThatStoreTheirColumn) {
  use_own_isa();
  if (IsSkipped()) return;
  const SpmmKernel* kernel = GetParam();
  for (const std::int64_t n : {1, 5, 16, 33}) {
    for (const DType dtype : kDTypes) {
      for (const float bad : {kInf, -kInf, kNaN}) {
        Case c;
        c.weight = {50, 140, Pattern::kTwoOfFour, 0.5};
        c.n = n;
        c.weight_dtype = dtype;
        c.b_dtype = std::isnan(bad) ? DType::kBF16 : DType::kF32;
        const std::int64_t token = n / 2;
        const std::int64_t column = 77;
        prepare(c, 9, test_pool());
        solve(c, test_pool());
        c.b->set(token, column, bad);
        for (const FormatSpec& spec : all_specs()) {
          if (!kernel->supports(spec, problem_of(c, 2))) continue;
          const Matrix* a = c.pack_as(spec, test_pool());
          if (a == nullptr) continue;
          const auto result = run(c, *a, kernel, test_pool());
          const std::string where = std::string(kernel->name()) + " " + spec.name() + " " +
                                    std::to_string(bad) + ": " + c.describe();
          for (std::int64_t t = 0; t < n; ++t) {
            for (std::int64_t r = 0; r < c.weight.rows; ++r) {
              const double got = result->get(t, r);
              const auto at = static_cast<std::size_t>(t * c.weight.rows + r);
              const float weight = c.values[static_cast<std::size_t>(r * c.weight.cols + column)];
              if (t != token) {
                ASSERT_NEAR(got, c.expected[at], c.tolerance[at]) << where;
              } else if (weight != 0) {
                ASSERT_FALSE(std::isfinite(got)) << where << " row " << r;
              }
            }
          }
        }
      }
    }
  }
}

TEST_P(SpmmKernelTest, ReachesColumnsBeyond16Bits) {
  use_own_isa();
  if (IsSkipped()) return;
  const SpmmKernel* kernel = GetParam();
  static std::map<std::int64_t, Case> wide;  // Solved once for all kernels.
  for (const std::int64_t n : {1, 17}) {
    const auto [it, is_new] = wide.try_emplace(n);
    Case& c = it->second;
    if (is_new) {
      c.weight = {5, 66000, Pattern::kColumnRuns, 0.0};
      c.n = n;
      c.weight_dtype = DType::kBF16;
      prepare(c, 21, test_pool());
      solve(c, test_pool());
    }
    for (const FormatSpec& spec : all_specs()) {
      if (!kernel->supports(spec, problem_of(c, 2))) continue;
      const Matrix* a = c.pack_as(spec, test_pool());
      if (a == nullptr) continue;
      EXPECT_EQ(first_error(c, *run(c, *a, kernel, test_pool())), "")
          << kernel->name() << " " << spec.name() << ": " << c.describe();
    }
  }
}

TEST_P(SpmmKernelTest, CountsItsCost) {
  use_own_isa();
  if (IsSkipped()) return;
  const SpmmKernel* kernel = GetParam();
  const std::vector<float> values = make_weights({64, 256, Pattern::kTwoOfFour, 0.5}, 3);
  const PatternStats pattern =
      pattern_stats(DenseSource({values.data(), DType::kF32, 64, 256, 256}));
  PatternStats bare;  // As `default_spmm_kernel` knows it.
  bare.rows = 64;
  bare.cols = 256;
  bare.nnz = pattern.nnz;
  for (const FormatSpec& spec : all_specs()) {
    for (const DType dtype : kDTypes) {
      SpmmProblem problem{.m = 64, .k = 256, .n = 1, .weight = dtype};
      if (!kernel->supports(spec, problem)) continue;
      for (const PatternStats& p : {pattern, bare}) {
        const SpmmCost cost = kernel->cost(spec, p, problem);
        const double least = static_cast<double>(pattern.nnz) * static_cast<double>(size_of(dtype));
        EXPECT_GE(cost.bytes, least) << kernel->name() << " " << spec.name();
        EXPECT_LE(cost.bytes, 4 * least + 131072) << kernel->name() << " " << spec.name();
        EXPECT_GT(cost.cycles, 0) << kernel->name() << " " << spec.name();
        EXPECT_TRUE(std::isfinite(cost.cycles)) << kernel->name() << " " << spec.name();
      }
    }
  }
}

std::string kernel_test_name(const ::testing::TestParamInfo<const SpmmKernel*>& kernel) {
  std::string name(kernel.param->name());
  for (char& c : name) c = std::isalnum(c) != 0 ? c : '_';
  return name;
}

INSTANTIATE_TEST_SUITE_P(All, SpmmKernelTest,
                         ::testing::ValuesIn(spmm_kernels().begin(), spmm_kernels().end()),
                         kernel_test_name);

TEST(SpmmRegistry, NamesAreUniqueAndFound) {
  for (const SpmmKernel* kernel : spmm_kernels())
    EXPECT_EQ(find_spmm_kernel(kernel->name()), kernel) << kernel->name();
  EXPECT_EQ(find_spmm_kernel("no.such"), nullptr);
}

TEST(SpmmDefault, RunsEveryFormatAtEveryLevel) {
  for (const Isa isa : available_isas()) {
    force_isa(isa);
    int index = 0;
    for (Case& c : cases()) {
      if (++index % 5 != 0) continue;
      for (const FormatSpec& spec : all_specs()) {
        const Matrix* a = c.pack_as(spec, test_pool());
        if (a == nullptr) continue;
        EXPECT_EQ(first_error(c, *run(c, *a, nullptr, test_pool())), "")
            << spec.name() << " at " << to_string(isa) << ": " << c.describe();
      }
    }
  }
  force_isa(std::nullopt);
}

TEST(SpmmDefault, MultipliesWithoutRowsColumnsOrTokens) {
  for (const FormatSpec& spec : all_specs()) {
    std::vector<float> b(8, 1.0F);
    std::vector<float> c(8, 7.0F);
    const std::vector<float> bias(4, 2.0F);
    const auto source = [](std::int64_t m, std::int64_t k) {
      static const float nothing = 0;
      return DenseSource({&nothing, DType::kF32, m, k, k});
    };
    if (!can_pack(spec, 0, 4, DType::kF32)) continue;
    SpmmArgs args;
    args.b = matrix_ref(static_cast<const float*>(b.data()), 2, 4);
    args.c = matrix_ref(c.data(), 2, 0);
    spmm(*pack(source(0, 4), spec), args);
    EXPECT_EQ(c[0], 7.0F) << spec.name();

    args.b = matrix_ref(static_cast<const float*>(b.data()), 2, 0);
    args.c = matrix_ref(c.data(), 2, 4);
    args.bias = bias.data();
    args.activation = Activation::kRelu;
    spmm(*pack(source(4, 0), spec), args);
    EXPECT_EQ(c, std::vector<float>(8, 2.0F)) << spec.name() << ": the sum over nothing is 0";
  }
}

class SpmmChecks : public ::testing::Test {
 protected:
  void expect_error(ErrorKind kind, const std::string& part) {
    try {
      spmm(*a_, args_, test_pool(), kernel_);
      FAIL() << "expected an error with: " << part;
    } catch (const Error& e) {
      EXPECT_EQ(e.kind(), kind) << e.what();
      EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
    }
    EXPECT_EQ(c_, std::vector<float>(c_.size(), 5.0F)) << "c was touched";
  }
  std::vector<float> w_ = std::vector<float>(6 * 4, 1.0F), b_ = std::vector<float>(3 * 4, 1.0F),
                     c_ = std::vector<float>(3 * 6, 5.0F);
  MatrixPtr a_ = pack(DenseSource({w_.data(), DType::kF32, 6, 4, 4}), format::kDense);
  SpmmArgs args_{.b = {b_.data(), DType::kF32, 3, 4, 4}, .c = {c_.data(), DType::kF32, 3, 6, 6}};
  const SpmmKernel* kernel_ = nullptr;
};

TEST_F(SpmmChecks, RefusesAWrongInnerDimension) {
  args_.b = {b_.data(), DType::kF32, 3, 3, 3};
  expect_error(ErrorKind::kInvalidArgument, "b: expected 3x4, got 3x3");
}
TEST_F(SpmmChecks, RefusesAWrongResultShape) {
  args_.c = {c_.data(), DType::kF32, 3, 5, 5};
  expect_error(ErrorKind::kInvalidArgument, "c: expected 3x6, got 3x5");
}
TEST_F(SpmmChecks, RefusesOverlappingRows) {
  args_.c.row_stride = 5;
  expect_error(ErrorKind::kInvalidArgument, "c: expected a row stride of at least 6, got 5");
}
TEST_F(SpmmChecks, RefusesOtherDtypes) {
  args_.b.dtype = DType::kI32;
  expect_error(ErrorKind::kInvalidArgument, "b: expected f32, f16 or bf16, got i32");
}
TEST_F(SpmmChecks, RefusesAResidualOfAnotherDtype) {
  args_.residual = {b_.data(), DType::kBF16, 3, 6, 6};
  expect_error(ErrorKind::kInvalidArgument, "residual: expected c's dtype f32, got bf16");
}
TEST_F(SpmmChecks, RefusesResultsOverActivations) {
  args_.b = {c_.data(), DType::kF32, 3, 4, 6};
  expect_error(ErrorKind::kInvalidArgument, "does not overlap b");
}
TEST_F(SpmmChecks, RefusesNull) {
  args_.b.data = nullptr;
  expect_error(ErrorKind::kInvalidArgument, "b: data is null");
}

}  // namespace
}  // namespace rarefy
