#include "ops/spmm/cuda/sliced/pack.h"

#include <algorithm>
#include <array>
#include <limits>

#include "base/check.h"

namespace rarefy::gpu {
namespace {

constexpr int kUnit = 8;   // Lanes whose gathers are served together.
constexpr int kBatch = 4;  // Nonzeros that a lane loads at once.
constexpr std::uint16_t kNoSlot = 0xFFFF;

/// Nonzeros [begin, begin + count) of the CSR.
struct Item {
  std::int64_t begin = 0, count = 0;
  std::uint16_t slot = kNoSlot;
};

std::uint32_t place_of(std::uint32_t row) {
  return row ^ (row >> 3 & 7);
}

std::size_t index(int i) {
  return static_cast<std::size_t>(i);
}

/// What eight lanes visit, step by step: a nonzero of the CSR, or -1 - (a residue that is free).
///
/// A step takes as many cycles of shared memory as its commonest residue has places, so at each
/// step a place of every residue is picked, of the fullest first, and of the item that has most
/// left. An item that would otherwise not be done in time takes further places, of the rarest
/// residue of the step: what one residue has too much of costs a cycle each, but no step.
class UnitSchedule {
 public:
  /// Takes every `stride`th nonzero of a residue from `offset` on of items that fill the lanes in
  /// order, `lanes` each (at most 8).
  void collect(const std::uint32_t* columns, std::uint32_t first_column,
               std::span<const Item> items, int stride, int offset, int lanes) {
    items_ = static_cast<int>(items.size());
    lanes_ = lanes;
    left_of_residue_.fill(0);
    left_of_item_.fill(0);
    for (auto& bin : bins_) bin.clear();
    for (int i = 0; i < items_; ++i) {
      const Item& item = items[index(i)];
      std::array<int, kUnit> seen{0, 1, 2, 3, 4, 5, 6, 7};  // Residues start with different units.
      for (std::int64_t j = item.begin; j < item.begin + item.count; ++j) {
        const auto residue = static_cast<int>(place_of(columns[j] - first_column) % kUnit);
        if (seen[index(residue)]++ % stride != offset) continue;
        bins_[index(i * kUnit + residue)].push_back(j);
        ++left_of_residue_[index(residue)];
        ++left_of_item_[index(i)];
      }
    }
  }

  /// Steps that the longest item needs.
  [[nodiscard]] std::int64_t least_steps() const {
    return (*std::max_element(left_of_item_.begin(), left_of_item_.end()) + lanes_ - 1) / lanes_;
  }

  /// Orders what was collected into `count` steps, at least `least_steps()`.
  void make(std::int64_t count) {
    steps_.resize(static_cast<std::size_t>(count));
    for (std::int64_t t = 0; t < count; ++t) {
      places_of_residue_.fill(0);
      taken_.fill(0);
      std::array<std::int64_t, kUnit>& step = steps_[static_cast<std::size_t>(t)];
      pick_one_of_each_residue(step);
      for (int i = 0; i < items_; ++i) {
        const std::int64_t later = (count - t - 1) * lanes_;
        while (left_of_item_[index(i)] > later) take(step, i, rarest_residue(i));
      }
      idle(step);
    }
  }
  [[nodiscard]] const std::vector<std::array<std::int64_t, kUnit>>& steps() const { return steps_; }

 private:
  using Step = std::array<std::int64_t, kUnit>;

  void pick_one_of_each_residue(Step& step) {
    std::array<int, kUnit> order{0, 1, 2, 3, 4, 5, 6, 7};
    std::sort(order.begin(), order.end(), [&](int a, int b) {
      return left_of_residue_[index(a)] > left_of_residue_[index(b)];
    });
    for (const int residue : order) {
      if (left_of_residue_[index(residue)] == 0) break;
      int best = -1;
      for (int i = 0; i < items_; ++i) {
        if (taken_[index(i)] < lanes_ && !bins_[index(i * kUnit + residue)].empty() &&
            (best < 0 || left_of_item_[index(i)] > left_of_item_[index(best)]))
          best = i;
      }
      if (best >= 0) take(step, best, residue);
    }
  }

