#include "ops/block_sparse/cuda/strip_order.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <span>

namespace rarefy::gpu {
namespace {

constexpr std::int64_t kWindow = 2048;  // Strips looked at together: the search is quadratic.
constexpr double kWorthIt = 0.02;

using Set = std::span<const std::uint64_t>;

std::int64_t size_of(Set set) {
  std::int64_t size = 0;
  for (const std::uint64_t word : set) size += std::popcount(word);
  return size;
}

/// How much two sets have in common.
struct Likeness {
  std::int64_t both = 0, either = 0;

  Likeness(Set a, Set b) {
    for (std::size_t w = 0; w < a.size(); ++w) {
      both += std::popcount(a[w] & b[w]);
      either += std::popcount(a[w] | b[w]);
    }
  }
  /// Nothing is like nothing.
  [[nodiscard]] bool is_more_than(const Likeness& other) const {
    if (either == 0 || other.either == 0) return either < other.either;
    return both * other.either > other.both * either;
  }
};

/// The slabs of each strip, as sets.
class Needs {
 public:
  explicit Needs(const SlabsOfStrips& slabs) {
    std::uint32_t most = 0;
    for (const auto& some : slabs)
      for (const std::uint32_t slab : some) most = std::max(most, slab);
    words_ = most / kBits + 1;
    bits_.resize(slabs.size() * words_);
    for (std::size_t strip = 0; strip < slabs.size(); ++strip)
      for (const std::uint32_t slab : slabs[strip])
        bits_[strip * words_ + slab / kBits] |= std::uint64_t{1} << slab % kBits;
  }

  [[nodiscard]] std::size_t words() const { return words_; }
  [[nodiscard]] Set of(std::int64_t strip) const {
    return {bits_.data() + static_cast<std::size_t>(strip) * words_, words_};
  }

 private:
  static constexpr std::size_t kBits = 64;
  std::size_t words_ = 1;
  std::vector<std::uint64_t> bits_;
};

void add(std::vector<std::uint64_t>& to, Set set) {
  for (std::size_t w = 0; w < to.size(); ++w) to[w] |= set[w];
}

/// Slabs that groups of `together` bring.
std::int64_t brought_by(const Needs& needs, const std::vector<std::int64_t>& order,
                        std::size_t together) {
  std::int64_t sum = 0;
  for (std::size_t first = 0; first < order.size(); first += together) {
    std::vector<std::uint64_t> brought(needs.words());
    for (std::size_t i = first; i < std::min(first + together, order.size()); ++i)
      add(brought, needs.of(order[i]));
    sum += size_of(brought);
  }
  return sum;
}

/// Reorders strips, one group after the other.
void gather(const Needs& needs, std::span<std::int64_t> strips, std::size_t together) {
  std::vector<std::int64_t> left(strips.begin(), strips.end());
  std::vector<std::uint64_t> brought;
  for (std::size_t i = 0; i < strips.size(); ++i) {
    auto next = left.begin();
    if (i % together == 0) {
      next =
          std::ranges::max_element(left, {}, [&](auto strip) { return size_of(needs.of(strip)); });
      brought.assign(needs.words(), 0);
    } else {
      Likeness best(needs.of(*next), brought);
      for (auto it = left.begin() + 1; it != left.end(); ++it) {
        const Likeness likeness(needs.of(*it), brought);
        if (!likeness.is_more_than(best)) continue;
        best = likeness;
        next = it;
      }
    }
    strips[i] = *next;
    add(brought, needs.of(*next));
    left.erase(next);
  }
}

}  // namespace

std::vector<std::int64_t> order_strips(const SlabsOfStrips& slabs, int together) {
  std::vector<std::int64_t> order(slabs.size());
  std::iota(order.begin(), order.end(), std::int64_t{0});
  const auto group = static_cast<std::size_t>(std::max(1, together));
  if (group == 1 || order.size() <= group) return order;
  const Needs needs(slabs);
  const std::vector<std::int64_t> as_given = order;
  const std::size_t window = std::max<std::size_t>(kWindow / group, 1) * group;
  for (std::size_t first = 0; first < order.size(); first += window)
    gather(needs, std::span(order).subspan(first, std::min(window, order.size() - first)), group);
  const auto before = static_cast<double>(brought_by(needs, as_given, group));
  const auto after = static_cast<double>(brought_by(needs, order, group));
  return after <= (1 - kWorthIt) * before ? order : as_given;
}

}  // namespace rarefy::gpu
