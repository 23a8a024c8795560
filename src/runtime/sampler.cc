#include <algorithm>
#include <cmath>
#include <vector>

#include "base/check.h"
#include "rarefy/generate.h"

namespace rarefy {
namespace {

/// splitmix64 (Steele, Lea & Flood 2014): a few integer operations, the same everywhere.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  /// Uniform in [0, 1), 53 bits.
  double uniform() {
    state_ += 0x9E3779B97F4A7C15U;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
  }

 private:
  std::uint64_t state_;
};

struct Choice {
  float logit;
  TokenId id;
  double share;  ///< exp((logit - largest) / temperature), not normalised
};

/// Likelier first, the lower id among equals.
bool likelier(const Choice& a, const Choice& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

double total_share(const std::vector<Choice>& choices) {
  double total = 0;
  for (const Choice& c : choices) total += c.share;
  return total;
}

/// Keeps the `count` likeliest.
void keep_top_k(std::vector<Choice>& choices, std::size_t count) {
  if (count >= choices.size()) return;
  std::nth_element(choices.begin(), choices.begin() + static_cast<std::ptrdiff_t>(count),
                   choices.end(), likelier);
  choices.resize(count);
}

/// Keeps the fewest likeliest that hold `share` of the total. Sorts a prefix that doubles until it
/// is enough: a vocabulary is long and the nucleus short.
void keep_top_p(std::vector<Choice>& choices, double share) {
  const double wanted = share * total_share(choices);
  double held = 0;
  std::size_t kept = 0;
  for (std::size_t sorted = 0; sorted < choices.size();) {
    const std::size_t next = std::min(choices.size(), std::max<std::size_t>(256, 2 * sorted));
    std::partial_sort(choices.begin() + static_cast<std::ptrdiff_t>(sorted),
                      choices.begin() + static_cast<std::ptrdiff_t>(next), choices.end(), likelier);
    sorted = next;
    for (; kept < sorted; ++kept) {
      if (held >= wanted && kept > 0) return choices.resize(kept);
      held += choices[kept].share;
    }
  }
}

/// Keeps those at least `share` as likely as the likeliest.
void keep_min_p(std::vector<Choice>& choices, double share) {
  double largest = 0;
  for (const Choice& c : choices) largest = std::max(largest, c.share);
  std::erase_if(choices, [&](const Choice& c) { return c.share < share * largest; });
}

}  // namespace

struct Sampler::Impl {
  Sampling sampling;
  Random random;
  std::vector<float> logits;
  std::vector<Choice> choices;

  /// Logits of ids that were there before move towards less likely, each once.
  void penalise(std::span<const TokenId> history) {
    std::vector<TokenId> ids(history.begin(), history.end());
    std::sort(ids.begin(), ids.end());
    ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
    for (const TokenId id : ids) {
      if (id < 0 || static_cast<std::size_t>(id) >= logits.size()) continue;
      float& logit = logits[static_cast<std::size_t>(id)];
      logit = logit > 0 ? logit / sampling.repetition_penalty : logit * sampling.repetition_penalty;
    }
  }

  TokenId draw_from(float largest) {
    choices.clear();
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const double distance = double{logits[i]} - double{largest};
      choices.push_back(
          {logits[i], static_cast<TokenId>(i), std::exp(distance / double{sampling.temperature})});
    }
    if (sampling.top_k > 0) keep_top_k(choices, static_cast<std::size_t>(sampling.top_k));
    if (sampling.top_p < 1.0F) keep_top_p(choices, double{sampling.top_p});
    if (sampling.min_p > 0.0F) keep_min_p(choices, double{sampling.min_p});
    // nth_element leaves an order of its own: without this, ids would depend on the library.
    if (sampling.top_k > 0 || sampling.top_p < 1.0F)
      std::sort(choices.begin(), choices.end(), likelier);

    double left = random.uniform() * total_share(choices);
    for (const Choice& c : choices) {
      left -= c.share;
      if (left < 0) return c.id;
    }
    // Only rounding leads here: the last that can be drawn at all.
    return std::find_if(choices.rbegin(), choices.rend(),
                        [](const Choice& c) { return c.share > 0; })
        ->id;
  }
};

Sampler::Sampler(const Sampling& s)
    : impl_(std::make_unique<Impl>(Impl{s, Random(s.seed), {}, {}})) {
  require(std::isfinite(s.temperature) && s.temperature >= 0,
          "sampling: temperature: expected a number >= 0, got {}", s.temperature);
  require(s.top_k >= 0, "sampling: top_k: expected >= 0, got {}", s.top_k);
  require(s.top_p > 0 && s.top_p <= 1, "sampling: top_p: expected above 0 and at most 1, got {}",
          s.top_p);
  require(s.min_p >= 0 && s.min_p <= 1, "sampling: min_p: expected 0…1, got {}", s.min_p);
  require(std::isfinite(s.repetition_penalty) && s.repetition_penalty > 0,
          "sampling: repetition_penalty: expected a number above 0, got {}", s.repetition_penalty);
}

Sampler::~Sampler() = default;

TokenId Sampler::draw(std::span<const float> logits, std::span<const TokenId> history) {
  Impl& s = *impl_;
  require(!logits.empty(), "sampling: logits: expected at least one, got none");
  s.logits.assign(logits.begin(), logits.end());
  if (s.sampling.repetition_penalty != 1.0F) s.penalise(history);
  const auto largest = std::max_element(s.logits.begin(), s.logits.end());
  const bool nan = std::any_of(s.logits.begin(), s.logits.end(), [](float x) { return x != x; });
  require(!nan && std::isfinite(*largest), "sampling: logits: expected finite numbers, got {}",
          nan ? std::nanf("") : *largest);
  if (s.sampling.temperature == 0.0F) return static_cast<TokenId>(largest - s.logits.begin());
  return s.draw_from(*largest);
}

}  // namespace rarefy
