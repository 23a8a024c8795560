// Block-sparse products and their gradients against the references in double: block shapes, dtypes,
// numbers of tokens, epilogues, instruction sets, threads, and arguments that do not fit.
#include "rarefy/block_sparse.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "rarefy/cpu.h"

namespace rarefy {
namespace {

/// Cases of each block shape. Races do not hide in them: fewer under ThreadSanitizer, twenty times
/// slower.
#ifdef __SANITIZE_THREAD__
constexpr int kTurns = 1;
#else
constexpr int kTurns = 2;
#endif

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Shape {
  int block_rows, block_cols;
  std::int64_t rows, cols;  ///< Of blocks.
  double density;
};

/// Which blocks are stored: at random, with the first row and the last column of blocks empty where
/// there is more than one, and the second row full.
class Pattern {
 public:
  explicit Pattern(const Shape& s, std::uint32_t seed = 7) : shape_(s) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<double> uniform;
    offsets_.push_back(0);
    for (std::int64_t r = 0; r < s.rows; ++r) {
      for (std::int64_t c = 0; c < s.cols; ++c) {
        const bool empty = (r == 0 && s.rows > 1) || (c == s.cols - 1 && s.cols > 1);
        if (!empty && (uniform(random) < s.density || r == 1))
          columns_.push_back(static_cast<std::int32_t>(c));
      }
      offsets_.push_back(static_cast<std::int32_t>(columns_.size()));
    }
    by_columns_ = block_columns(get());
  }
  [[nodiscard]] BlockPattern get() const {
    return {.rows = shape_.rows * shape_.block_rows,
            .cols = shape_.cols * shape_.block_cols,
            .block_rows = shape_.block_rows,
            .block_cols = shape_.block_cols,
            .row_offsets = offsets_,
            .col_indices = columns_,
            .col_offsets = by_columns_.offsets,
            .row_indices = by_columns_.row_indices,
            .order = by_columns_.order};
  }
  [[nodiscard]] std::int64_t values() const {
    return std::ssize(columns_) * shape_.block_rows * shape_.block_cols;
  }

 private:
  Shape shape_;
  std::vector<std::int32_t> offsets_, columns_;
  BlockColumns by_columns_;
};

/// Normal values in any dtype; rows have a gap of NaN behind them.
class Operand {
 public:
  Operand(std::int64_t rows, std::int64_t cols, DType dtype, std::uint32_t seed,
          std::int64_t gap = 3)
      : rows_(rows), cols_(cols), stride_(cols + gap), dtype_(dtype) {
    std::vector<float> values(static_cast<std::size_t>(rows * stride_), kNaN);
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < cols; ++c)
        values[static_cast<std::size_t>(r * stride_ + c)] = normal(random);
    bytes_.resize(values.size() * size_of(dtype));
    convert_elements(values.data(), DType::kF32, bytes_.data(), dtype, values.size());
  }
  [[nodiscard]] MatrixRef ref() { return {bytes_.data(), dtype_, rows_, cols_, stride_}; }
  [[nodiscard]] BlockValues values() {
    return {bytes_.data(), dtype_, static_cast<std::int64_t>(bytes_.size() / size_of(dtype_))};
  }
  [[nodiscard]] std::vector<float> floats() const {
    std::vector<float> out(bytes_.size() / size_of(dtype_));
    convert_elements(bytes_.data(), dtype_, out.data(), DType::kF32, out.size());
    return out;
  }
  void set(std::int64_t r, std::int64_t c, float x) {
    convert_elements(&x, DType::kF32,
                     bytes_.data() + static_cast<std::size_t>(r * stride_ + c) * size_of(dtype_),
                     dtype_, 1);
  }
  [[nodiscard]] std::int64_t stride() const { return stride_; }
  [[nodiscard]] const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::int64_t rows_, cols_, stride_;
  DType dtype_;
  std::vector<std::byte> bytes_;
};

/// Half a unit in the last place, relative.
double rounding(DType dtype) {
  return dtype == DType::kF32 ? 0x1p-24 : dtype == DType::kF16 ? 0x1p-11 : 0x1p-8;
}

/// Sums of absolute products, which rounding errors are proportional to (Higham 2002, §3.1).
std::vector<float> magnitudes(std::vector<float> values) {
  for (float& v : values) v = std::abs(v);
  return values;
}

