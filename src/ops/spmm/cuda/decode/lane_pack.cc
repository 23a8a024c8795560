#include "ops/spmm/cuda/decode/lane_pack.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <numeric>

#include "base/check.h"

namespace rarefy::gpu {
namespace {

constexpr int kLanes = 32;
constexpr int kHalves = 64;     // Half-columns: lane + 32 · (row ≥ 8).
constexpr int kMostRows = 255;  // A byte of the header.
constexpr int kSwapsAt = 6;     // In the header.
using Levels = std::array<int, kHalves>;

/// Where a position of a block lies: lane, half-column, and bit of the lane's mask byte.
struct Place {
  int lane, half, bit;
};

Place place_of(int row, int column, bool wide) {
  const int high = row / 8;
  const int lane = row % 8 * 4 + (wide ? column % 8 / 2 : column / 4);
  const int j = wide ? column / 8 * 2 + column % 2 : column % 4;
  return {lane, lane + kLanes * high, j / 2 * 4 + high * 2 + j % 2};
}

/// The byte of `fragment` and `lane` among the masks between two swaps.
std::size_t mask_at(const LaneConfig& config, int fragment, int lane) {
  const int whole = config.fragments() / 4;
  const int rest = config.fragments() % 4;
  const int within = fragment % 4;
  if (fragment / 4 < whole) return static_cast<std::size_t>(fragment / 4 * 128 + lane * 4 + within);
  const int base = whole * 128;
  if (rest == 1) return static_cast<std::size_t>(base + lane);
  if (within < 2) return static_cast<std::size_t>(base + lane * 2 + within);
  return static_cast<std::size_t>(base + 64 + lane);
}

/// The swap that keeps the levels closest: among all XORs of the half-columns' numbers, the one
/// that gives most values to those that are behind. Levels far ahead weigh more than their share.
int best_swap(const Levels& levels, const Levels& counts) {
  const int least = *std::min_element(levels.begin(), levels.end());
  Levels weight;
  for (int h = 0; h < kHalves; ++h) {
    const int ahead = levels[h] - least;
    weight[h] = ahead * (ahead + 6);
  }
  int best = 0;
  std::int64_t least_cost = std::numeric_limits<std::int64_t>::max();
  for (int swap = 0; swap < kHalves; ++swap) {
    std::int64_t cost = 0;
    for (int h = 0; h < kHalves; ++h) cost += std::int64_t{weight[h ^ swap]} * counts[h];
    if (cost < least_cost) {
      least_cost = cost;
      best = swap;
    }
  }
  return best;
}

/// One warp's stages, before their rows are placed in a ring.
struct Stream {
  std::vector<std::byte> slots;  ///< Headers and masks of all stages.
  std::vector<int> ends;         ///< Rows that stages up to this one need.
  std::vector<int> behind;       ///< Fewest rows used up by any half-column after a stage.
  std::array<std::vector<std::uint16_t>, kHalves> values;
  std::int64_t nonzeros = 0;

  /// Rows that must be in the ring at once: a stage is fetched when the one ahead begins.
  [[nodiscard]] int ring_rows() const {
    int most = 0;
    for (std::size_t s = 0; s < ends.size(); ++s) {
      const int used = s == 0 ? 0 : behind[s - 1];
      most = std::max(most, ends[std::min(s + 1, ends.size() - 1)] - used);
    }
    return most;
  }
};

/// Reads the nonzeros of a warp in the order in which its lanes meet them.
class StreamPacker {
 public:
  StreamPacker(const CsrMatrix& csr, const LaneConfig& config, const std::int32_t* strip_rows,
               std::int64_t first_block, std::int64_t stages)
      : csr_(csr), config_(config), strip_rows_(strip_rows), column_(first_block * 16) {
    stream_.slots.resize(static_cast<std::size_t>(stages * config.slot_bytes()));
    next_.assign(static_cast<std::size_t>(config.strips) * 16, 0);
    const auto* columns = csr.col_indices<std::uint32_t>();
    for_each_row([&](int index, std::int64_t row) {
      const auto* begin = columns + csr.row_offsets()[row];
      const auto* end = columns + csr.row_offsets()[row + 1];
      next_[static_cast<std::size_t>(index)] =
          std::lower_bound(begin, end, static_cast<std::uint32_t>(column_)) - columns;
    });
    for (std::int64_t s = 0; s < stages; ++s) pack_stage(s);
  }

  [[nodiscard]] Stream take() { return std::move(stream_); }

 private:
  template <class Body>
  void for_each_row(const Body& body) {
    for (int strip = 0; strip < config_.strips; ++strip) {
      if (strip_rows_[strip] < 0) continue;
      for (int r = 0; r < 16 && strip_rows_[strip] + r < csr_.rows(); ++r)
        body(strip * 16 + r, strip_rows_[strip] + r);
    }
  }

