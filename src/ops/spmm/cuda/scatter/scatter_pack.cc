#include "ops/spmm/cuda/scatter/scatter_pack.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <numeric>

#include "ops/spmm/cuda/row_groups.h"

namespace rarefy::gpu {
namespace {

constexpr int kBanks = 32;
constexpr int kRound = 32;  // Words.

/// Where row `r` and column `c` of a stage lie in its tile, in bytes: rows of 128 bytes in the
/// swizzle of 128.
std::uint32_t place_of(std::int64_t r, std::int64_t c) {
  return static_cast<std::uint32_t>(r * 128 + ((c / 8) ^ (r % 8)) * 16 + c % 8 * 2);
}

/// The words of a stage by bank.
class Stage {
 public:
  void add(std::uint32_t place, std::uint16_t value) {
    banks_[place / 4 % kBanks].push_back(place << 16 | value);
    ++count_;
  }
  [[nodiscard]] int count() const { return count_; }

  /// Appends up to `most` rounds, each from the fullest banks, and takes them away; returns how
  /// many. Only the last round of a stage is padded.
  int take(int most, std::uint32_t padding, std::vector<std::uint32_t>& stream) {
    const int rounds = std::min(most, (count_ + kRound - 1) / kRound);
    for (int i = 0; i < rounds; ++i) {
      std::array<int, kBanks> order;
      std::iota(order.begin(), order.end(), 0);
      std::sort(order.begin(), order.end(), [&](int a, int b) {
        const std::size_t of_a = banks_[a].size(), of_b = banks_[b].size();
        return of_a != of_b ? of_a > of_b : a < b;
      });
      int taken = 0;
      const int wanted = std::min(kRound, count_);
      while (taken < wanted) {
        // Once around the banks; again where fewer than 32 have a word left.
        for (int b = 0; b < kBanks && taken < wanted; ++b) {
          std::vector<std::uint32_t>& bank = banks_[order[b]];
          if (bank.empty()) break;
          stream.push_back(bank.back());
          bank.pop_back();
          ++taken;
        }
      }
      count_ -= taken;
      for (; taken < kRound; ++taken)
        stream.push_back((padding + static_cast<std::uint32_t>(taken) * 4) << 16);
    }
    return rounds;
  }

 private:
  std::array<std::vector<std::uint32_t>, kBanks> banks_;
  int count_ = 0;
};

/// One tile's stages, before they are shared out.
struct Tile {
  std::vector<std::uint32_t> stream, stages;
  std::int64_t nonzeros = 0;
};

Tile pack_tile(const CsrMatrix& csr, const ScatterConfig& config, const std::int32_t* groups) {
  Tile tile;
  const std::int64_t* offsets = csr.row_offsets();
  const auto* columns = csr.col_indices<std::uint32_t>();
  const auto* values = static_cast<const std::uint16_t*>(csr.values());
  std::vector<std::int64_t> at(static_cast<std::size_t>(config.rows), 0), end = at;
  for (int r = 0; r < config.rows; ++r) {
    const std::int64_t row = groups[r / 8] + r % 8;
    if (groups[r / 8] < 0 || row >= csr.rows()) continue;
    at[static_cast<std::size_t>(r)] = offsets[row];
    end[static_cast<std::size_t>(r)] = offsets[row + 1];
    tile.nonzeros += offsets[row + 1] - offsets[row];
  }
  constexpr std::int64_t kColumns = ScatterConfig::kStageColumns;
  const auto padding = static_cast<std::uint32_t>(config.rows * 128);
  Stage stage;
  for (std::int64_t first = 0; first < csr.cols(); first += kColumns) {
    for (std::size_t r = 0; r < at.size(); ++r) {
      for (; at[r] < end[r] && columns[at[r]] < first + kColumns; ++at[r])
        stage.add(place_of(static_cast<std::int64_t>(r), columns[at[r]] - first), values[at[r]]);
    }
    while (stage.count() > 0) {
      const int rounds = stage.take(config.most_rounds(), padding, tile.stream);
      tile.stages.push_back(static_cast<std::uint32_t>(rounds) << 16 |
                            static_cast<std::uint32_t>(first / kColumns));
    }
  }
  return tile;
}

}  // namespace

ScatterArrays pack_scatter(const CsrMatrix& csr, const ScatterConfig& config, ThreadPool& pool) {
  ScatterArrays arrays;
  const int groups = config.rows / ScatterConfig::kGroupRows;
  arrays.groups = deal_row_groups(csr, ScatterConfig::kGroupRows, config.tiles, groups);
  const auto room = static_cast<std::size_t>(groups);
  std::vector<Tile> tiles(static_cast<std::size_t>(config.tiles));
  pool.parallel_dynamic(config.tiles, 1, [&](std::int64_t from, std::int64_t to) {
    for (auto t = static_cast<std::size_t>(from); t < static_cast<std::size_t>(to); ++t)
      tiles[t] = pack_tile(csr, config, &arrays.groups[t * room]);
  });
  std::size_t words = 0;
  for (const Tile& tile : tiles) {
    std::size_t stage = 0;
    for (int rank = 0; rank < config.split; ++rank) {
      const std::size_t end = tile.stages.size() * static_cast<std::size_t>(rank + 1) /
                              static_cast<std::size_t>(config.split);
      ScatterBlock block{.first = words,
                         .first_stage = static_cast<std::uint32_t>(arrays.stages.size()),
                         .stages = static_cast<std::uint32_t>(end - stage)};
      for (; stage < end; ++stage) {
        const auto rounds = static_cast<int>(tile.stages[stage] >> 16);
        arrays.stages.push_back(tile.stages[stage]);
        arrays.most_rounds = std::max(arrays.most_rounds, rounds);
        words += static_cast<std::size_t>(rounds) * kRound;
      }
      arrays.most_stages = std::max(arrays.most_stages, static_cast<int>(block.stages));
      arrays.blocks.push_back(block);
    }
    arrays.nonzeros += tile.nonzeros;
  }
  arrays.stream.reserve(words + kRound);
  for (Tile& tile : tiles) {
    arrays.stream.insert(arrays.stream.end(), tile.stream.begin(), tile.stream.end());
    tile = {};
  }
  // Of an empty weight, too, there is something to point at.
  if (arrays.stream.empty()) arrays.stream.resize(kRound);
  if (arrays.stages.empty()) arrays.stages.resize(1);
  return arrays;
}

}  // namespace rarefy::gpu