  /// Of those that the item has, the one with the fewest places in this step; of these the fullest.
  [[nodiscard]] int rarest_residue(int item) const {
    int best = -1;
    for (int r = 0; r < kUnit; ++r) {
      if (bins_[index(item * kUnit + r)].empty()) continue;
      const auto key = [&](int x) {
        return std::pair(places_of_residue_[index(x)], -left_of_residue_[index(x)]);
      };
      if (best < 0 || key(r) < key(best)) best = r;
    }
    return best;
  }

  void take(Step& step, int item, int residue) {
    std::vector<std::int64_t>& from = bins_[index(item * kUnit + residue)];
    step[index(item * lanes_ + taken_[index(item)]++)] = from.back();
    from.pop_back();
    ++places_of_residue_[index(residue)];
    --left_of_item_[index(item)];
    --left_of_residue_[index(residue)];
  }

  void idle(Step& step) {
    int free = 0;
    for (int i = 0; i < kUnit / lanes_; ++i) {
      for (int lane = i < items_ ? taken_[index(i)] : 0; lane < lanes_; ++lane) {
        while (places_of_residue_[index(free)] > 0) ++free;
        step[index(i * lanes_ + lane)] = -1 - free++;
      }
    }
  }

  std::array<std::vector<std::int64_t>, kUnit * kUnit> bins_;
  std::array<std::int64_t, kUnit> left_of_residue_{}, left_of_item_{};
  std::array<int, kUnit> places_of_residue_{}, taken_{};
  int items_ = 0, lanes_ = 1;
  std::vector<Step> steps_;
};

/// What one range packs to, with its own numbering of slices and batches.
struct PackedRange {
  std::vector<std::uint32_t> streams, lengths;  ///< Slices of each warp; batches of each slice.
  std::vector<std::uint16_t> slots;
  std::vector<SliceFold> folds;
  std::vector<std::uint32_t> extra_rows;
  std::vector<std::byte> batches;
  std::int64_t slot_count = 0;
};

class RangePacker {
 public:
  RangePacker(const CsrMatrix& csr, const SliceSpec& spec) : csr_(csr), spec_(spec) {}

  PackedRange pack(std::int64_t begin, std::int64_t end) {
    PackedRange range;
    reserve_pieces(begin, end, range);
    for (int part = 0; part < spec_.parts; ++part) {
      const std::vector<Item> items = items_of(begin, end, part);
      pack_part(items, static_cast<std::uint32_t>(part * spec_.part), range);
    }
    return range;
  }

 private:
  [[nodiscard]] std::int64_t pieces(std::int64_t count) const {
    return std::max<std::int64_t>(1, (count + spec_.longest - 1) / spec_.longest);
  }

  /// Slots for the pieces of long rows, as many as the row has without regard to parts.
  void reserve_pieces(std::int64_t begin, std::int64_t end, PackedRange& range) {
    range.slot_count = end - begin;
    extra_.assign(static_cast<std::size_t>(end - begin), 0);
    for (std::int64_t r = begin; r < end; ++r) {
      const std::int64_t more = pieces(csr_.row_offsets()[r + 1] - csr_.row_offsets()[r]) - 1;
      if (more == 0) continue;
      if (range.slot_count + more >= kNoSlot) fail_slots();
      extra_[static_cast<std::size_t>(r - begin)] = static_cast<std::uint16_t>(range.slot_count);
      range.folds.push_back({static_cast<std::uint16_t>(r - begin),
                             static_cast<std::uint16_t>(range.slot_count),
                             static_cast<std::uint16_t>(more), 0});
      range.slot_count += more;
      range.extra_rows.insert(range.extra_rows.end(), static_cast<std::size_t>(more),
                              static_cast<std::uint32_t>(r));
    }
    if (range.slot_count >= kNoSlot) fail_slots();
  }
  [[noreturn]] static void fail_slots() {
    fail(ErrorKind::kUnsupported, "sliced: expected fewer than {} rows and pieces a range",
         kNoSlot);
  }