struct Product {
  const char* name;
  void (*run)(const BlockPattern&, ConstBlockValues, const SpmmArgs&, ThreadPool&);
  void (*reference)(const BlockPattern&, ConstBlockValues, const SpmmArgs&);
  bool transposed;
};
const Product kProducts[] = {
    {"block_linear", block_linear, block_linear_reference, false},
    {"block_linear_transposed", block_linear_transposed, block_linear_transposed_reference, true}};

struct Call {
  std::int64_t tokens = 1;
  DType values = DType::kF32, b = DType::kF32, c = DType::kF32;
  bool bias = false, residual = false;
  Activation activation = Activation::kNone;
};

std::string describe(const Product& product, const Shape& s, const Call& call) {
  return std::string(product.name) + " blocks " + std::to_string(s.block_rows) + "x" +
         std::to_string(s.block_cols) + " of " + std::to_string(s.rows) + "x" +
         std::to_string(s.cols) + ", T=" + std::to_string(call.tokens) + ", values " +
         to_string(call.values) + ", b " + to_string(call.b) + ", c " + to_string(call.c);
}

void expect_product(const Product& product, const Shape& shape, const Call& call) {
  const Pattern pattern(shape);
  const BlockPattern p = pattern.get();
  const std::int64_t inputs = product.transposed ? p.rows : p.cols;
  const std::int64_t outputs = product.transposed ? p.cols : p.rows;
  Operand values(1, pattern.values(), call.values, 1, 0);
  Operand b(call.tokens, inputs, call.b, 2);
  Operand c(call.tokens, outputs, call.c, 3);
  Operand bias(1, outputs, DType::kF32, 4, 0);
  Operand residual(call.tokens, outputs, call.c, 5, 1);
  const std::vector<float> biases = bias.floats();
  SpmmArgs args;
  args.b = b.ref();
  args.bias = call.bias ? biases.data() : nullptr;
  args.activation = call.activation;
  if (call.residual) args.residual = residual.ref();

  SpmmArgs wanted = args;
  std::vector<double> want(static_cast<std::size_t>(call.tokens * outputs));
  wanted.c = {want.data(), DType::kF64, call.tokens, outputs, outputs};
  product.reference(p, values.values(), wanted);
  // The same with absolute values, without an epilogue: what errors are measured by.
  const std::vector<float> magnitude_values = magnitudes(values.floats());
  const std::vector<float> magnitude_b = magnitudes(b.floats());
  std::vector<double> scale(want.size());
  SpmmArgs sizes;
  sizes.b = {magnitude_b.data(), DType::kF32, call.tokens, inputs, b.stride()};
  sizes.c = {scale.data(), DType::kF64, call.tokens, outputs, outputs};
  product.reference(p, {magnitude_values.data(), DType::kF32, std::ssize(magnitude_values)}, sizes);

  args.c = c.ref();
  ASSERT_NO_THROW(product.run(p, values.values(), args, default_pool()));
  const std::vector<float> got = c.floats();
  const double gamma = static_cast<double>(inputs + 2) * 0x1p-24 * 1.01;
  for (std::int64_t t = 0; t < call.tokens; ++t) {
    for (std::int64_t o = 0; o < outputs; ++o) {
      const auto at = static_cast<std::size_t>(t * outputs + o);
      // Activations pass on errors at most 1.2 times as large (gelu), and have their own.
      const double bound = 1.2 * gamma * (scale[at] + 8) +
                           1.01 * rounding(call.c) * (std::abs(want[at]) + gamma * scale[at]) +
                           0x1p-24;
      const float x = got[static_cast<std::size_t>(t * c.stride() + o)];
      ASSERT_LE(std::abs(x - want[at]), bound) << describe(product, shape, call) << " at " << t
                                               << ", " << o << ": " << x << ", not " << want[at];
    }
    for (std::int64_t o = outputs; o < c.stride(); ++o)
      ASSERT_TRUE(std::isnan(got[static_cast<std::size_t>(t * c.stride() + o)]))
          << describe(product, shape, call) << ": wrote behind row " << t;
  }
}

