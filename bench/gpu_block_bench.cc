// Block-sparse products on a GPU beside the dense product of the same shape: useful TFLOP/s of the
// kernels with the best estimates, forward, transposed and sampled. Every answer is checked first,
// at some places, in double.
//
//   rarefy-gpu-block-bench --blocks 128,64,32,16 --density 0.25 --n 4096 --products forward --top 6
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <random>

#include "cli/version.h"
#include "cuda/cublas.h"
#include "cuda/driver.h"
#include "cuda/timing.h"
#include "ops/block_sparse/cuda/block_operators.h"
#include "rarefy/threads.h"

namespace rarefy::bench {
namespace {

using gpu::BlockConfig;
using gpu::BlockProblem;
using gpu::BlockProduct;

struct Options {
  std::vector<std::string> shapes{"4096x14336"};
  std::vector<std::string> blocks{"128", "64", "32", "16"};
  std::vector<double> densities{0.25};
  std::vector<std::int64_t> ns{4096};
  std::vector<std::string> products{"forward", "transposed", "samples"};
  std::string dtype = "bf16", only;
  int top = 5;
  double seconds = 90;  ///< Stops beginning new kernels after this long.
};

double now() {
  timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

/// Numbers around 0, on the device and here.
struct Numbers {
  std::vector<std::uint16_t> host;
  cuda::DeviceBuffer device;

  Numbers(std::int64_t count, DType dtype, std::uint32_t seed, const cuda::Stream& stream)
      : host(static_cast<std::size_t>(count)) {
    constexpr int kDistinct = 4096;
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> some(kDistinct);
    for (float& x : some) x = normal(random);
    std::vector<std::uint16_t> bits(kDistinct);
    convert_elements(some.data(), DType::kF32, bits.data(), dtype, kDistinct);
    std::uint64_t state = seed * 0x9E3779B97F4A7C15ULL + 1;
    for (std::uint16_t& x : host) {
      state = state * 6364136223846793005ULL + 1442695040888963407ULL;
      x = bits[state >> 52];
    }
    if (!host.empty()) device = cuda::upload(stream, std::span<const std::uint16_t>(host));
  }
};

struct Pattern {
  std::vector<std::int32_t> row_offsets{0}, col_indices;
  BlockColumns columns;
  BlockPattern view;

  explicit Pattern(const BlockProblem& p) {
    std::mt19937 random(3);
    std::bernoulli_distribution keep(p.density);
    for (std::int64_t r = 0; r < p.rows / p.block_rows; ++r) {
      for (std::int64_t c = 0; c < p.cols / p.block_cols; ++c)
        if (keep(random)) col_indices.push_back(static_cast<std::int32_t>(c));
      row_offsets.push_back(static_cast<std::int32_t>(col_indices.size()));
    }
    view = {.rows = p.rows,
            .cols = p.cols,
            .block_rows = p.block_rows,
            .block_cols = p.block_cols,
            .row_offsets = row_offsets,
            .col_indices = col_indices};
    columns = block_columns(view);
    view.col_offsets = columns.offsets;
    view.row_indices = columns.row_indices;
    view.order = columns.order;
  }
};

/// One product with its operands; the answer is checked at some places.
class Run {
 public:
  Run(const BlockProblem& problem, const cuda::Stream& stream)
      : p(problem),
        pattern(problem),
        values(pattern.view.blocks() * p.block_rows * p.block_cols, p.dtype, 1, stream),
        x(p.tokens * p.cols, p.dtype, 2, stream),
        y(p.tokens * p.rows, p.dtype, 4, stream),
        result(stream, 2 * static_cast<std::size_t>(std::max(
                               {p.tokens * p.cols, p.tokens * p.rows, std::ssize(values.host)}))),
        stream_(stream) {}

  [[nodiscard]] double useful() const {
    return 2.0 * static_cast<double>(p.tokens) * static_cast<double>(values.host.size());
  }

  /// Largest error at some hundred places, relative to the size of the terms; NaN stays.
  [[nodiscard]] double error() const {
    const std::vector<std::uint16_t> found = cuda::download<std::uint16_t>(stream_, result);
    std::mt19937_64 random(11);
    double worst = 0;
    const auto number = [&](std::uint16_t bits) {
      float value;
      convert_elements(&bits, p.dtype, &value, DType::kF32, 1);
      return static_cast<double>(value);
    };
    const auto look = [&](std::size_t at, double expected, double size) {
      const double off = std::abs(number(found[at]) - expected) / (size + std::abs(expected));
      worst = off <= worst ? worst : off;
    };
    constexpr int kPlaces = 300;
    const std::int64_t area = std::int64_t{p.block_rows} * p.block_cols;
    for (int i = 0; i < kPlaces; ++i) {
      double sum = 0, squares = 0;
      const auto add = [&](std::uint16_t a, std::uint16_t b) {
        const double product = number(a) * number(b);
        sum += product;
        squares += product * product;
      };
      if (p.product == BlockProduct::kSamples) {
        const auto at = static_cast<std::int64_t>(random() % values.host.size());
        const std::int64_t block = at / area;
        const auto row =
            std::upper_bound(pattern.row_offsets.begin(), pattern.row_offsets.end(), block) -
            pattern.row_offsets.begin() - 1;
        const std::int64_t r = row * p.block_rows + at % area / p.block_cols;
        const std::int64_t c =
            pattern.col_indices[static_cast<std::size_t>(block)] * std::int64_t{p.block_cols} +
            at % p.block_cols;
        for (std::int64_t t = 0; t < p.tokens; ++t)
          add(y.host[static_cast<std::size_t>(t * p.rows + r)],
              x.host[static_cast<std::size_t>(t * p.cols + c)]);
        look(static_cast<std::size_t>(at), sum, std::sqrt(squares));
        continue;
      }
      const auto t = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(p.tokens));
      const std::int64_t outputs = p.transposed() ? p.cols : p.rows;
      const auto out = static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(outputs));
      if (p.transposed()) {
        const auto column = static_cast<std::size_t>(out / p.block_cols);
        for (std::int32_t i2 = pattern.columns.offsets[column];
             i2 < pattern.columns.offsets[column + 1]; ++i2)
          for (std::int64_t r = 0; r < p.block_rows; ++r)
            add(values.host[static_cast<std::size_t>(
                    pattern.columns.order[static_cast<std::size_t>(i2)] * area + r * p.block_cols +
                    out % p.block_cols)],
                y.host[static_cast<std::size_t>(
                    t * p.rows +
                    pattern.columns.row_indices[static_cast<std::size_t>(i2)] *
                        std::int64_t{p.block_rows} +
                    r)]);
      } else {
        const auto row = static_cast<std::size_t>(out / p.block_rows);
        for (std::int32_t b = pattern.row_offsets[row]; b < pattern.row_offsets[row + 1]; ++b)
          for (std::int64_t c = 0; c < p.block_cols; ++c)
            add(values.host[static_cast<std::size_t>(b * area + out % p.block_rows * p.block_cols +
                                                     c)],
                x.host[static_cast<std::size_t>(t * p.cols +
                                                pattern.col_indices[static_cast<std::size_t>(b)] *
                                                    std::int64_t{p.block_cols} +
                                                c)]);
      }
      look(static_cast<std::size_t>(t * outputs + out), sum, std::sqrt(squares));
    }
    return worst;
  }

