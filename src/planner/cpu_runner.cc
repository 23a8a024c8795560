#include "planner/cpu_runner.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "planner/ceilings.h"
#include "planner/estimate.h"
#include "planner/read_streams.h"
#include "planner/wake_apart.h"
#include "rarefy/cpu.h"

namespace rarefy::planning {
namespace {

/// A sample this large takes 0.8 ms from memory at 40 GB/s: three orders above a job's start, small
/// enough to pack eight formats of it in a tenth of a second.
constexpr double kSampleBytes = 32e6;
/// Where what a call takes for its activations is subtracted, the noise of the difference is
/// multiplied by what the sample leaves out: 3.7 times for a third of 4096 rows, twice for half.
constexpr double kManyColumnsBytes = 64e6;
/// At many columns a run is bound by arithmetic, and by patience on a machine without matrix units:
/// products of the sample at the largest n stay below this, as long as it keeps enough rows to
/// share between threads.
constexpr double kSampleProducts = 2e9;
constexpr std::int64_t kLeastRows = 256;
/// Small weights are packed several times: one eviction, which takes 20 ms, serves several passes.
constexpr double kRoundBytes = 16e6;
constexpr int kMostCopies = 8;
/// A round of warm runs: a thousand times the clock's resolution, a hundred times the microsecond
/// or two by which threads wake sooner or later.
constexpr double kWarmRoundUs = 200;
constexpr double kMostWarmPasses = 16;

/// More activations than this do not stay in a core's cache anyway.
constexpr std::size_t kWarmBytes = std::size_t{1} << 20;

/// A matrix unit does ten times as many in the same time; with fewer, ranges and rounds of a kernel
/// are not those of the whole weight.
constexpr double kMatrixUnitProducts = 8e9;
/// From here on what a call takes for its activations shows beside a sample's rows.
constexpr std::int64_t kManyColumns = 16;
/// Fewer than this times the few rows make no line.
constexpr std::int64_t kFewestTimes = 3;

std::int64_t largest_n(const PlanRequest& request) {
  std::int64_t n = 1;
  for (const Workload& workload : request.workloads) n = std::max(n, workload.n);
  return n;
}

std::int64_t sample_rows(const RowSource& weight, const PlanRequest& request) {
  const double row = static_cast<double>(std::max<std::int64_t>(weight.cols(), 1));
  const double bytes = largest_n(request) < kManyColumns ? kSampleBytes : kManyColumnsBytes;
  const double by_bytes = bytes / (row * static_cast<double>(size_of(weight.dtype())));
  const bool on_matrix_unit = active_isa() >= Isa::kAmx && size_of(weight.dtype()) == 2;
  const double products = on_matrix_unit ? kMatrixUnitProducts : kSampleProducts;
  const double by_products = products / (row * static_cast<double>(largest_n(request)));
  const double most = std::max(std::min(by_bytes, by_products), static_cast<double>(kLeastRows));
  // A whole part of the rows: ranges and rounds of a kernel then end as evenly as on all of them.
  const double parts = std::max(1.0, std::ceil(static_cast<double>(weight.rows()) / most));
  return static_cast<std::int64_t>(std::ceil(static_cast<double>(weight.rows()) / parts));
}

/// 32 rows for each thread, a pair of strips.
std::int64_t few_rows(const ThreadPool& pool) {
  return SampledRows::kGroup * ((pool.size() + 1) / 2);
}

int copies_of(const RowSource& sample) {
  const double bytes = static_cast<double>(sample.rows()) * static_cast<double>(sample.cols()) *
                       static_cast<double>(size_of(sample.dtype()));
  return static_cast<int>(std::clamp(kRoundBytes / std::max(bytes, 1.0), 1.0, 1.0 * kMostCopies));
}

}  // namespace

SampledRows::SampledRows(const RowSource& source, std::int64_t rows)
    : source_(source), rows_(std::min((rows + kGroup - 1) / kGroup * kGroup, source.rows())) {}

std::int64_t SampledRows::origin(std::int64_t r) const {
  if (whole()) return r;
  const std::int64_t groups = rows_ / kGroup;
  const std::int64_t source_groups = source_.rows() / kGroup;
  return r / kGroup * source_groups / groups * kGroup + r % kGroup;
}

void SampledRows::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  auto* to = static_cast<std::byte*>(out);
  const std::size_t row_bytes = static_cast<std::size_t>(cols()) * size_of(dtype());
  while (begin < end) {
    const std::int64_t stop = whole() ? end : std::min(end, (begin / kGroup + 1) * kGroup);
    const std::int64_t first = origin(begin);
    source_.read_rows(first, first + stop - begin, to);
    to += static_cast<std::size_t>(stop - begin) * row_bytes;
    begin = stop;
  }
}

void Evictor::evict(ThreadPool& pool) {
  const auto threads = static_cast<std::size_t>(pool.size());
  if (buffer_.size() == 0) {
    buffer_ = Buffer(eviction_bytes());
    const std::size_t share = buffer_.size() / threads;
    pool.run([&](int worker) {  // Untouched pages would all be the one page of zeros.
      std::memset(buffer_.data() + static_cast<std::size_t>(worker) * share, 1, share);
    });
  }
  const std::size_t share = buffer_.size() / threads / 4096 * 4096;
  ReadStreams* read = widest_read_streams();
  pool.run([&](int worker) {
    // The loop ends in a value that the compiler must not drop.
    volatile std::uint64_t kept =
        read(buffer_.data() + static_cast<std::size_t>(worker) * share, share);
    static_cast<void>(kept);
  });
}