void expect_sddmm(const Shape& shape, std::int64_t steps, DType operands, DType out_dtype) {
  const Pattern pattern(shape);
  const BlockPattern p = pattern.get();
  Operand left(steps, p.rows, operands, 1);
  Operand right(steps, p.cols, operands, 2);
  Operand out(1, pattern.values(), out_dtype, 3, 0);
  ASSERT_NO_THROW(block_sddmm(p, left.ref(), right.ref(), out.values()));
  std::vector<double> want(static_cast<std::size_t>(pattern.values()));
  block_sddmm_reference(p, left.ref(), right.ref(), want);
  const std::vector<float> left_sizes = magnitudes(left.floats());
  const std::vector<float> right_sizes = magnitudes(right.floats());
  std::vector<double> scale(want.size());
  block_sddmm_reference(p, {left_sizes.data(), DType::kF32, steps, p.rows, left.stride()},
                        {right_sizes.data(), DType::kF32, steps, p.cols, right.stride()}, scale);
  const std::vector<float> got = out.floats();
  const double gamma = static_cast<double>(steps + 1) * 0x1p-24 * 1.01;
  for (std::size_t i = 0; i < want.size(); ++i)
    ASSERT_LE(std::abs(got[i] - want[i]),
              gamma * scale[i] + 1.01 * rounding(out_dtype) * std::abs(want[i]) + 0x1p-24)
        << "blocks " << shape.block_rows << "x" << shape.block_cols << ", T=" << steps << ", "
        << to_string(operands) << " to " << to_string(out_dtype) << " at " << i;
}

class BlockSparse : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    force_isa(std::nullopt);
    if (GetParam() > active_isa()) GTEST_SKIP() << "this CPU has no " << to_string(GetParam());
    force_isa(GetParam());
  }
  void TearDown() override { force_isa(std::nullopt); }
};

const Shape kShapes[] = {{1, 1, 5, 7, 0.5},    {3, 5, 4, 6, 0.5},   {8, 8, 9, 7, 0.4},
                         {16, 16, 5, 6, 0.4},  {32, 32, 3, 4, 0.4}, {16, 32, 4, 3, 0.5},
                         {32, 16, 3, 5, 0.5},  {64, 64, 2, 3, 0.5}, {64, 128, 2, 2, 0.5},
                         {128, 64, 2, 2, 0.5}, {48, 80, 3, 2, 0.6}, {24, 40, 3, 4, 0.5},
                         {8, 16, 5, 6, 0.4},   {16, 8, 3, 9, 0.4},  {8, 32, 6, 3, 0.4},
                         {128, 128, 1, 1, 1},  {17, 33, 2, 3, 0.5}, {16, 16, 3, 150, 0.3}};
constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

TEST_P(BlockSparse, ProductsMatchTheReference) {
  std::size_t turn = 0;
  for (const Product& product : kProducts) {
    for (const Shape& shape : kShapes) {
      for (int i = 0; i < kTurns; ++i) {
        const Call alike{.tokens = std::array{1, 16, 33, 130, 49}[turn % 5],
                         .values = kDTypes[turn % 3],
                         .b = kDTypes[turn % 3],
                         .c = kDTypes[turn % 3]};
        ASSERT_NO_FATAL_FAILURE(expect_product(product, shape, alike));
        ++turn;
      }
      ASSERT_NO_FATAL_FAILURE(expect_product(
          product, shape,
          {.tokens = std::array{2, 17, 50}[turn % 3],
           .values = kDTypes[turn / 3 % 3],
           .b = kDTypes[turn % 3],
           .c = kDTypes[turn / 2 % 3],
           .bias = turn % 2 == 0,
           .residual = turn % 3 != 0,
           .activation = std::array{Activation::kSilu, Activation::kGelu, Activation::kRelu,
                                    Activation::kNone}[turn % 4]}));
    }
  }
}

/// bf16 throughout is what AMX takes, in tiles: every block shape, ragged numbers of tokens.
TEST_P(BlockSparse, ProductsMatchTheReferenceInBf16) {
  std::size_t turn = 0;
  for (const Product& product : kProducts) {
    for (const Shape& shape : kShapes) {
      for (int i = 0; i < kTurns; ++i) {
        ++turn;
        ASSERT_NO_FATAL_FAILURE(expect_product(product, shape,
                                               {.tokens = std::array{5, 32, 70}[turn % 3],
                                                .values = DType::kBF16,
                                                .b = DType::kBF16,
                                                .c = turn % 4 == 0 ? DType::kF32 : DType::kBF16,
                                                .bias = turn % 3 == 0,
                                                .residual = turn % 5 == 0}));
      }
    }
  }
}

