#include "ops/spmm/cuda/choice_cache.h"

#include <fmt/format.h>

#include "base/cache_folder.h"
#include "base/files.h"
#include "base/hash.h"
#include "cuda/compiler.h"
#include "cuda/cusparselt.h"

namespace rarefy::gpu {
namespace {

/// Raised when measuring or choosing changes: older choices are misses.
constexpr int kPolicyVersion = 3;

Json key_of(const Problem& problem, const PatternStats& pattern, const cuda::Device& device,
            std::span<const Candidate> candidates) {
  // What is in the texts decides what is fast: their hash stands for the kernels' version.
  std::uint64_t texts = 0;
  for (const Candidate& c : candidates) texts = texts * 31 + fnv1a(c.name + c.source.text);
  return {{"policy", kPolicyVersion},
          {"kernels", texts},
          {"device", device.facts().name},
          {"compiler", cuda::compiler_state().version},
          {"cusparselt", cuda::cusparselt_state().version},
          {"m", problem.m},
          {"k", problem.k},
          {"n", problem.n},
          {"weight", to_string(problem.weight)},
          {"activations", to_string(problem.activations)},
          {"output", to_string(problem.output)},
          {"layout", problem.layout == Layout::kTokenMajor ? "tokens" : "features"},
          {"epilogue", {static_cast<int>(problem.activation), problem.bias, problem.residual}},
          {"any_order", problem.any_order},
          {"pattern", pattern.fingerprint()}};
}

}  // namespace

ChoiceCache::ChoiceCache(const SearchOptions& options, const Problem& problem,
                         const PatternStats& pattern, const cuda::Device& device,
                         std::span<const Candidate> candidates)
    : key_(key_of(problem, pattern, device, candidates)) {
  key_["given_for_bytes"] = options.given_for_bytes;
  const std::filesystem::path folder = cache_folder();
  if (options.use_cache && options.only.empty() && !folder.empty())
    path_ = folder / fmt::format("gpu-plan-{:016x}.json", fnv1a(key_.dump()));
}

std::optional<Tried> ChoiceCache::find() const {
  std::error_code error;
  if (path_.empty() || !std::filesystem::exists(path_, error)) return std::nullopt;
  try {
    const Json entry = parse_json(read_text(path_), path_.string());
    if (entry.at("key") != key_) return std::nullopt;
    return Tried{.name = entry.at("name").get<std::string>(),
                 .measured_us = entry.at("us").get<double>(),
                 .noise = entry.at("noise").get<double>()};
  } catch (const std::exception&) {
    return std::nullopt;
  }
}

void ChoiceCache::store(const Tried& best) const {
  if (path_.empty()) return;
  try {
    std::filesystem::create_directories(path_.parent_path());
    AtomicFile file(path_);
    file.write(
        Json{{"key", key_}, {"name", best.name}, {"us", best.measured_us}, {"noise", best.noise}}
            .dump(1));
    file.publish();
  } catch (const std::exception&) {
    return;  // A full disk costs the next process a search.
  }
}

}  // namespace rarefy::gpu
