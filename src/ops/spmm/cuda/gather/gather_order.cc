#include "ops/spmm/cuda/gather/gather_order.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <tuple>

namespace rarefy::gpu {
namespace {

constexpr int kBanks = 8;  // Groups of four: the 16 bytes of a column lie in one.
constexpr int kHalf = kGatherHalf;

int in_chunks(int steps, int chunk_steps) {
  return (steps + chunk_steps - 1) / chunk_steps * chunk_steps;
}

/// Puts the nonzeros of eight rows into an order in which the eight of a step lie in different
/// banks: a matching of rows and banks each step, which takes from the fullest banks first. Where
/// none covers every row that has no step to lose, two share a bank.
class FreeOrder {
 public:
  void add(int row, GatherEntry entry) {
    lists_[row][entry.column % kBanks].push_back(entry);
    ++row_left_[row];
    ++bank_left_[entry.column % kBanks];
  }

  [[nodiscard]] int longest() const {
    return *std::max_element(row_left_.begin(), row_left_.end());
  }

  /// Takes the next step of `steps_left`; returns how many of its nonzeros share a bank.
  int take(int steps_left, GatherStep& step) {
    std::array<int, kBanks> banks;
    std::iota(banks.begin(), banks.end(), 0);
    std::sort(banks.begin(), banks.end(),
              [&](int a, int b) { return bank_left_[a] > bank_left_[b]; });
    std::iota(rows_.begin(), rows_.end(), 0);
    std::sort(rows_.begin(), rows_.end(),
              [&](int a, int b) { return row_left_[a] > row_left_[b]; });
    bank_of_.fill(-1);
    unsigned used = 0;
    for (const int bank : banks) {
      unsigned seen = 0;
      if (bank_left_[bank] > 0 && match(bank, seen)) used |= 1U << bank;
    }
    int conflicts = 0;
    for (int row = 0; row < kHalf; ++row) {
      int bank = bank_of_[row];
      if (bank < 0 && row_left_[row] >= steps_left) {
        bank = 0;
        for (int b = 1; b < kBanks; ++b)
          if (lists_[row][b].size() > lists_[row][bank].size()) bank = b;
        ++conflicts;
      }
      if (bank >= 0) {
        step[row] = lists_[row][bank].back();
        lists_[row][bank].pop_back();
        --row_left_[row];
        --bank_left_[bank];
      } else {
        // Nothing: a zero times a column in a bank that is still free.
        int free = 0;
        while ((used >> free & 1) != 0) ++free;
        used |= 1U << free;
        step[row] = {0, static_cast<std::uint16_t>(free)};
      }
    }
    return conflicts;
  }

 private:
  /// Gives `bank` a row, moving others to other banks if need be. `seen`: rows asked already.
  bool match(int bank, unsigned& seen) {
    for (const int row : rows_) {
      if ((seen >> row & 1) != 0 || lists_[row][bank].empty()) continue;
      seen |= 1U << row;
      if (bank_of_[row] < 0 || match(bank_of_[row], seen)) {
        bank_of_[row] = bank;
        return true;
      }
    }
    return false;
  }

  std::array<std::array<std::vector<GatherEntry>, kBanks>, kHalf> lists_;
  std::array<int, kHalf> row_left_ = {};
  std::array<int, kBanks> bank_left_ = {};
  std::array<int, kHalf> rows_ = {}, bank_of_ = {};
};

/// The same for eight lists of which each lane walks one by steps of limited reach. What a lane may
/// take lies at most reach.back beyond the oldest that it has left, so that it can always return.
class ReachOrder {
 public:
  using Lists = std::array<std::span<const GatherEntry>, kHalf>;

  ReachOrder(const Lists& lists, GatherReach reach) : lists_(lists), reach_(reach) {
    for (int lane = 0; lane < kHalf; ++lane) {
      left_[lane] = static_cast<int>(lists[lane].size());
      taken_[lane].resize(lists[lane].size());
    }
  }

