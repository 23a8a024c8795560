// Which strips of outputs go together.
#include "ops/block_sparse/cuda/strip_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <set>

namespace rarefy::gpu {
namespace {

std::size_t brought(const SlabsOfStrips& slabs, const std::vector<std::int64_t>& order,
                    std::size_t together) {
  std::size_t sum = 0;
  for (std::size_t first = 0; first < order.size(); first += together) {
    std::set<std::uint32_t> all;
    for (std::size_t i = first; i < std::min(first + together, order.size()); ++i) {
      const auto& some = slabs[static_cast<std::size_t>(order[i])];
      all.insert(some.begin(), some.end());
    }
    sum += all.size();
  }
  return sum;
}

std::vector<std::int64_t> as_given(std::size_t count) {
  std::vector<std::int64_t> order(count);
  std::iota(order.begin(), order.end(), std::int64_t{0});
  return order;
}

SlabsOfStrips random_slabs(std::size_t strips, std::uint32_t slabs, double density) {
  std::mt19937 random(5);
  std::bernoulli_distribution keep(density);
  SlabsOfStrips found(strips);
  for (auto& some : found)
    for (std::uint32_t slab = 0; slab < slabs; ++slab)
      if (keep(random)) some.push_back(slab);
  return found;
}

TEST(StripOrder, EveryStripOnceAndFewerSlabs) {
  for (const std::size_t strips : {1U, 2U, 7U, 172U, 2500U})
    for (const int together : {1, 2, 4, 8}) {
      const SlabsOfStrips slabs = random_slabs(strips, 64, 0.25);
      const std::vector<std::int64_t> order = order_strips(slabs, together);
      std::vector<std::int64_t> sorted = order;
      std::ranges::sort(sorted);
      ASSERT_EQ(sorted, as_given(strips));
      EXPECT_LE(brought(slabs, order, static_cast<std::size_t>(together)),
                brought(slabs, as_given(strips), static_cast<std::size_t>(together)));
      EXPECT_EQ(order, order_strips(slabs, together));
    }
  const SlabsOfStrips slabs = random_slabs(172, 64, 0.25);  // Of a Llama-7B FFN.
  EXPECT_LT(static_cast<double>(brought(slabs, order_strips(slabs, 2), 2)),
            0.9 * static_cast<double>(brought(slabs, as_given(172), 2)));
}

TEST(StripOrder, FindsTwins) {
  SlabsOfStrips slabs = random_slabs(40, 100, 0.3);
  const std::size_t half = slabs.size();
  for (std::size_t i = 0; i < half; ++i) slabs.push_back(slabs[(i * 7 + 3) % half]);
  const std::vector<std::int64_t> order = order_strips(slabs, 2);
  for (std::size_t i = 0; i < order.size(); i += 2)
    EXPECT_EQ(slabs[static_cast<std::size_t>(order[i])],
              slabs[static_cast<std::size_t>(order[i + 1])]);
}

TEST(StripOrder, StaysWhereNothingIsSaved) {
  SlabsOfStrips all(50, std::vector<std::uint32_t>{0, 1, 63, 64, 200});
  EXPECT_EQ(order_strips(all, 4), as_given(50));
  EXPECT_EQ(order_strips(SlabsOfStrips(9), 2), as_given(9));
  EXPECT_TRUE(order_strips({}, 2).empty());
}

}  // namespace
}  // namespace rarefy::gpu