CpuRunner::CpuRunner(const RowSource& weight, const PlanRequest& request, Evictor& evictor,
                     ThreadPool& pool)
    : sample_(weight, sample_rows(weight, request)),
      few_(weight, few_rows(pool)),
      request_(request),
      evictor_(evictor),
      pool_(pool),
      scale_(static_cast<double>(weight.rows()) /
             static_cast<double>(std::max<std::int64_t>(sample_.rows(), 1))),
      copies_(stays_in_cache(request.working_set) ? 1 : copies_of(sample_)),
      from_cache_(stays_in_cache(request.working_set)),
      shortest_us_(kWarmRoundUs),
      begin_(std::chrono::steady_clock::now()) {}

CpuRunner::Packed& CpuRunner::packed(const FormatSpec& format, int slot) {
  Packed& p = packed_[{format.name(), slot}];
  if (!p.copies.empty()) return p;
  const bool needs_few = few_.rows() * kFewestTimes <= sample_.rows() && !sample_.whole();
  for (int copy = 0; copy < copies_; ++copy) {
    p.copies.push_back(pack(sample_, format, pool_));
    if (needs_few) p.few.push_back(pack(few_, format, pool_));
  }
  return p;
}

std::size_t CpuRunner::prepare(const FormatSpec& format) {
  const auto bytes = static_cast<double>(packed(format, 0).copies.front()->bytes());
  return static_cast<std::size_t>(std::llround(bytes * scale_));
}

int CpuRunner::begin_round() {
  if (from_cache_)
    return static_cast<int>(std::clamp(kWarmRoundUs / shortest_us_, 1.0, kMostWarmPasses));
  evictor_.evict(pool_);
  return copies_;
}

CpuRunner::Activations& CpuRunner::activations(std::int64_t n) {
  const auto [at, fresh] = activations_.try_emplace(n);
  Activations& a = at->second;
  if (fresh) {
    const std::int64_t k = sample_.cols();
    a.b = Buffer(static_cast<std::size_t>(n * k) * size_of(request_.activations));
    a.c = Buffer(static_cast<std::size_t>(n * sample_.rows()) * size_of(request_.output));
    // Small numbers of both signs, the same every time; no value is slow to multiply.
    std::vector<float> values(static_cast<std::size_t>(n * k));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(static_cast<int>(i * 37 % 61) - 30) / 32.0F;
    convert_elements(values.data(), DType::kF32, a.b.data(), request_.activations, values.size());
  }
  return a;
}

double CpuRunner::run(const Trial& trial, int slot, int pass) {
  Packed& p = packed(trial.format, slot);
  const auto copy = static_cast<std::size_t>(pass % copies_);
  const double sample_us = time_us(*p.copies[copy], trial);
  if (p.few.empty() || trial.n < kManyColumns) return sample_us * scale_;
  // Activations are packed once, however many rows there are: the straight line goes through the
  // sample and through a few rows, not through nothing. A single run of few rows would bring more
  // noise than all of the sample.
  std::vector<double>& all = p.few_us[{std::string(trial.kernel->name()), trial.n}];
  all.push_back(time_us(*p.few[copy], trial));
  // The first paid for pages and tables: it counts only while it is alone.
  std::vector<double> counted(all.begin() + (all.size() > 1 ? 1 : 0), all.end());
  const double few_us = median(counted);
  const auto rows = static_cast<double>(sample_.rows());
  const double row_us =
      std::max(0.0, sample_us - few_us) / (rows - static_cast<double>(few_.rows()));
  return sample_us + row_us * rows * (scale_ - 1);
}

double CpuRunner::time_us(const Matrix& matrix, const Trial& trial) {
  // The other trials' weights have pushed this one out of the caches, where it would be.
  if (from_cache_) run_once(matrix, trial);
  const double us = run_once(matrix, trial);
  shortest_us_ = std::min(shortest_us_, us);
  return us;
}

double CpuRunner::run_once(const Matrix& matrix, const Trial& trial) {
  Activations& a = activations(trial.n);
  const std::int64_t k = matrix.cols();
  const std::int64_t m = matrix.rows();
  SpmmArgs args;
  args.b = {a.b.data(), request_.activations, trial.n, k, k};
  args.c = {a.c.data(), request_.output, trial.n, m, m};
  args.precision = request_.precision;
  // The layer before has just written the activations, each thread its share: they are warm where
  // the weight is not. All of them in one core's cache made dense tiles take 414 us, not 282
  // (384x1024, N = 512).
  wake_apart(pool_);
  const std::size_t share = a.b.size() / static_cast<std::size_t>(pool_.size());
  const std::size_t warm_bytes = std::min(share, kWarmBytes) / 512 * 512;
  pool_.run([&](int worker) {
    const std::size_t begin = static_cast<std::size_t>(worker) * share / 64 * 64;
    volatile std::uint64_t kept = widest_read_streams()(a.b.data() + begin, warm_bytes);
    static_cast<void>(kept);
  });
  const auto begin = std::chrono::steady_clock::now();
  spmm(matrix, args, pool_, trial.kernel);
  const auto end = std::chrono::steady_clock::now();
  return std::chrono::duration<double, std::micro>(end - begin).count();
}

double CpuRunner::elapsed_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
}

}  // namespace rarefy::planning