  [[nodiscard]] int longest() const { return *std::max_element(left_.begin(), left_.end()); }

  /// Takes the next step, with at most `steps_left` to come; the first of a chunk may lie anywhere.
  /// Returns how many of its nonzeros share a bank.
  int take(bool first, int steps_left, GatherStep& step) {
    find_candidates(first);
    std::array<int, kHalf> lanes;
    std::iota(lanes.begin(), lanes.end(), 0);
    // Those first that have the fewest banks to choose from.
    const auto urgency = [&](int lane) { return std::tuple(choices_[lane], -left_[lane]); };
    std::stable_sort(lanes.begin(), lanes.end(),
                     [&](int a, int b) { return urgency(a) < urgency(b); });
    lane_of_.fill(-1);
    bank_of_.fill(-1);
    for (const int lane : lanes) {
      unsigned seen = 0;
      match(lane, seen);
    }
    int conflicts = 0;
    unsigned used = 0;
    for (int lane = 0; lane < kHalf; ++lane) {
      int at = bank_of_[lane] >= 0 ? candidates_[lane][bank_of_[lane]] : kNone;
      if (at == kNone && choices_[lane] > 0 && left_[lane] + kStepsToSpare >= steps_left) {
        at = *std::min_element(candidates_[lane].begin(), candidates_[lane].end());
        ++conflicts;
      }
      if (at == kNone) continue;
      step[lane] = lists_[lane][static_cast<std::size_t>(at)];
      used |= 1U << step[lane].column % kBanks;
      use(lane, at);
    }
    for (int lane = 0; lane < kHalf; ++lane)
      if (!stepped(lane)) step[lane] = nothing(lane, first, used);
    for (int lane = 0; lane < kHalf; ++lane) column_[lane] = step[lane].column;
    stepped_ = 0;
    return conflicts;
  }

 private:
  static constexpr int kNone = 1 << 30;
  /// A lane that cannot have a bank of its own rather shares one than waits, unless it would end
  /// this much before the others.
  static constexpr int kStepsToSpare = 8;
  static constexpr int kMostAhead = 24;  ///< Nonzeros that are looked at: more gain nothing.

  [[nodiscard]] int column_at(int lane, int i) const {
    return lists_[lane][static_cast<std::size_t>(i)].column;
  }
  [[nodiscard]] bool stepped(int lane) const { return (stepped_ >> lane & 1) != 0; }

  /// The oldest nonzero of each lane in each bank that it may take.
  void find_candidates(bool first) {
    for (int lane = 0; lane < kHalf; ++lane) {
      candidates_[lane].fill(kNone);
      choices_[lane] = 0;
      const int end = std::min(static_cast<int>(lists_[lane].size()), oldest_[lane] + kMostAhead);
      for (int i = oldest_[lane]; i < end; ++i) {
        const int column = column_at(lane, i);
        if (column > column_at(lane, oldest_[lane]) + reach_.back) break;
        if (taken_[lane][static_cast<std::size_t>(i)]) continue;
        if (!first &&
            (column > column_[lane] + reach_.forth || column < column_[lane] - reach_.back))
          continue;
        int& candidate = candidates_[lane][static_cast<std::size_t>(column % kBanks)];
        if (candidate != kNone) continue;
        candidate = i;
        ++choices_[lane];
      }
    }
  }

  /// Gives `lane` a bank, moving others to other banks if need be. `seen`: banks asked already.
  bool match(int lane, unsigned& seen) {
    std::array<int, kBanks> banks;
    std::iota(banks.begin(), banks.end(), 0);
    std::sort(banks.begin(), banks.end(), [&](int a, int b) {
      return std::tuple(candidates_[lane][a], a) < std::tuple(candidates_[lane][b], b);
    });
    for (const int bank : banks) {
      if (candidates_[lane][bank] == kNone) break;
      if ((seen >> bank & 1) != 0) continue;
      seen |= 1U << bank;
      if (lane_of_[bank] < 0 || match(lane_of_[bank], seen)) {
        lane_of_[bank] = lane;
        bank_of_[lane] = bank;
        return true;
      }
    }
    return false;
  }

