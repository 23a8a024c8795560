// The three products of a block-sparse layer that trains, for the layers of a Llama of 7 billion
// weights: block shapes, densities, dtypes, numbers of tokens. TFLOP/s counts stored values only.
#include <benchmark/benchmark.h>

#include <random>
#include <string>
#include <vector>

#include "rarefy/block_sparse.h"

namespace rarefy {
namespace {

struct Case {
  std::string product;  ///< "forward", "transposed" or "sddmm"
  int block_rows, block_cols;
  std::int64_t rows, cols;
  double density;
  std::int64_t tokens;
  DType dtype;
};

struct Weight {
  std::vector<std::int32_t> offsets, columns;
  BlockColumns by_columns;
  BlockPattern pattern;

  explicit Weight(const Case& c) {
    std::mt19937 random(1);
    std::uniform_real_distribution<double> uniform;
    offsets.push_back(0);
    for (std::int64_t r = 0; r < c.rows / c.block_rows; ++r) {
      for (std::int64_t b = 0; b < c.cols / c.block_cols; ++b)
        if (uniform(random) < c.density) columns.push_back(static_cast<std::int32_t>(b));
      offsets.push_back(static_cast<std::int32_t>(columns.size()));
    }
    pattern = {.rows = c.rows,
               .cols = c.cols,
               .block_rows = c.block_rows,
               .block_cols = c.block_cols,
               .row_offsets = offsets,
               .col_indices = columns};
    by_columns = block_columns(pattern);
    pattern.col_offsets = by_columns.offsets;
    pattern.row_indices = by_columns.row_indices;
    pattern.order = by_columns.order;
  }
  [[nodiscard]] std::int64_t values() const {
    return pattern.blocks() * pattern.block_rows * pattern.block_cols;
  }
};

/// Values near one: time does not depend on them, as long as they are ordinary.
std::vector<std::byte> values_of(std::int64_t count, DType dtype) {
  std::vector<float> values(static_cast<std::size_t>(count));
  std::uint32_t state = 1;
  for (float& v : values) {
    state = state * 1664525 + 1013904223;
    v = 0.5F + static_cast<float>(state >> 8) * 0x1p-25F;
  }
  std::vector<std::byte> bytes(values.size() * size_of(dtype));
  convert_elements(values.data(), DType::kF32, bytes.data(), dtype, values.size());
  return bytes;
}

void run_case(benchmark::State& state, const Case& c) {
  const Weight weight(c);
  const BlockPattern& p = weight.pattern;
  auto values = values_of(weight.values(), c.dtype);
  auto x = values_of(c.tokens * c.cols, c.dtype);
  auto y = values_of(c.tokens * c.rows, c.dtype);
  const MatrixRef inputs{x.data(), c.dtype, c.tokens, c.cols, c.cols};
  const MatrixRef outputs{y.data(), c.dtype, c.tokens, c.rows, c.rows};
  const BlockValues blocks{values.data(), c.dtype, weight.values()};
  const auto run = [&] {
    if (c.product == "sddmm") return block_sddmm(p, outputs, inputs, blocks);
    SpmmArgs args;
    args.b = c.product == "forward" ? inputs : outputs;
    args.c = c.product == "forward" ? outputs : inputs;
    c.product == "forward" ? block_linear(p, blocks, args)
                           : block_linear_transposed(p, blocks, args);
  };
  run();
  for (auto _ : state) run();
  state.counters["TFLOP/s"] =
      benchmark::Counter(2e-12 * static_cast<double>(weight.values() * c.tokens),
                         benchmark::Counter::kIsIterationInvariantRate);
}

const int registered = [] {
  struct Blocks {
    int rows, cols;
  };
  for (const DType dtype : {DType::kBF16, DType::kF32}) {
    for (const std::int64_t tokens : {128, 512, 2048}) {
      for (const bool down : {false, true}) {
        for (const Blocks& b : {Blocks{8, 8}, {16, 16}, {16, 32}, {32, 32}, {64, 64}, {128, 128}}) {
          for (const double density : {0.5, 0.25, 0.1}) {
            for (const char* product : {"forward", "transposed", "sddmm"}) {
              const Case c{product, b.rows, b.cols, down ? 4096 : 11008, down ? 11008 : 4096,
                           density, tokens, dtype};
              const std::string name =
                  std::string("block_sparse/") + product + "/" + to_string(dtype) + "/" +
                  std::to_string(c.rows) + "x" + std::to_string(c.cols) + "/" +
                  std::to_string(b.rows) + "x" + std::to_string(b.cols) + "/" +
                  std::to_string(static_cast<int>(100 * density)) + "%/t" + std::to_string(tokens);
              benchmark::RegisterBenchmark(name.c_str(), run_case, c)
                  ->UseRealTime()
                  ->Unit(benchmark::kMillisecond);
            }
          }
        }
      }
    }
  }
  return 0;
}();

}  // namespace
}  // namespace rarefy