TEST_P(BlockSparse, SampledProductsMatchTheReference) {
  std::size_t turn = 0;
  for (const Shape& shape : kShapes) {
    for (int i = 0; i < kTurns; ++i) {
      const std::int64_t steps = std::array{1, 31, 32, 75, 150}[turn % 5];
      ASSERT_NO_FATAL_FAILURE(expect_sddmm(shape, steps, kDTypes[turn % 3], kDTypes[turn / 3 % 3]));
      ASSERT_NO_FATAL_FAILURE(expect_sddmm(shape, steps, DType::kBF16, kDTypes[turn++ % 3]));
    }
  }
}

/// More steps than are packed at once.
TEST_P(BlockSparse, SampledProductsAddUpRangesOfSteps) {
  for (const DType dtype : {DType::kF32, DType::kBF16})
    for (const int block : {8, 16, 32})
      for (const DType out : {DType::kF32, DType::kBF16})
        ASSERT_NO_FATAL_FAILURE(expect_sddmm({block, block, 3, 2, 0.5}, 1100, dtype, out));
}

/// Inputs that fill more than one range of what L2 holds.
TEST_P(BlockSparse, ProductsAddUpRangesOfInputs) {
  for (const Product& product : kProducts) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const Shape wide =
          product.transposed ? Shape{32, 16, 260, 2, 0.3} : Shape{16, 32, 2, 260, 0.3};
      ASSERT_NO_FATAL_FAILURE(expect_product(
          product, wide, {.tokens = 35, .values = dtype, .b = dtype, .c = dtype, .bias = true}));
    }
  }
}

TEST_P(BlockSparse, GivesTheSameBitsForAnyNumberOfThreadsAndTokens) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const Shape& shape : {Shape{32, 32, 7, 9, 0.4}, Shape{8, 8, 20, 20, 0.3}}) {
      const Pattern pattern(shape);
      const BlockPattern p = pattern.get();
      constexpr std::int64_t kTokens = 150;
      Operand values(1, pattern.values(), dtype, 1, 0);
      Operand x(kTokens, p.cols, dtype, 2);
      Operand g(kTokens, p.rows, dtype, 3);
      const auto run = [&](ThreadPool& pool, std::int64_t tokens) {
        std::vector<std::vector<std::byte>> results;
        for (const Product& product : kProducts) {
          Operand c(kTokens, product.transposed ? p.cols : p.rows, DType::kF32, 4, 0);
          SpmmArgs args;
          args.b = product.transposed ? g.ref() : x.ref();
          args.c = c.ref();
          args.b.rows = args.c.rows = tokens;
          product.run(p, values.values(), args, pool);
          results.push_back(c.bytes());
          results.back().resize(static_cast<std::size_t>(tokens * args.c.cols) * sizeof(float));
        }
        Operand out(1, pattern.values(), dtype, 5, 0);
        if (tokens == kTokens) block_sddmm(p, g.ref(), x.ref(), out.values(), pool);
        results.push_back(out.bytes());
        return results;
      };
      ThreadPool one(1);
      const auto want = run(one, kTokens);
      for (const int threads : {2, 3, 5}) {
        ThreadPool pool(threads);
        EXPECT_EQ(run(pool, kTokens), want) << to_string(dtype) << ", " << threads << " threads";
      }
      for (const std::int64_t tokens : {1, 20, 77}) {
        const auto got = run(one, tokens);
        for (std::size_t i = 0; i < 2; ++i)
          EXPECT_EQ(std::memcmp(got[i].data(), want[i].data(), got[i].size()), 0)
              << kProducts[i].name << " " << to_string(dtype) << ", " << tokens << " tokens";
      }
    }
  }
}

