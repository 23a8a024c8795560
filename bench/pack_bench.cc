// Packing and converting: what loading a model costs. Bytes a second count the dense source.
#include <benchmark/benchmark.h>

#include <map>
#include <string>

#include "cli/bench_ops_weights.h"
#include "rarefy/matrix.h"

namespace rarefy {
namespace {

/// The shape of the target: 4096×14336 bf16 in under 0.2 s on two cores.
const bench::BenchWeight& weight_at(int percent) {
  static std::map<int, bench::BenchWeight> weights;
  const auto [at, fresh] = weights.try_emplace(percent);
  if (fresh) at->second = bench::make_weight({.m = 4096, .k = 14336, .sparsity = percent / 100.0});
  return at->second;
}

void pack_dense_into(benchmark::State& state, const FormatSpec& format) {
  const bench::BenchWeight& weight = weight_at(static_cast<int>(state.range(0)));
  const DenseSource source = weight.source();
  std::size_t bytes = 0;
  for (auto _ : state) {
    const MatrixPtr packed = pack(source, format);
    bytes = packed->bytes();
    benchmark::DoNotOptimize(packed);
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(weight.values.size()));
  state.counters["packed_MB"] = static_cast<double>(bytes) / 1e6;
}

void convert_bitmap_into(benchmark::State& state, const FormatSpec& format) {
  const bench::BenchWeight& weight = weight_at(static_cast<int>(state.range(0)));
  const MatrixPtr bitmap = pack(weight.source(), format::kBitmap);
  for (auto _ : state) benchmark::DoNotOptimize(pack(*bitmap, format));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(weight.values.size()));
}

void collect_stats(benchmark::State& state) {
  const bench::BenchWeight& weight = weight_at(static_cast<int>(state.range(0)));
  const DenseSource source = weight.source();
  for (auto _ : state) benchmark::DoNotOptimize(pattern_stats(source));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(weight.values.size()));
}

const int registered = [] {
  const auto name = [](const char* what, const FormatSpec& format) {
    return std::string(what) + "/" + format.name();
  };
  for (const FormatSpec& format : {format::dense_tiles(16, 32), format::kBitmap, format::kSell8,
                                   format::kDelta8, format::kCsr16, format::bsr(16, 32)}) {
    if (!can_pack(format, 4096, 14336, DType::kBF16)) continue;
    benchmark::RegisterBenchmark(name("pack", format).c_str(), pack_dense_into, format)
        ->Arg(50)
        ->Arg(90)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark(name("convert_bitmap", format).c_str(), convert_bitmap_into,
                                 format)
        ->Arg(70)
        ->UseRealTime()
        ->Unit(benchmark::kMillisecond);
  }
  benchmark::RegisterBenchmark("pattern_stats", collect_stats)
      ->Arg(50)
      ->UseRealTime()
      ->Unit(benchmark::kMillisecond);
  return 0;
}();

}  // namespace
}  // namespace rarefy
