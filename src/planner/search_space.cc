#include "planner/search_space.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>

#include "planner/estimate.h"

namespace rarefy::planning {
namespace {

/// Formats that depend on the values, tried only where the pattern is seen to fit.
constexpr FormatSpec kNmFormats[] = {format::nm(1, 4), format::nm(2, 4), format::nm(4, 8)};

/// Block shapes that some kernel is written for or that pruning commonly makes.
constexpr FormatSpec kBlocks[] = {format::bsr(16, 32), format::bsr(32, 32), format::bsr(16, 16),
                                  format::bsr(64, 64), format::bsr(8, 8),   format::bsr(4, 4)};

template <class T>
bool row_fits(const T* row, std::int64_t cols, int n, int m) {
  for (std::int64_t begin = 0; begin < cols; begin += m) {
    const std::int64_t end = std::min<std::int64_t>(begin + m, cols);
    int count = 0;
    // The sign bit shifted out leaves zero for both zeros.
    for (std::int64_t c = begin; c < end; ++c) count += static_cast<T>(row[c] << 1) != 0 ? 1 : 0;
    if (count > n) return false;
  }
  return true;
}

/// Kernels are named after their format family, up to the first dot.
std::string_view family_of(const SpmmKernel& kernel) {
  return kernel.name().substr(0, kernel.name().find('.'));
}

/// A kernel that takes no matrix of this family is not a candidate worth a line.
bool same_family(const SpmmKernel& kernel, const FormatSpec& spec) {
  const std::string_view family = family_of(kernel);
  switch (spec.format) {
    case Format::kDense:
      return family.starts_with("dense") || family == "panel";
    case Format::kCsr:
      return family.starts_with("csr") || family == "panel";
    case Format::kBitmap:
      return family.starts_with("bitmap") || family == "panel";
    case Format::kDelta:
      return family.starts_with("delta") || family == "panel";
    case Format::kWindow:
      return family.starts_with("window") || family == "panel";
    case Format::kCsb:
      return family.starts_with("csb") || family == "panel";
    case Format::kSell:
      return family.starts_with("sell") || family == "panel";
    case Format::kNm:
      return family.starts_with("nm") || family == "panel";
    case Format::kBsr:
      return family.starts_with("bsr") || family == "panel";
    case Format::kHybrid:
      return family.starts_with("hybrid") || family == "panel";
  }
  return true;
}

}  // namespace

bool outdone(const SpmmKernel& kernel, const FormatSpec& format, const SpmmProblem& problem,
             std::span<const SpmmKernel* const> kernels) {
  return std::any_of(kernels.begin(), kernels.end(), [&](const SpmmKernel* other) {
    if (other == &kernel || !other->supports(format, problem)) return false;
    if (family_of(kernel) == "panel") return family_of(*other) != "panel";
    // "bitmap.portable" beside "bitmap.avx512": the same family, a lower instruction set that is in
    // the name. Variants of one instruction set ("bitmap.avx512.expand") all stay.
    return family_of(*other) == family_of(kernel) && other->isa() > kernel.isa() &&
           (kernel.isa() == Isa::kPortable || kernel.isa() == Isa::kAvx2);
  });
}

std::vector<FormatSpec> search_formats(const PlanRequest& request, DType dtype) {
  const int tile_cols = dtype == DType::kF32 ? 16 : 32;
  std::vector<FormatSpec> formats{format::kDense, format::dense_tiles(16, tile_cols)};
  const auto add = [&](const FormatSpec& spec) {
    if (std::find(formats.begin(), formats.end(), spec) == formats.end()) formats.push_back(spec);
  };
  if (!request.formats.empty()) {
    for (const FormatSpec& spec : request.formats) add(spec);
    return formats;
  }
  for (const FormatSpec& spec :
       {format::kBitmap, format::kWindow, format::kSell8, format::kSell16, format::kDelta4,
        format::kDelta8, format::kCsb, format::kCsr16, format::kCsr32})
    add(spec);
  for (const FormatSpec& spec : kNmFormats) add(spec);
  for (const FormatSpec& spec : kBlocks) add(spec);
  return formats;
}

bool fits_nm(const RowSource& weight, int n, int m, ThreadPool& pool) {
  const std::int64_t cols = weight.cols();
  if (weight.rows() == 0 || cols == 0) return true;
  constexpr std::int64_t kPanelRows = 16;
  std::atomic<bool> fits{true};
  const std::size_t element = size_of(weight.dtype());
  pool.parallel_dynamic(weight.rows(), kPanelRows, [&](std::int64_t begin, std::int64_t end) {
    if (!fits.load(std::memory_order_relaxed)) return;
    std::vector<std::byte> panel(static_cast<std::size_t>((end - begin) * cols) * element);
    weight.read_rows(begin, end, panel.data());
    for (std::int64_t r = 0; r < end - begin; ++r) {
      const std::byte* row = panel.data() + static_cast<std::size_t>(r * cols) * element;
      const bool ok = element == 4
                          ? row_fits(reinterpret_cast<const std::uint32_t*>(row), cols, n, m)
                          : row_fits(reinterpret_cast<const std::uint16_t*>(row), cols, n, m);
      if (!ok) return fits.store(false, std::memory_order_relaxed);
    }
  });
  return fits.load();
}

std::vector<FormatSpec> fitting_nm(const RowSource& weight, const PatternStats& pattern,
                                   ThreadPool& pool) {
  std::vector<FormatSpec> fitting;
  for (const FormatSpec& spec : kNmFormats) {
    // A ragged last group may hold more than its share: a whole group a row of slack.
    const double most = static_cast<double>(pattern.rows) *
                        (static_cast<double>(pattern.cols) * spec.n / spec.m + spec.n);
    if (static_cast<double>(pattern.nnz) > most) continue;
    if (fits_nm(weight, spec.n, spec.m, pool)) fitting.push_back(spec);
  }
  return fitting;
}

SpmmProblem problem_for(const RowSource& weight, const PlanRequest& request, std::int64_t n,
                        int threads) {
  return {.m = weight.rows(),
          .k = weight.cols(),
          .n = n,
          .weight = weight.dtype(),
          .activations = request.activations,
          .output = request.output,
          .precision = request.precision,
          .threads = threads};
}

double estimate_run(const SpmmKernel& kernel, const FormatSpec& format, const PatternStats& pattern,
                    const SpmmProblem& problem, const MachineCeilings& ceilings, bool from_cache,
                    const KernelScales* scales) {
  const SpmmCost cost = kernel.cost(format, pattern, problem);
  const double plain = estimate_us(floors_of(cost, ceilings, problem.threads, from_cache));
  return scales != nullptr ? plain * scales->of(kernel, format, problem, from_cache) : plain;
}

std::vector<Entry> enumerate_candidates(const RowSource& weight, const PatternStats& pattern,
                                        std::span<const FormatSpec> nm_formats,
                                        const PlanRequest& request,
                                        std::span<const SpmmKernel* const> kernels,
                                        const MachineCeilings& ceilings, int threads,
                                        const KernelScales* scales) {
  std::vector<std::int64_t> ns;
  for (const Workload& workload : request.workloads) ns.push_back(workload.n);
  std::sort(ns.begin(), ns.end());
  ns.erase(std::unique(ns.begin(), ns.end()), ns.end());

  const bool from_cache = stays_in_cache(request.working_set);
  const std::size_t dense_bytes = estimate_packed_bytes(format::kDense, pattern, weight.dtype());
  std::vector<Entry> entries;
  std::vector<FormatSpec> formats = search_formats(request, weight.dtype());
  for (const FormatSpec& spec : nm_formats) {
    if (spec.format == Format::kHybrid) formats.push_back(spec);
  }
  for (const FormatSpec& spec : formats) {
    Support packable = can_pack(spec, weight.rows(), weight.cols(), weight.dtype());
    if (packable && spec.format == Format::kNm &&
        std::find(nm_formats.begin(), nm_formats.end(), spec) == nm_formats.end()) {
      packable = Support::no("the nonzeros do not keep this pattern");
    }
    const std::size_t bytes = estimate_packed_bytes(spec, pattern, weight.dtype());
    const bool asked_for = !request.formats.empty() || !request.kernels.empty();
    if (packable && spec.format != Format::kDense && !asked_for && bytes >= dense_bytes) {
      packable = Support::no(
          fmt::format("stores more than dense: {} bytes against {}", bytes, dense_bytes));
    }
    if (!packable) {
      for (std::int64_t n : ns) {
        Entry entry;
        entry.candidate = {.format = spec, .n = n, .reason = packable.reason};
        entries.push_back(std::move(entry));
      }
      continue;
    }
    for (std::int64_t n : ns) {
      const SpmmProblem problem = problem_for(weight, request, n, threads);
      for (const SpmmKernel* kernel : kernels) {
        if (!request.kernels.empty() && std::find(request.kernels.begin(), request.kernels.end(),
                                                  kernel->name()) == request.kernels.end())
          continue;
        const Support support = kernel->supports(spec, problem);
        if (!support && !same_family(*kernel, spec)) continue;
        Entry entry;
        entry.kernel = kernel;
        entry.candidate = {.format = spec,
                           .kernel = std::string(kernel->name()),
                           .n = n,
                           .bytes = bytes,
                           .reason = support.reason};
        if (support && outdone(*kernel, spec, problem, kernels)) {
          entry.candidate.reason = "a kernel of a higher instruction set does the same";
        } else if (support) {
          entry.candidate.estimate_us =
              estimate_run(*kernel, spec, pattern, problem, ceilings, from_cache, scales);
        }
        entries.push_back(std::move(entry));
      }
    }
  }
  return entries;
}

}  // namespace rarefy::planning