/// A token with NaN shows in its own row only, and a gradient of NaN in its own row of values.
TEST_P(BlockSparse, NotFiniteValuesStayInTheirRows) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (const int block : {8, 16, 32}) {
      const Pattern pattern({block, block, 4, 4, 0.6});
      const BlockPattern p = pattern.get();
      Operand values(1, pattern.values(), dtype, 1, 0);
      Operand x(40, p.cols, dtype, 2);
      x.set(7, 0, kNaN);
      x.set(8, 0, std::numeric_limits<float>::infinity());
      Operand c(40, p.rows, DType::kF32, 3, 0);
      SpmmArgs args;
      args.b = x.ref();
      args.c = c.ref();
      block_linear(p, values.values(), args);
      const std::vector<float> got = c.floats();
      int not_finite = 0;
      for (std::int64_t t = 0; t < 40; ++t) {
        for (std::int64_t o = 0; o < p.rows; ++o) {
          const bool finite = std::isfinite(got[static_cast<std::size_t>(t * p.rows + o)]);
          not_finite += finite ? 0 : 1;
          ASSERT_TRUE(finite || t == 7 || t == 8) << t << ", " << o;
        }
      }
      EXPECT_GE(not_finite, 2 * block);  // The second row of blocks is full.
      Operand g(40, p.rows, dtype, 4);
      g.set(3, block, kNaN);
      Operand out(1, pattern.values(), DType::kF32, 5, 0);
      x = Operand(40, p.cols, dtype, 2);
      block_sddmm(p, g.ref(), x.ref(), out.values());
      const std::vector<float> gradient = out.floats();
      const std::int64_t first = std::int64_t{p.row_offsets[1]} * block * block;
      for (std::int64_t i = 0; i < std::ssize(gradient); ++i) {
        const std::int64_t in_row = i - first;
        const bool expected = in_row >= 0 && i < std::int64_t{p.row_offsets[2]} * block * block &&
                              in_row % (block * block) < block;
        ASSERT_EQ(std::isnan(gradient[static_cast<std::size_t>(i)]), expected) << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Levels, BlockSparse,
                         ::testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAmx),
                         [](const auto& level) { return std::string(to_string(level.param)); });

TEST(BlockSparseEdges, NothingStoredNothingGiven) {
  // No blocks at all: bias, activation and residual still apply.
  const std::vector<std::int32_t> row_offsets(3);
  const std::vector<std::int32_t> col_offsets(4);
  const BlockPattern empty{.rows = 64,
                           .cols = 96,
                           .block_rows = 32,
                           .block_cols = 32,
                           .row_offsets = row_offsets,
                           .col_offsets = col_offsets};
  ASSERT_NO_THROW(validate(empty));
  Operand b(5, 96, DType::kBF16, 1);
  Operand c(5, 64, DType::kF32, 2, 0);
  const std::vector<float> bias(64, -2.0F);
  SpmmArgs args;
  args.b = b.ref();
  args.c = c.ref();
  args.bias = bias.data();
  block_linear(empty, {nullptr, DType::kBF16, 0}, args);
  for (const float x : c.floats()) ASSERT_EQ(x, -2.0F);
  args.bias = nullptr;
  args.b = c.ref();
  args.c = b.ref();
  block_linear_transposed(empty, {nullptr, DType::kBF16, 0}, args);
  for (std::int64_t t = 0; t < 5; ++t)
    for (std::int64_t k = 0; k < 96; ++k)
      ASSERT_EQ(b.floats()[static_cast<std::size_t>(t * b.stride() + k)], 0.0F);

  // No inputs at all.
  BlockPattern no_inputs = empty;
  no_inputs.cols = 0;
  no_inputs.col_offsets = std::span(col_offsets).first(1);
  args.b = {nullptr, DType::kF32, 5, 0, 0};
  args.c = c.ref();
  args.bias = bias.data();
  block_linear(no_inputs, {nullptr, DType::kF32, 0}, args);
  for (const float x : c.floats()) ASSERT_EQ(x, -2.0F);
  block_sddmm(no_inputs, c.ref(), args.b, {nullptr, DType::kF32, 0});

  // No tokens: nothing to do, and gradients of zero.
  const Pattern pattern({16, 16, 3, 3, 1});
  Operand values(1, pattern.values(), DType::kF32, 3, 0);
  args = {};
  args.b = {nullptr, DType::kF32, 0, 48, 48};
  args.c = {nullptr, DType::kF32, 0, 48, 48};
  block_linear(pattern.get(), values.values(), args);
  block_linear_transposed(pattern.get(), values.values(), args);
  block_sddmm(pattern.get(), args.b, args.b, values.values());
  for (const float x : values.floats()) ASSERT_EQ(x, 0.0F);
}

