// SDDMM at every instruction set on places that lie evenly or in blocks, of all densities.
#include <benchmark/benchmark.h>

#include <random>
#include <string>
#include <vector>

#include "cli/bench_ops_weights.h"
#include "rarefy/cpu.h"
#include "rarefy/sddmm.h"

namespace rarefy {
namespace {

constexpr std::int64_t kSize = 2048;

struct Case {
  Isa isa;
  std::string pattern;  ///< As `rarefy bench ops --pattern`.
  FormatSpec format;
  double density;
  std::int64_t steps;
};

/// bf16 values near one, which is all that the time depends on.
std::vector<std::uint16_t> operand(std::int64_t count) {
  std::vector<std::uint16_t> values(static_cast<std::size_t>(count));
  std::mt19937 random(1);
  for (std::uint16_t& v : values) v = static_cast<std::uint16_t>(0x3f00 + random() % 128);
  return values;
}

void run_case(benchmark::State& state, const Case& c) {
  const bench::BenchWeight weight = bench::make_weight({.m = kSize,
                                                        .k = kSize,
                                                        .sparsity = 1 - c.density,
                                                        .dtype = DType::kBF16,
                                                        .pattern = c.pattern});
  const MatrixPtr pattern = pack(weight.source(), c.format);
  const auto p = operand(c.steps * kSize);
  const auto q = operand(c.steps * kSize);
  const ConstMatrixRef p_ref{p.data(), DType::kBF16, c.steps, kSize, kSize};
  const ConstMatrixRef q_ref{q.data(), DType::kBF16, c.steps, kSize, kSize};
  force_isa(c.isa);
  for (auto _ : state) benchmark::DoNotOptimize(sddmm(*pattern, p_ref, q_ref));
  force_isa(std::nullopt);
  state.counters["GFLOP/s"] =
      benchmark::Counter(2e-9 * static_cast<double>(pattern->nnz() * c.steps),
                         benchmark::Counter::kIsIterationInvariantRate);
}

void add_case(const Case& c) {
  const std::string name = std::string("sddmm/") + to_string(c.isa) + "/" + c.format.name() + "/" +
                           c.pattern + "/" + std::to_string(static_cast<int>(100 * c.density)) +
                           "%/t" + std::to_string(c.steps);
  benchmark::RegisterBenchmark(name.c_str(), run_case, c)
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
}

const int registered = [] {
  const Isa best = active_isa();
  for (const std::int64_t steps : {128, 512, 2048}) {
    for (const double density : {0.01, 0.02, 0.05, 0.1, 0.2, 0.5}) {
      for (const Isa isa : {Isa::kAvx512, Isa::kAmx}) {
        if (isa > best) continue;
        add_case({isa, "uniform", format::kCsr32, density, steps});
        if (density < 0.05) continue;
        add_case({isa, "16x32", format::kCsr32, density, steps});
        add_case({isa, "16x32", format::bsr(16, 32), density, steps});
        add_case({isa, "32x32", format::bsr(32, 32), density, steps});
      }
    }
  }
  return 0;
}();

}  // namespace
}  // namespace rarefy