  std::vector<Item> items_of(std::int64_t begin, std::int64_t end, int part) {
    const auto* columns = csr_.col_indices<std::uint32_t>();
    const auto low = static_cast<std::uint32_t>(part * spec_.part);
    const auto high = static_cast<std::uint32_t>((part + 1) * spec_.part);
    std::vector<Item> items;
    for (std::int64_t r = begin; r < end; ++r) {
      const std::uint32_t* from = columns + csr_.row_offsets()[r];
      const std::uint32_t* to = columns + csr_.row_offsets()[r + 1];
      if (spec_.parts > 1) {
        from = std::lower_bound(from, to, low);
        to = std::lower_bound(from, to, high);
      }
      const std::int64_t count = to - from;
      const std::int64_t cuts = pieces(count);
      for (std::int64_t i = 0; i < cuts && count > 0; ++i) {
        const std::int64_t first = count * i / cuts;
        const auto row = static_cast<std::uint16_t>(r - begin);
        items.push_back({from - columns + first, count * (i + 1) / cuts - first,
                         i == 0 ? row : static_cast<std::uint16_t>(extra_[row] + i - 1)});
      }
    }
    std::stable_sort(items.begin(), items.end(),
                     [](const Item& a, const Item& b) { return a.count > b.count; });
    if (spec_.lanes < kUnit) balance(items, low);
    return items;
  }

  /// Reorders the items of every slice so that those of eight lanes together have as many places of
  /// every residue: each takes, of those left, the one that keeps the fullest residue lowest over
  /// the mean.
  void balance(std::vector<Item>& items, std::uint32_t first_column) {
    const auto* columns = csr_.col_indices<std::uint32_t>();
    std::vector<std::array<std::int64_t, kUnit>> counts(items.size());
    for (std::size_t i = 0; i < items.size(); ++i) {
      for (std::int64_t j = items[i].begin; j < items[i].begin + items[i].count; ++j)
        ++counts[i][place_of(columns[j] - first_column) % kUnit];
    }
    const std::size_t together = index(kUnit / spec_.lanes);
    const std::size_t per_slice = index(32 / spec_.lanes);
    std::array<std::int64_t, kUnit> sum{};
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (i % together == 0) sum.fill(0);
      const std::size_t end = std::min(items.size(), i / per_slice * per_slice + per_slice);
      std::size_t best = i;
      std::int64_t best_excess = std::numeric_limits<std::int64_t>::max();
      for (std::size_t c = i; c < end && i % together != 0; ++c) {
        std::int64_t fullest = 0;
        std::int64_t total = 0;
        for (std::size_t r = 0; r < kUnit; ++r) {
          fullest = std::max(fullest, sum[r] + counts[c][r]);
          total += sum[r] + counts[c][r];
        }
        if (fullest * kUnit - total >= best_excess) continue;
        best_excess = fullest * kUnit - total;
        best = c;
      }
      std::swap(items[i], items[best]);
      std::swap(counts[i], counts[best]);
      for (std::size_t r = 0; r < kUnit; ++r) sum[r] += counts[i][r];
    }
  }

  void pack_part(const std::vector<Item>& items, std::uint32_t first_column, PackedRange& range) {
    const auto per_slice = static_cast<std::size_t>(32 / spec_.lanes);
    const std::size_t slices = (items.size() + per_slice - 1) / per_slice;
    const auto warps = static_cast<std::size_t>(spec_.warps);
    for (std::size_t warp = 0; warp < warps; ++warp) {
      range.streams.push_back(static_cast<std::uint32_t>(range.lengths.size()));
      // Slices fall in length: to and fro, every warp gets as much.
      for (std::size_t round = 0; round * warps < slices; ++round) {
        const std::size_t s = round * warps + (round % 2 == 0 ? warp : warps - 1 - warp);
        if (s < slices)
          pack_slice(std::span(items).subspan(s * per_slice,
                                              std::min(per_slice, items.size() - s * per_slice)),
                     first_column, range);
      }
    }
  }

