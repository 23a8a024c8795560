#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "cuda/device.h"
#include "ops/decoder/device_decoder.h"
#include "ops/decoder/device_plan.h"
#include "ops/spmm/cuda/converted_rows.h"
#include "ops/spmm/cuda/kernel_chooser.h"
#include "ops/spmm/cuda/search.h"

namespace rarefy {
namespace {

std::string why_not(const gpu::Tried& tried, const DevicePlan& plan) {
  if (tried.measured_us == 0) {
    if (tried.refused || tried.estimate_us == 0) return tried.reason;
    return fmt::format("{}, {:.2f}x the time", tried.reason, tried.estimate_us / plan.time_us);
  }
  if (tried.measured_us >= plan.time_us)
    return fmt::format("{:.2f}x the time", tried.measured_us / plan.time_us);
  if (tried.bytes > plan.bytes)
    return fmt::format("{:.2f}x the bytes, and hardly faster",
                       static_cast<double>(tried.bytes) / static_cast<double>(plan.bytes));
  return "faster this time, not when it was chosen";
}

}  // namespace

DevicePlan plan_on_device(const RowSource& weight, std::int64_t tokens, DType dtype,
                          ThreadPool& pool) {
  if (const Support support = device_decoder_support(); !support)
    fail(ErrorKind::kUnsupported, "GPU: {}", support.reason);
  const gpu::ConvertedRows source(weight, dtype);
  const gpu::Problem problem{.m = source.rows(),
                             .k = source.cols(),
                             .n = tokens,
                             .weight = dtype,
                             .activations = dtype,
                             .output = dtype};
  const PatternStats pattern = pattern_stats(source, pool);
  const gpu::Weight given{
      .source = &source, .pattern = &pattern, .csr = pack(source, format::kCsr32, pool)};
  const cuda::Stream stream;
  gpu::SearchOptions search{.given_for_bytes = gpu::kGivenForBytes};
  gpu::Choice choice = gpu::choose(given, problem, stream, search, pool);

  DevicePlan plan;
  plan.device = stream.device().facts().name;
  plan.kernel = choice.name;
  plan.time_us = choice.time_us;
  plan.bytes = choice.op->bytes();
  plan.dense_bytes = static_cast<std::size_t>(problem.m * problem.k) * size_of(dtype);
  plan.from_cache = choice.from_cache;
  if (choice.from_cache) {
    search.use_cache = false;
    choice = gpu::choose(given, problem, stream, search, pool);
  }
  for (const gpu::Tried& tried : choice.tried) {
    const bool chosen = tried.name == plan.kernel;
    plan.candidates.push_back({.kernel = tried.name,
                               .estimate_us = tried.estimate_us,
                               .measured_us = tried.measured_us,
                               .bytes = tried.bytes,
                               .chosen = chosen,
                               .refused = tried.refused,
                               .reason = chosen ? "" : why_not(tried, plan)});
  }
  for (const gpu::Family* family : gpu::families()) {
    const std::string name(family->name());
    const Support support = family->supports(problem, stream.device().facts());
    const bool offers = std::ranges::any_of(
        choice.tried, [&](const gpu::Tried& tried) { return tried.name.starts_with(name + "."); });
    if (!support || !offers)
      plan.candidates.push_back(
          {.kernel = name,
           .refused = true,
           .reason = support ? "no kernel for how this weight's zeros lie" : support.reason});
  }
  return plan;
}

}  // namespace rarefy