/// L = Σ g ⊙ (X·Wᵀ): the two gradients against central differences (L is linear in each).
TEST(BlockSparseEdges, GradientsAreThoseOfTheForward) {
  const Pattern pattern({4, 8, 3, 3, 0.6});
  const BlockPattern p = pattern.get();
  Operand values(1, pattern.values(), DType::kF32, 1, 0);
  Operand x(6, p.cols, DType::kF32, 2, 0);
  Operand g(6, p.rows, DType::kF32, 3, 0);
  const std::vector<float> gradient = g.floats();
  const auto loss = [&] {
    Operand y(6, p.rows, DType::kF32, 4, 0);
    SpmmArgs args;
    args.b = x.ref();
    args.c = y.ref();
    block_linear(p, values.values(), args);
    double total = 0;
    const std::vector<float> out = y.floats();
    for (std::size_t i = 0; i < out.size(); ++i) total += double{out[i]} * gradient[i];
    return total;
  };
  Operand dw(1, pattern.values(), DType::kF32, 5, 0);
  block_sddmm(p, g.ref(), x.ref(), dw.values());
  Operand dx(6, p.cols, DType::kF32, 6, 0);
  SpmmArgs args;
  args.b = g.ref();
  args.c = dx.ref();
  block_linear_transposed(p, values.values(), args);
  const auto check = [&](Operand& variable, Operand& got, std::int64_t count) {
    const std::vector<float> start = variable.floats();
    for (std::int64_t i = 0; i < count; i += 3) {
      const float kept = start[static_cast<std::size_t>(i)];
      variable.set(0, i, kept + 0.5F);
      const double above = loss();
      variable.set(0, i, kept - 0.5F);
      const double below = loss();
      variable.set(0, i, kept);
      EXPECT_NEAR(got.floats()[static_cast<std::size_t>(i)], above - below, 1e-4) << i;
    }
  };
  check(values, dw, pattern.values());
  check(x, dx, 6 * p.cols);
}

/// The message of the error that `call` throws; empty when it throws none.
template <class Call>
std::string error_of(Call&& call) {
  try {
    call();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::kInvalidArgument);
    return e.what();
  }
  return "";
}

TEST(BlockSparseEdges, RefusesPatternsThatLeadAstray) {
  const Pattern pattern({16, 16, 4, 4, 0.7});
  const BlockPattern good = pattern.get();
  ASSERT_NO_THROW(validate(good));
  Operand values(1, pattern.values(), DType::kF32, 1, 0);
  Operand x(3, 64, DType::kF32, 2);
  Operand c(3, 64, DType::kF32, 3);
  SpmmArgs args;
  args.b = x.ref();
  args.c = c.ref();
  const auto forward = [&](const BlockPattern& p) {
    return error_of([&] { block_linear(p, values.values(), args); });
  };
  const auto transposed = [&](const BlockPattern& p) {
    return error_of([&] { block_linear_transposed(p, values.values(), args); });
  };
  const auto sampled = [&](const BlockPattern& p) {
    return error_of([&] { block_sddmm(p, x.ref(), x.ref(), values.values()); });
  };
  EXPECT_EQ(forward(good), "");
  EXPECT_EQ(transposed(good), "");
  EXPECT_EQ(sampled(good), "");

  using Vector = std::vector<std::int32_t>;
  const auto with = [](std::span<const std::int32_t> from, std::size_t at, std::int32_t value) {
    Vector v(from.begin(), from.end());
    v[at] = value;
    return v;
  };
  const auto by_rows = [&](const Vector& offsets, const Vector& columns) {
    BlockPattern p = good;
    p.row_offsets = offsets;
    p.col_indices = columns;
    const std::string message = forward(p);
    EXPECT_EQ(message.empty(), sampled(p).empty());
    return message;
  };
  const Vector offsets(good.row_offsets.begin(), good.row_offsets.end());
  const Vector columns(good.col_indices.begin(), good.col_indices.end());
  EXPECT_EQ(by_rows(offsets, columns), "");
  EXPECT_NE(by_rows(offsets, with(columns, 1, 4)).find("col_indices: expected 0 to 3, got 4 at 1"),
            std::string::npos);
  EXPECT_NE(by_rows(offsets, with(columns, 0, -1)), "");
  EXPECT_NE(by_rows(offsets, with(columns, 1, columns[0])).find("ascending"), std::string::npos);
  EXPECT_NE(by_rows(with(offsets, 0, 1), columns), "");
  EXPECT_NE(by_rows(with(offsets, 4, 1000), columns), "");
  EXPECT_NE(by_rows(with(offsets, 2, -5), columns), "");
  EXPECT_NE(by_rows(with(offsets, 2, 1 << 30), columns), "");
  EXPECT_NE(by_rows(Vector(offsets.begin(), offsets.end() - 1), columns), "");
  EXPECT_NE(by_rows({}, columns), "");

  const auto by_columns = [&](const Vector& rows, const Vector& order) {
    BlockPattern p = good;
    p.row_indices = rows;
    p.order = order;
    return transposed(p);
  };
  const Vector rows(good.row_indices.begin(), good.row_indices.end());
  const Vector order(good.order.begin(), good.order.end());
  EXPECT_EQ(by_columns(rows, order), "");
  EXPECT_NE(by_columns(with(rows, 0, 4), order), "");
  EXPECT_NE(by_columns(with(rows, 0, -2), order), "");
  EXPECT_NE(by_columns(rows, with(order, 3, static_cast<std::int32_t>(order.size()))), "");
  EXPECT_NE(by_columns(rows, with(order, 3, -1)), "");
  EXPECT_NE(by_columns(rows, Vector(order.begin(), order.end() - 1)), "");
  BlockPattern other = good;
  const Vector swapped = with(with(order, 0, order[1]), 1, order[0]);
  other.order = swapped;
  EXPECT_EQ(transposed(other), "");  // Other blocks, but none outside of memory.
  EXPECT_NE(error_of([&] { validate(other); }).find("order"), std::string::npos);

  for (const int block : {0, -16, 15, 1 << 20}) {
    BlockPattern p = good;
    p.block_rows = block;
    EXPECT_NE(forward(p), "") << block;
    EXPECT_NE(transposed(p), "") << block;
  }
  BlockPattern ragged = good;
  ragged.cols = 63;
  EXPECT_NE(forward(ragged).find("multiples of the 16x16 blocks, got 64x63"), std::string::npos);
}