  void pack_slice(std::span<const Item> items, std::uint32_t first_column, PackedRange& range) {
    const auto* columns = csr_.col_indices<std::uint32_t>();
    const int lanes = std::min(spec_.lanes, kUnit);
    const int units_an_item = std::max(1, spec_.lanes / kUnit);
    const auto items_a_unit = static_cast<std::size_t>(std::max(1, kUnit / spec_.lanes));
    std::int64_t steps = 0;
    for (int unit = 0; unit < 4; ++unit) {
      const std::size_t first = index(unit / units_an_item) * items_a_unit;
      const std::span<const Item> mine =
          first < items.size() ? items.subspan(first, std::min(items_a_unit, items.size() - first))
                               : std::span<const Item>();
      units_[index(unit)].collect(columns, first_column, mine, units_an_item, unit % units_an_item,
                                  lanes);
      steps = std::max(steps, units_[index(unit)].least_steps());
    }
    const auto batches = static_cast<std::size_t>((steps + kBatch - 1) / kBatch);
    for (UnitSchedule& unit : units_) unit.make(static_cast<std::int64_t>(batches) * kBatch);
    for (std::size_t i = 0; i < static_cast<std::size_t>(32 / spec_.lanes); ++i)
      range.slots.push_back(i < items.size() ? items[i].slot : kNoSlot);
    range.lengths.push_back(static_cast<std::uint32_t>(batches));
    if (size_of(csr_.dtype()) == 4) {
      emit<std::uint32_t>(batches, first_column, range);
    } else {
      emit<std::uint16_t>(batches, first_column, range);
    }
  }

  template <class Bits>
  void emit(std::size_t batches, std::uint32_t first_column, PackedRange& range) {
    const auto* columns = csr_.col_indices<std::uint32_t>();
    const auto* from = static_cast<const Bits*>(csr_.values());
    constexpr std::size_t kPlaces = 32 * kBatch * sizeof(std::uint16_t);
    constexpr std::size_t kBytes = kPlaces + 32 * kBatch * sizeof(Bits);
    const std::size_t at = range.batches.size();
    range.batches.resize(at + batches * kBytes);
    for (std::size_t batch = 0; batch < batches; ++batch) {
      std::byte* const to = range.batches.data() + at + batch * kBytes;
      auto* place = reinterpret_cast<std::uint16_t*>(to);
      auto* value = reinterpret_cast<Bits*>(to + kPlaces);
      for (std::size_t lane = 0; lane < 32; ++lane) {
        const auto& steps = units_[lane / kUnit].steps();
        for (std::size_t i = 0; i < kBatch; ++i) {
          const std::int64_t j = steps[batch * kBatch + i][lane % kUnit];
          *place++ = static_cast<std::uint16_t>(j >= 0 ? place_of(columns[j] - first_column)
                                                       : spec_.part + (-1 - j));
          *value++ = j >= 0 ? from[j] : Bits{};
        }
      }
    }
  }

  const CsrMatrix& csr_;
  const SliceSpec& spec_;
  std::vector<std::uint16_t> extra_;  // Of each row, the slot of its second piece.
  std::array<UnitSchedule, 4> units_;
};

template <class T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

}  // namespace