  void pack_stage(std::int64_t stage) {
    std::byte* slot = stream_.slots.data() + stage * config_.slot_bytes();
    for (int i = 0; i < config_.swaps(); ++i) {
      std::byte* masks = slot + LaneConfig::kHeaderBytes + i * config_.mask_bytes();
      for (auto& values : taken_) values.clear();
      for (int block = 0; block < config_.swap_blocks; ++block) {
        take_block(masks, block * config_.strips);
        column_ += 16;
      }
      Levels counts;
      for (int h = 0; h < kHalves; ++h) counts[h] = static_cast<int>(taken_[h].size());
      const int swap = best_swap(levels_, counts);
      slot[kSwapsAt + i] = static_cast<std::byte>(swap ^ swap_);  // From what it was.
      swap_ = swap;
      for (int h = 0; h < kHalves; ++h) {
        auto& column = stream_.values[h ^ swap];
        column.insert(column.end(), taken_[h].begin(), taken_[h].end());
        levels_[h ^ swap] += counts[h];
      }
    }
    stream_.ends.push_back(*std::max_element(levels_.begin(), levels_.end()));
    stream_.behind.push_back(*std::min_element(levels_.begin(), levels_.end()));
  }

  /// The nonzeros of a block of columns, whose strips are the fragments from `first` on.
  void take_block(std::byte* masks, int first) {
    const auto* columns = csr_.col_indices<std::uint32_t>();
    const auto* values = static_cast<const std::uint16_t*>(csr_.values());
    for_each_row([&](int index, std::int64_t row) {
      std::int64_t& at = next_[static_cast<std::size_t>(index)];
      const std::int64_t end = csr_.row_offsets()[row + 1];
      for (; at < end && columns[at] < column_ + 16; ++at) {
        const Place p = place_of(index % 16, static_cast<int>(columns[at] - column_), config_.wide);
        masks[mask_at(config_, first + index / 16, p.lane)] |= static_cast<std::byte>(1 << p.bit);
        taken_[p.half].push_back(values[at]);
        ++stream_.nonzeros;
      }
    });
  }

  const CsrMatrix& csr_;
  const LaneConfig& config_;
  const std::int32_t* strip_rows_;
  std::int64_t column_;
  std::vector<std::int64_t> next_;  ///< Of each row: its next nonzero.
  std::array<std::vector<std::uint16_t>, kHalves> taken_;
  Levels levels_{};
  int swap_ = 0;
  Stream stream_;
};

/// How the rows of a stage meet a ring's end: the fields of the header.
struct Copies {
  int first = 0, to = 0, again = 0, again_to = 0, again_from = 0, rows = 0;

  [[nodiscard]] std::array<std::byte, kSwapsAt> bytes() const {
    return {static_cast<std::byte>(first),      static_cast<std::byte>(to),
            static_cast<std::byte>(again),      static_cast<std::byte>(again_to),
            static_cast<std::byte>(again_from), static_cast<std::byte>(rows)};
  }
};

Copies place_rows(int rows, int at, int ring_rows, int mirror) {
  Copies c{.first = std::min(rows, ring_rows + mirror - at), .to = at, .rows = rows};
  if (at + rows > ring_rows) {  // Wraps: what is past the end also belongs at the beginning.
    c.again = at + rows - ring_rows;
    c.again_from = ring_rows - at;
  } else if (at < mirror) {  // At the beginning: once more behind the end.
    c.again = std::min(mirror, at + rows) - at;
    c.again_to = ring_rows + at;
  }
  return c;
}

/// The i-th card dealt to `count` players, back and forth: its round, and whose it is.
std::pair<std::int64_t, std::int64_t> back_and_forth(std::int64_t i, std::int64_t count) {
  const std::int64_t round = i / count;
  return {round, round % 2 == 0 ? i % count : count - 1 - i % count};
}

/// Deals strips to row tiles, those with most nonzeros first and back and forth, so that every tile
/// gets its share of both, and those of a tile to its warps in the same way.
std::vector<std::int32_t> deal_strips(const CsrMatrix& csr, const LaneConfig& config) {
  const std::int64_t strips = (csr.rows() + 15) / 16;
  const std::int64_t groups = config.groups();
  if (strips > groups * config.strips)
    fail(ErrorKind::kInternal, "lane: {} groups of {} strips do not hold {} rows", groups,
         config.strips, csr.rows());
  std::vector<std::int64_t> order(static_cast<std::size_t>(strips));
  std::iota(order.begin(), order.end(), 0);
  const auto nonzeros = [&](std::int64_t strip) {
    return csr.row_offsets()[std::min(csr.rows(), strip * 16 + 16)] - csr.row_offsets()[strip * 16];
  };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return nonzeros(a) > nonzeros(b); });
  std::vector<std::int32_t> rows(static_cast<std::size_t>(groups * config.strips), -1);
  for (std::int64_t i = 0; i < strips; ++i) {
    const auto [round, tile] = back_and_forth(i, config.row_tiles);
    const auto [strip, warp] = back_and_forth(round, config.row_warps);
    const std::int64_t group = tile * config.row_warps + warp;
    rows[static_cast<std::size_t>(group * config.strips + strip)] =
        static_cast<std::int32_t>(order[static_cast<std::size_t>(i)] * 16);
  }
  return rows;
}

