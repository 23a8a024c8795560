// The kernel that shares nonzeros evenly, on the emulator: two tokens, segments of four vectors of
// delta columns, blocks of so few threads that rows and vectors take several rounds.
#include <gtest/gtest.h>

#include <vector>

#include "emulator/prelude.h"

#define __shared__
#define __align__(bytes) __attribute__((aligned(bytes)))
#define VALUE f16
#define INDEX u16
#define DELTA 1
#define B_TYPE f16
#define STAGED_TYPE f16
#define C_TYPE float
#define N_TILE 2
#define GROUP 4
#define VEC 8
#define UNROLL 2
#define THREADS 64
#define BLOCKS 1
#define SWIZZLED 0
#define TOKEN_MAJOR 1
#define ACTIVATION 1
#define HAS_BIAS 1
#define HAS_RESIDUAL 1
#include "ops/spmm/cuda/composed/even.cu"
#undef THREADS

alignas(16) char shared[1 << 16];  // Of the block that runs.

#include "family_on_device.h"
#include "ops/spmm/cuda/composed/even_pack.h"

namespace rarefy::gpu {
namespace {

void expect_product(const TestWeight& weight, int blocks, std::int64_t tokens) {
  const auto& csr = dynamic_cast<const CsrMatrix&>(*weight.csr);
  const std::int64_t rows = csr.rows(), cols = csr.cols();
  const EvenArrays arrays =
      pack_even(csr, {.format = {.vec = 8, .index_bits = 6}, .group = 4, .blocks = blocks});
  std::vector<std::uint16_t> b(static_cast<std::size_t>(cols * tokens));
  for (std::size_t i = 0; i < b.size(); ++i)
    b[i] = emulator::to_f16(static_cast<float>(i * 37 % 19) - 9);
  std::vector<float> bias(static_cast<std::size_t>(rows));
  for (std::size_t i = 0; i < bias.size(); ++i) bias[i] = static_cast<float>(i % 5);
  const std::vector<float> residual(static_cast<std::size_t>(rows * tokens), 0.25F);
  std::vector<float> c(residual.size(), NAN);

  const std::int64_t places = (cols + 7) / 8 * 8;
  ASSERT_LE(places * 4 + arrays.vectors / 4 * 8 + arrays.items * 12, std::ssize(::shared));
  std::fill(std::begin(::shared), std::end(::shared), '\xFF');
  emulator::Machine::get().run({.grid = static_cast<unsigned>(blocks), .threads = 64}, [&] {
    spmm_even(arrays.begin.data(), arrays.target.data(),
              reinterpret_cast<const ::Columns*>(arrays.columns.data()),
              reinterpret_cast<const ::Pack<::f16, 8>*>(arrays.values.data()),
              reinterpret_cast<const ::f16*>(b.data()), cols, c.data(), rows, bias.data(),
              residual.data(), rows, static_cast<u32>(arrays.vectors),
              static_cast<int>(arrays.items), static_cast<int>(cols), static_cast<int>(tokens));
  });

  std::vector<float> dense(static_cast<std::size_t>(rows * cols));
  std::vector<std::uint16_t> bits(dense.size());
  csr.read_rows(0, rows, bits.data());
  for (std::size_t i = 0; i < bits.size(); ++i) dense[i] = emulator::from_f16(bits[i]);
  for (std::int64_t token = 0; token < tokens; ++token) {
    for (std::int64_t row = 0; row < rows; ++row) {
      double sum = bias[static_cast<std::size_t>(row)], size = std::abs(sum);
      for (std::int64_t i = 0; i < cols; ++i) {
        const double product =
            static_cast<double>(dense[static_cast<std::size_t>(row * cols + i)]) *
            emulator::from_f16(b[static_cast<std::size_t>(token * cols + i)]);
        sum += product;
        size += std::abs(product);
      }
      ASSERT_NEAR(c[static_cast<std::size_t>(token * rows + row)], std::max(sum, 0.0) + 0.25,
                  1e-6 * size)
          << "row " << row << ", token " << token;
    }
  }
}

TEST(EvenText, MultipliesEveryPattern) {
  for (const Pattern pattern : kEveryPattern) {
    SCOPED_TRACE(testing::to_string(pattern));
    const TestWeight weight({70, 203, pattern, 0.1}, DType::kF16);
    for (const std::int64_t tokens : {1, 2}) expect_product(weight, 3, tokens);
  }
}

TEST(EvenText, BlocksMayHaveMoreRowsThanThreads) {
  const TestWeight weight({400, 90, Pattern::kRowSkew, 0.2}, DType::kF16);
  expect_product(weight, 2, 2);
}

}  // namespace
}  // namespace rarefy::gpu