  BlockProblem p;
  Pattern pattern;
  Numbers values, x, y;
  cuda::DeviceBuffer result;

 private:
  const cuda::Stream& stream_;
};

cuda::Timing measure(Run& run, const BlockConfig& config, const cuda::Stream& stream,
                     double& error) {
  const BlockProblem& p = run.p;
  cuda::fill_bytes(stream, run.result.address(), 0xFF, run.result.size());
  const cuda::TimingOptions how{.calls = 10, .replays = 10, .budget_us = 60e3};
  const auto time = [&](const auto& enqueue) {
    enqueue();
    error = run.error();
    return cuda::time_calls(
        stream, [&](int) { enqueue(); }, how);
  };
  if (p.product == BlockProduct::kSamples) {
    const gpu::BlockSamples op(p, config, run.pattern.view, stream);
    return time([&] {
      op.enqueue(stream, {.p = run.y.device.address(),
                          .q = run.x.device.address(),
                          .p_stride = p.rows,
                          .q_stride = p.cols,
                          .out = run.result.address(),
                          .tokens = p.tokens});
    });
  }
  const gpu::BlockProducts op(p, config, run.pattern.view, stream);
  op.prepare(stream, p.tokens);
  return time([&] {
    op.enqueue(stream, {.values = run.values.device.address(),
                        .b = (p.transposed() ? run.y : run.x).device.address(),
                        .b_stride = p.transposed() ? p.rows : p.cols,
                        .c = run.result.address(),
                        .c_stride = p.transposed() ? p.cols : p.rows,
                        .tokens = p.tokens});
  });
}

/// The best of cuBLASLt's proposals for as many numbers, all of them stored.
double dense_us(const BlockProblem& p, const cuda::Stream& stream) {
  const bool samples = p.product == BlockProduct::kSamples;
  const cuda::DenseProblem dense{.m = p.transposed() ? p.cols : p.rows,
                                 .k = samples          ? p.tokens
                                      : p.transposed() ? p.rows
                                                       : p.cols,
                                 .n = samples ? p.cols : p.tokens,
                                 .weight = p.dtype,
                                 .output = p.dtype};
  const Numbers a(dense.m * dense.k, p.dtype, 5, stream), b(dense.k * dense.n, p.dtype, 6, stream);
  const cuda::DeviceBuffer c(stream, static_cast<std::size_t>(dense.m * dense.n) * 2);
  const cuda::DenseMatmul matmul(stream, dense);
  double best = 1e30;
  for (int i = 0; i < std::min(3, matmul.algorithms()); ++i)
    best = std::min(best, cuda::time_calls(stream,
                                           [&](int) {
                                             matmul.enqueue(stream, i, a.device.address(),
                                                            b.device.address(), c.address());
                                           },
                                           {.calls = 5, .replays = 6, .budget_us = 40e3})
                              .median_us);
  return best;
}

void run_problem(const BlockProblem& problem, const Options& options, const cuda::Stream& stream,
                 double dense, double end) {
  const cuda::DeviceFacts& facts = stream.device().facts();
  std::vector<BlockConfig> configs = gpu::block_configs(problem, facts);
  std::erase_if(configs, [&](const BlockConfig& c) {
    return c.name(problem).find(options.only) == std::string::npos;
  });
  if (std::ssize(configs) > options.top) configs.resize(static_cast<std::size_t>(options.top));
  default_pool().parallel_dynamic(
      std::ssize(configs), 1, [&](std::int64_t begin, std::int64_t last) {
        for (std::int64_t i = begin; i < last; ++i)
          (void)cuda::compile(configs[static_cast<std::size_t>(i)].source(problem), facts.arch());
      });
  Run run(problem, stream);
  const double positions = static_cast<double>(problem.rows) * static_cast<double>(problem.cols) *
                           static_cast<double>(problem.tokens) * 2;
  for (const BlockConfig& config : configs) {
    if (now() > end) return;
    double error = 0;
    const cuda::Timing timing = measure(run, config, stream, error);
    fmt::print(
        "{},{},{},{}x{},{},{},{},{:.1f},{:.3f},{:.1f},{:.0f},{:.1f},{:.0f},{:.2f},{:.1e}{},{}\n",
        gpu::to_string(problem.product), problem.rows, problem.cols, problem.block_rows,
        problem.block_cols, problem.density, problem.tokens, config.name(problem), timing.median_us,
        timing.noise, config.estimate_us(problem, facts), run.useful() / timing.median_us / 1e6,
        dense, positions / dense / 1e6, dense / timing.median_us, error,
        error < 0.02 ? "" : " WRONG", cli::commit());
    std::fflush(stdout);
  }
}

int run(const Options& options) {
  const double end = now() + options.seconds;
  const cuda::Stream stream;
  const std::optional<DType> dtype = parse_dtype(options.dtype);
  if (!dtype) throw Error(ErrorKind::kInvalidArgument, "--dtype: " + options.dtype);
  fmt::print("# {}, NVRTC {}, driver {}\n", stream.device().facts().name,
             cuda::compiler_state().version, cuda::driver_state().version);
  fmt::print(
      "product,rows,cols,block,density,n,kernel,us,noise,estimate_us,useful_tflops,dense_us,dense_"
      "tflops,over_dense,error,commit\n");
  for (const std::string& shape : options.shapes)
    for (const std::int64_t n : options.ns)
      for (const std::string& name : options.products) {
        BlockProblem problem{.tokens = n, .dtype = *dtype};
        if (std::sscanf(shape.c_str(), "%ldx%ld", &problem.rows, &problem.cols) != 2)
          throw Error(ErrorKind::kInvalidArgument, "--shapes: expected MxK, got " + shape);
        for (const BlockProduct product :
             {BlockProduct::kForward, BlockProduct::kTransposed, BlockProduct::kSamples})
          if (name == gpu::to_string(product)) problem.product = product;
        const double dense = dense_us(problem, stream);
        for (const double density : options.densities)
          for (const std::string& block : options.blocks) {
            if (now() > end) return 0;
            int sides[2] = {0, 0};
            if (std::sscanf(block.c_str(), "%dx%d", &sides[0], &sides[1]) == 1) sides[1] = sides[0];
            problem.block_rows = sides[0];
            problem.block_cols = sides[1];
            problem.density = density;
            run_problem(problem, options, stream, dense, end);
          }
      }
  return 0;
}

}  // namespace
}  // namespace rarefy::bench

int main(int argc, char** argv) {
  CLI::App app{"Block-sparse products on a GPU beside dense ones"};
  rarefy::bench::Options options;
  app.add_option("--shapes", options.shapes, "MxK of the weight")->delimiter(',');
  app.add_option("--blocks", options.blocks, "64 or 32x64")->delimiter(',');
  app.add_option("--density", options.densities, "Shares of stored blocks")->delimiter(',');
  app.add_option("--n", options.ns, "Tokens")->delimiter(',');
  app.add_option("--products", options.products, "forward, transposed, samples")->delimiter(',');
  app.add_option("--dtype", options.dtype, "bf16 or f16");
  app.add_option("--only", options.only, "Kernels whose name holds this");
  app.add_option("--top", options.top, "Kernels of a problem, by estimate");
  app.add_option("--seconds", options.seconds, "Begins no kernel after this long");
  CLI11_PARSE(app, argc, argv);
  try {
    return rarefy::bench::run(options);
  } catch (const std::exception& error) {
    fmt::print(stderr, "error: {}\n", error.what());
    return 1;
  }
}