  void use(int lane, int at) {
    taken_[lane][static_cast<std::size_t>(at)] = true;
    --left_[lane];
    stepped_ |= 1U << lane;
    const auto size = taken_[lane].size();
    auto& oldest = oldest_[lane];
    while (static_cast<std::size_t>(oldest) < size &&
           taken_[lane][static_cast<std::size_t>(oldest)])
      ++oldest;
  }

  /// A zero times a column in a bank that is still free, on the way to what the lane takes next.
  GatherEntry nothing(int lane, bool first, unsigned& used) {
    int from = column_[lane];
    if (left_[lane] > 0) {
      const int next = column_at(lane, oldest_[lane]);
      from = first ? next : std::clamp(next, from, from + reach_.forth);
    }
    int free = 0;
    while ((used >> free & 1) != 0) ++free;
    used |= 1U << free;
    const int behind = (from - free) & (kBanks - 1);
    return {0, static_cast<std::uint16_t>(from < behind ? free : from - behind)};
  }

  Lists lists_;
  GatherReach reach_;
  std::array<std::vector<bool>, kHalf> taken_;
  std::array<int, kHalf> left_ = {}, oldest_ = {}, column_ = {};
  std::array<std::array<int, kBanks>, kHalf> candidates_ = {};  ///< kNone: none in the bank.
  std::array<int, kHalf> choices_ = {}, lane_of_ = {}, bank_of_ = {};
  unsigned stepped_ = 0;
};

}  // namespace

GatherOrder order_freely(const GatherRows& rows, int chunk_steps) {
  FreeOrder halves[2];
  for (int r = 0; r < kGatherRows; ++r)  // Taken from the back.
    for (auto entry = rows[r].rbegin(); entry != rows[r].rend(); ++entry)
      halves[r / kHalf].add(r % kHalf, *entry);
  const int count = in_chunks(std::max(halves[0].longest(), halves[1].longest()), chunk_steps);
  GatherOrder order;
  for (int h = 0; h < 2; ++h) {
    order.halves[h].resize(static_cast<std::size_t>(count));
    for (int i = 0; i < count; ++i)
      order.conflicts += halves[h].take(count - i, order.halves[h][static_cast<std::size_t>(i)]);
  }
  return order;
}

GatherOrder order_within_reach(const GatherRows& rows, int chunk_steps, GatherReach reach) {
  const int chunk = chunk_steps / 2;  // Steps of a lane.
  std::vector<ReachOrder> lanes;      // [half][even, odd]
  for (int half = 0; half < 2; ++half) {
    ReachOrder::Lists lists[2];
    for (int r = 0; r < kHalf; ++r) {
      const std::span<const GatherEntry> row = rows[half * kHalf + r];
      const std::size_t middle = (row.size() + static_cast<std::size_t>(r % 2)) / 2;
      lists[0][r] = row.first(middle);
      lists[1][r] = row.subspan(middle);
    }
    lanes.emplace_back(lists[0], reach);
    lanes.emplace_back(lists[1], reach);
  }
  int count = 0;
  for (const ReachOrder& lane : lanes) count = std::max(count, in_chunks(lane.longest(), chunk));
  GatherOrder order;
  // Where reach was too short for the steps that were counted, all take another chunk.
  for (int i = 0; i < count; ++i) {
    for (int h = 0; h < 2; ++h) order.halves[h].resize(2 * static_cast<std::size_t>(i + 1));
    for (int of = 0; of < 4; ++of)
      order.conflicts += lanes[static_cast<std::size_t>(of)].take(
          i % chunk == 0, count - i,
          order.halves[of / 2][static_cast<std::size_t>(2 * i + of % 2)]);
    for (const ReachOrder& lane : lanes)
      count = std::max(count, in_chunks(i + 1 + lane.longest(), chunk));
  }
  return order;
}

}  // namespace rarefy::gpu