/// Writes a stream's stages one after the other; returns how its first rows are placed.
Copies write_stream(const Stream& stream, const LaneConfig& config, int ring_rows, std::byte* to) {
  Copies first;
  int at = 0;
  int begin = 0;
  std::byte* header = nullptr;  // Of the stage before.
  for (std::size_t s = 0; s < stream.ends.size(); ++s) {
    const int rows = stream.ends[s] - begin;
    const Copies copies = place_rows(rows, at, ring_rows, config.mirror_rows());
    if (s == 0) {
      first = copies;
    } else {
      const auto bytes = copies.bytes();
      std::memcpy(header, bytes.data(), bytes.size());
    }
    at = at + rows >= ring_rows ? at + rows - ring_rows : at + rows;
    header = to;
    std::memcpy(to, stream.slots.data() + s * static_cast<std::size_t>(config.slot_bytes()),
                static_cast<std::size_t>(config.slot_bytes()));
    to += config.slot_bytes();
    for (int level = begin; level < stream.ends[s]; ++level, to += LaneConfig::kRowBytes) {
      for (int h = 0; h < kHalves; ++h) {
        const auto& column = stream.values[static_cast<std::size_t>(h)];
        const std::uint16_t value = static_cast<std::size_t>(level) < column.size()
                                        ? column[static_cast<std::size_t>(level)]
                                        : std::uint16_t{0};
        std::memcpy(to + h % kLanes * 4 + h / kLanes * 2, &value, sizeof value);
      }
    }
    begin = stream.ends[s];
  }
  return first;
}

}  // namespace

LaneArrays pack_lane(const CsrMatrix& csr, const LaneConfig& config, ThreadPool& pool) {
  LaneArrays arrays;
  arrays.strip_rows = deal_strips(csr, config);
  const std::int64_t columns = LaneConfig::kBlockColumns * std::int64_t{config.blocks};
  const std::int64_t stages = (csr.cols() + columns - 1) / columns;
  const std::int64_t parts = std::int64_t{config.split} * config.k_warps;
  const std::int64_t count = std::int64_t{config.row_tiles} * config.split * config.warps();
  std::vector<Stream> streams(static_cast<std::size_t>(count));
  arrays.works.resize(static_cast<std::size_t>(count));
  pool.parallel_dynamic(count, 1, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t i = from; i < to; ++i) {
      const std::int64_t warp = i % config.warps();
      const std::int64_t block = i / config.warps();
      const std::int64_t group =
          block / config.split * config.row_warps + config.row_warp(static_cast<int>(warp));
      const std::int64_t part =
          block % config.split * config.k_warps + config.k_warp(static_cast<int>(warp));
      const std::int64_t begin = stages * part / parts;
      const std::int64_t end = stages * (part + 1) / parts;
      const auto at = static_cast<std::size_t>(i);
      const std::int32_t* first = arrays.strip_rows.data() + group * config.strips;
      streams[at] = StreamPacker(csr, config, first, begin * config.blocks, end - begin).take();
      arrays.works[at].stages = static_cast<std::uint32_t>(end - begin);
      arrays.works[at].block = static_cast<std::uint32_t>(begin * config.blocks);
      arrays.works[at].strips = static_cast<std::uint32_t>(
          std::count_if(first, first + config.strips, [](std::int32_t row) { return row >= 0; }));
    }
  });
  std::uint64_t bytes = 0;
  // A ring must hold what wraps around it once, and its mirror must lie within it.
  arrays.ring_rows = config.mirror_rows();
  for (std::size_t i = 0; i < streams.size(); ++i) {
    const Stream& stream = streams[i];
    arrays.works[i].offset = bytes;
    const std::uint64_t rows =
        stream.ends.empty() ? 0 : static_cast<std::uint64_t>(stream.ends.back());
    bytes += (stream.slots.size() + rows * LaneConfig::kRowBytes + 127) / 128 * 128;
    arrays.ring_rows = std::max(arrays.ring_rows, stream.ring_rows());
    arrays.nonzeros += stream.nonzeros;
  }
  if (arrays.ring_rows + config.mirror_rows() > kMostRows)
    fail(ErrorKind::kUnsupported, "{}: needs a ring of {} rows, has at most {}", config.name(),
         arrays.ring_rows, kMostRows - config.mirror_rows());
  arrays.stream.resize(bytes);
  pool.parallel_dynamic(count, 1, [&](std::int64_t from, std::int64_t to) {
    for (std::int64_t i = from; i < to; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const auto first = write_stream(streams[at], config, arrays.ring_rows,
                                      arrays.stream.data() + arrays.works[at].offset)
                             .bytes();
      std::memcpy(arrays.works[at].copies, first.data(), first.size());
      streams[at] = {};
    }
  });
  return arrays;
}

}  // namespace rarefy::gpu