TEST(BlockSparseEdges, RefusesOperandsThatDoNotFit) {
  const Pattern pattern({16, 16, 4, 3, 0.7});
  const BlockPattern p = pattern.get();
  Operand values(1, pattern.values(), DType::kF32, 1, 0);
  Operand x(3, 48, DType::kF32, 2);
  Operand c(3, 64, DType::kF32, 3);
  SpmmArgs good;
  good.b = x.ref();
  good.c = c.ref();
  const auto refused = [&](const SpmmArgs& args) {
    return !error_of([&] { block_linear(p, values.values(), args); }).empty();
  };
  EXPECT_FALSE(refused(good));
  const auto changed = [&](auto&& change) {
    SpmmArgs args = good;
    change(args);
    return refused(args);
  };
  EXPECT_TRUE(changed([](SpmmArgs& a) { a.b.cols = 47; }));
  EXPECT_TRUE(changed([](SpmmArgs& a) { a.b.rows = 2; }));
  EXPECT_TRUE(changed([](SpmmArgs& a) { a.b.row_stride = 40; }));
  EXPECT_TRUE(changed([](SpmmArgs& a) { a.b.data = nullptr; }));
  EXPECT_TRUE(changed([](SpmmArgs& a) { a.b.dtype = DType::kI32; }));
  EXPECT_TRUE(changed([](SpmmArgs& a) { a.c.cols = 48; }));
  EXPECT_TRUE(changed([](SpmmArgs& a) { a.c.dtype = DType::kF64; }));
  EXPECT_TRUE(changed([](SpmmArgs& a) { a.c.data = const_cast<void*>(a.b.data); }));
  EXPECT_TRUE(changed([](SpmmArgs& a) { a.layout = Layout::kFeatureMajor; }));
  EXPECT_TRUE(changed([&](SpmmArgs& a) { a.residual = x.ref(); }));
  BlockValues few = values.values();
  few.count -= 1;
  EXPECT_NE(error_of([&] { block_linear(p, few, good); }), "");
  EXPECT_NE(error_of([&] { block_sddmm(p, c.ref(), x.ref(), few); }), "");
  EXPECT_EQ(error_of([&] { block_sddmm(p, c.ref(), x.ref(), values.values()); }), "");
  EXPECT_NE(error_of([&] { block_sddmm(p, x.ref(), x.ref(), values.values()); }), "");
  EXPECT_NE(error_of([&] { block_sddmm(p, c.ref(), c.ref(), values.values()); }), "");
  Operand halves(3, 48, DType::kF16, 2);
  EXPECT_NE(error_of([&] { block_sddmm(p, c.ref(), halves.ref(), values.values()); }), "");
}

}  // namespace
}  // namespace rarefy