std::vector<std::uint32_t> split_rows(std::span<const std::int32_t> row_nnz, std::int64_t ranges) {
  const auto rows = static_cast<std::int64_t>(row_nnz.size());
  std::int64_t nnz = 0;
  for (const std::int32_t count : row_nnz) nnz += count;
  const double row_cost =
      0.5 * static_cast<double>(nnz) / static_cast<double>(std::max(rows, std::int64_t{1})) + 0.5;
  const double total = static_cast<double>(nnz) + row_cost * static_cast<double>(rows);
  std::vector<std::uint32_t> begins{0};
  double cost = 0;
  for (std::int64_t r = 0; r < rows; ++r) {
    const double share = static_cast<double>(begins.size()) * total / static_cast<double>(ranges);
    const double with = cost + row_cost + row_nnz[static_cast<std::size_t>(r)];
    // The row goes to whichever range ends closer to its share.
    if (static_cast<std::int64_t>(begins.size()) < ranges && with > share &&
        with - share > share - cost)
      begins.push_back(static_cast<std::uint32_t>(r));
    cost = with;
  }
  begins.resize(static_cast<std::size_t>(ranges) + 1, static_cast<std::uint32_t>(rows));
  return begins;
}

std::int64_t most_slots(std::span<const std::int32_t> row_nnz, std::span<const std::uint32_t> rows,
                        std::int64_t longest) {
  std::int64_t most = 0;
  for (std::size_t i = 0; i + 1 < rows.size(); ++i) {
    std::int64_t slots = 0;
    for (std::uint32_t r = rows[i]; r < rows[i + 1]; ++r)
      slots += std::max<std::int64_t>(1, (row_nnz[r] + longest - 1) / longest);
    most = std::max(most, slots);
  }
  return most;
}

SlicedArrays pack_sliced(const CsrMatrix& csr, std::vector<std::uint32_t> rows,
                         const SliceSpec& spec, ThreadPool& pool) {
  const std::size_t ranges = rows.size() - 1;
  std::vector<PackedRange> packed(ranges);
  pool.parallel_dynamic(static_cast<std::int64_t>(ranges), 1,
                        [&](std::int64_t begin, std::int64_t end) {
                          RangePacker packer(csr, spec);
                          for (std::int64_t i = begin; i < end; ++i) {
                            const auto at = static_cast<std::size_t>(i);
                            packed[at] = packer.pack(rows[at], rows[at + 1]);
                          }
                        });
  SlicedArrays arrays;
  arrays.rows = std::move(rows);
  arrays.slices.push_back(0);
  arrays.fold_begin.push_back(0);
  arrays.extra_begin.push_back(0);
  std::uint64_t batches = 0;
  for (const PackedRange& range : packed) {
    const auto first = static_cast<std::uint32_t>(arrays.slices.size() - 1);
    for (const std::uint32_t stream : range.streams)
      arrays.streams.push_back({.slice = first + stream});
    for (const std::uint32_t count : range.lengths) {
      batches += count;
      arrays.slices.push_back(static_cast<std::uint32_t>(batches));
    }
    if (batches > std::numeric_limits<std::uint32_t>::max())
      fail(ErrorKind::kUnsupported, "sliced: {} nonzeros are too many", csr.entries());
    append(arrays.slots, range.slots);
    append(arrays.batches, range.batches);
    append(arrays.folds, range.folds);
    append(arrays.extra_rows, range.extra_rows);
    arrays.extra_begin.push_back(static_cast<std::uint32_t>(arrays.extra_rows.size()));
    arrays.fold_begin.push_back(static_cast<std::uint32_t>(arrays.folds.size()));
    arrays.most_slots = std::max(arrays.most_slots, range.slot_count);
  }
  arrays.streams.push_back({.slice = static_cast<std::uint32_t>(arrays.slices.size() - 1)});
  for (std::size_t i = 0; i + 1 < arrays.streams.size(); ++i) {
    arrays.streams[i].begin = arrays.slices[arrays.streams[i].slice];
    arrays.streams[i].end = arrays.slices[arrays.streams[i + 1].slice];
  }
  return arrays;
}

}  // namespace rarefy::gpu
