#include "ops/spmm/cuda/gather/gather_pack.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <span>
#include <utility>

#include "base/check.h"
#include "ops/spmm/cuda/gather/gather_order.h"
#include "ops/spmm/cuda/gather/gather_strips.h"
#include "ops/spmm/cuda/row_groups.h"

namespace rarefy::gpu {
namespace {

constexpr int kLanes = 32;
/// Short steps leave an order little to choose from: strips that 16 runs fill to the last step
/// nearly all take a chunk more, those with so many to spare seldom.
constexpr int kSpareShortSteps = 3;

/// Where column `i` of a block lies in shared memory (stage_activations).
std::uint32_t place_of(std::int64_t i) {
  return static_cast<std::uint32_t>(i ^ (i >> 3 & 7));
}

/// The rows of a CSR between two columns.
class Columns {
 public:
  Columns(const CsrMatrix& csr, std::int64_t begin, std::int64_t end)
      : offsets_(csr.row_offsets()),
        columns_(csr.col_indices<std::uint32_t>()),
        values_(static_cast<const std::uint16_t*>(csr.values())),
        begin_(begin),
        end_(end) {}

  struct Range {
    std::int64_t first, last;
  };
  [[nodiscard]] Range of_row(std::int64_t row) const {
    const auto from = columns_ + offsets_[row], to = columns_ + offsets_[row + 1];
    return {std::lower_bound(from, to, static_cast<std::uint32_t>(begin_)) - columns_,
            std::lower_bound(from, to, static_cast<std::uint32_t>(end_)) - columns_};
  }
  /// The steps that a row takes: a nonzero each, and zeros where the next is out of reach.
  [[nodiscard]] std::int64_t steps(Range range, GatherReach reach) const {
    std::int64_t steps = range.last - range.first;
    if (reach.forth > 0)
      for (std::int64_t at = range.first + 1; at < range.last; ++at)
        steps += (columns_[at] - columns_[at - 1] - 1) / static_cast<std::uint32_t>(reach.forth);
    return steps;
  }
  [[nodiscard]] GatherEntry entry(std::int64_t at) const {
    return {values_[at], static_cast<std::uint16_t>(place_of(columns_[at] - begin_))};
  }

 private:
  const std::int64_t* offsets_;
  const std::uint32_t* columns_;
  const std::uint16_t* values_;
  std::int64_t begin_, end_;
};

/// The steps of a chunk, from `first` on, as its lanes hold them.
class Chunk {
 public:
  Chunk(const GatherOrder& order, std::size_t first) : order_(order), first_(first) {}

  [[nodiscard]] std::uint16_t value(int lane, int pair) const {
    const int e = lane % 4 ^ lane / 8;
    return step(e % 2, pair * 2 + e / 2)[static_cast<std::size_t>(lane) / 4].value;
  }
  [[nodiscard]] std::uint16_t column(int lane, int pair) const {
    const int q = lane / 8;
    return step(q % 2, pair * 2 + q / 2)[static_cast<std::size_t>(lane % 8 ^ 2 * q)].column;
  }

 private:
  [[nodiscard]] const GatherStep& step(int half, int i) const {
    return order_.halves[half][first_ + static_cast<std::size_t>(i)];
  }

  const GatherOrder& order_;
  std::size_t first_;
};

/// A word a nonzero.
void write_words(const Chunk& chunk, std::uint32_t* words) {
  for (int lane = 0; lane < kLanes; ++lane)
    for (int pair = 0; pair < 4; ++pair)
      words[lane * 4 + pair] =
          std::uint32_t{chunk.column(lane, pair)} << 16 | chunk.value(lane, pair);
}

/// Eight values a lane, then the lanes' columns: the first, and seven steps of `bits`.
void write_deltas(const Chunk& chunk, int bits, std::uint32_t* words) {
  const int back = gather_reach(bits).back;
  for (int lane = 0; lane < kLanes; ++lane) {
    for (int pair = 0; pair < 8; pair += 2)
      words[lane * 4 + pair / 2] =
          std::uint32_t{chunk.value(lane, pair + 1)} << 16 | chunk.value(lane, pair);
    const std::uint32_t first = chunk.column(lane, 0);
    if (first >> 15 != 0) fail(ErrorKind::kInternal, "gather: column {} of a block", first);
    std::array<std::uint32_t, 8> step = {};
    for (int pair = 1; pair < 8; ++pair) {
      step[pair] = static_cast<std::uint32_t>(chunk.column(lane, pair) -
                                              chunk.column(lane, pair - 1) + back);
      if (step[pair] >> bits != 0)
        fail(ErrorKind::kInternal, "gather: a step from column {} to {}",
             chunk.column(lane, pair - 1), chunk.column(lane, pair));
    }
    std::uint32_t* const columns = words + kLanes * 4 + lane * 2;
    if (bits == 7) {
      columns[0] = step[1] | step[2] << 7 | step[3] << 14 | step[4] << 21 | first << 28;
      columns[1] = step[5] | step[6] << 7 | step[7] << 14 | first >> 4 << 21;
    } else {
      columns[0] = step[1] | step[2] << 11 | first << 22;
      columns[1] = step[3] | step[4] << 11 | first >> 10 << 22 | step[7] << 27;
      words[kLanes * 6 + lane] = step[5] | step[6] << 11 | step[7] >> 5 << 22;
    }
  }
}

/// Cuts the chunks of a block into parts for its warps. A warp's part of a strip is a piece; the
/// pieces of a block are numbered, so that those of a strip follow each other.
void cut(std::uint64_t first, GatherStrip* strips, int strip_count, GatherWarp* warps,
         int warp_count) {
  std::uint64_t total = 0;
  for (int s = 0; s < strip_count; ++s) total += strips[s].chunks;
  int strip = 0;
  std::uint64_t strip_begin = 0;
  std::uint32_t slot = 0;
  for (int w = 0; w < warp_count; ++w) {
    const auto part = [&](int i) {
      return total * static_cast<std::uint64_t>(i) / static_cast<std::uint64_t>(warp_count);
    };
    const std::uint64_t begin = part(w), end = part(w + 1);
    warps[w].first = first + begin;
    warps[w].chunks = static_cast<std::uint32_t>(end - begin);
    warps[w].slot = slot;
    if (begin == end) continue;
    while (strip_begin + strips[strip].chunks <= begin) strip_begin += strips[strip++].chunks;
    warps[w].strip = static_cast<std::uint32_t>(strip);
    warps[w].left = static_cast<std::uint32_t>(strip_begin + strips[strip].chunks - begin);
    std::uint64_t at = strip_begin;
    for (int s = strip; s < strip_count && at < end; at += strips[s++].chunks) {
      if (strips[s].chunks == 0) continue;
      if (strips[s].slots++ == 0) strips[s].first_slot = static_cast<std::uint16_t>(slot);
      ++slot;
    }
  }
}

/// A block on its own.
struct PackedBlock {
  std::vector<GatherRun> runs;        ///< [strip][16]
  std::vector<std::uint32_t> chunks;  ///< Of each strip.
  std::vector<std::uint32_t> stream;
  std::int64_t nonzeros = 0, conflicts = 0;
};

/// @param groups of the block's tile
PackedBlock pack_block(const CsrMatrix& csr, const Columns& columns,
                       std::span<const std::int32_t> groups, const GatherConfig& config) {
  constexpr auto kRows = static_cast<std::size_t>(GatherConfig::kStripRows);
  const auto chunk_words = static_cast<std::size_t>(config.chunk_bytes()) / 4;
  const auto chunk_steps = static_cast<std::size_t>(config.chunk_steps());
  std::vector<Columns::Range> ranges(groups.size() * kRows, {0, 0});
  std::vector<std::int32_t> lengths(ranges.size());
  for (std::size_t p = 0; p < ranges.size(); ++p) {
    const std::int32_t group = groups[p / kRows];
    const std::int64_t row = group + static_cast<std::int64_t>(p % kRows);
    if (group >= 0 && row < csr.rows()) ranges[p] = columns.of_row(row);
    lengths[p] = static_cast<std::int32_t>(columns.steps(ranges[p], gather_reach(config.delta)));
  }
  PackedBlock block;
  block.runs = make_strips(lengths, {.chunk_steps = config.chunk_steps(),
                                     .spare_steps = config.delta == 7 ? kSpareShortSteps : 0,
                                     .most_strips = config.most_strips});
  for (std::size_t strip = 0; strip < block.runs.size(); strip += kRows) {
    GatherRows nonzeros;
    for (std::size_t r = 0; r < kRows; ++r) {
      const GatherRun& run = block.runs[strip + r];
      if (run.row < 0) continue;
      const auto row = static_cast<std::size_t>(run.row);
      // Of a row's nonzeros, the share of its steps.
      const auto begin = [&](std::int64_t step) {
        const std::int64_t count = ranges[row].last - ranges[row].first;
        return ranges[row].first + (count > 0 ? step * count / lengths[row] : 0);
      };
      const std::int64_t last = begin(std::int64_t{run.first} + run.steps);
      for (std::int64_t at = begin(run.first); at < last; ++at)
        nonzeros[r].push_back(columns.entry(at));
      block.nonzeros += static_cast<std::int64_t>(nonzeros[r].size());
      if (config.delta > 0)  // Columns of a group of eight have changed places.
        std::sort(nonzeros[r].begin(), nonzeros[r].end(),
                  [](GatherEntry a, GatherEntry b) { return a.column < b.column; });
    }
    const GatherOrder order = config.delta > 0 ? order_within_reach(nonzeros, config.chunk_steps(),
                                                                    gather_reach(config.delta))
                                               : order_freely(nonzeros, config.chunk_steps());
    block.conflicts += order.conflicts;
    const std::size_t chunks = order.halves[0].size() / chunk_steps;
    block.chunks.push_back(static_cast<std::uint32_t>(chunks));
    const std::size_t before = block.stream.size();
    block.stream.resize(before + chunks * chunk_words);
    for (std::size_t c = 0; c < chunks; ++c) {
      const Chunk chunk(order, c * chunk_steps);
      std::uint32_t* const words = block.stream.data() + before + c * chunk_words;
      if (config.delta > 0) {
        write_deltas(chunk, config.delta, words);
      } else {
        write_words(chunk, words);
      }
    }
  }
  return block;
}

/// The places of a block's runs, and the rows of the extra ones behind them: a row's first run has
/// its place, the others have extra ones that follow each other.
void write_places(std::span<const GatherRun> runs, std::size_t rows,
                  std::span<std::uint16_t> places, std::span<std::uint16_t> extra_rows) {
  std::fill(extra_rows.begin(), extra_rows.end(), kGatherNoRow);
  std::vector<std::size_t> extra(rows + 1);  // Of each row, the first one that is free.
  for (const GatherRun& run : runs)
    if (run.row >= 0 && run.first > 0) ++extra[static_cast<std::size_t>(run.row) + 1];
  std::partial_sum(extra.begin(), extra.end(), extra.begin());
  std::size_t spare = extra[rows];
  for (std::size_t i = 0; i < places.size(); ++i) {
    const GatherRun run = i < runs.size() ? runs[i] : GatherRun{};
    const auto row = static_cast<std::size_t>(run.row);
    if (run.row >= 0 && run.first == 0) {
      places[i] = static_cast<std::uint16_t>(row);
      continue;
    }
    const std::size_t at = run.row < 0 ? spare++ : extra[row]++;
    places[i] = static_cast<std::uint16_t>(rows + at);
    if (run.row >= 0) extra_rows[at] = static_cast<std::uint16_t>(row);
  }
}

}  // namespace

GatherArrays pack_gather(const CsrMatrix& csr, const GatherConfig& config, ThreadPool& pool) {
  const auto groups = static_cast<std::size_t>(config.groups);
  const auto blocks = static_cast<std::size_t>(config.blocks());
  const auto chunk_words = static_cast<std::size_t>(config.chunk_bytes()) / 4;
  GatherArrays arrays;
  arrays.groups = deal_row_groups(csr, GatherConfig::kStripRows, config.tiles, config.groups);
  std::vector<PackedBlock> packed(blocks);
  const auto for_each_block = [&](const auto& body) {
    pool.parallel_dynamic(static_cast<std::int64_t>(blocks), 1,
                          [&](std::int64_t from, std::int64_t to) {
                            for (std::int64_t block = from; block < to; ++block)
                              body(static_cast<std::size_t>(block));
                          });
  };
  for_each_block([&](std::size_t block) {
    const std::size_t tile = block / static_cast<std::size_t>(config.split);
    const std::int64_t rank = static_cast<std::int64_t>(block) % config.split;
    const std::int64_t begin = std::min(csr.cols(), rank * config.columns);
    const Columns columns(csr, begin, std::min(csr.cols(), begin + config.columns));
    packed[block] =
        pack_block(csr, columns, std::span(arrays.groups).subspan(tile * groups, groups), config);
  });
  std::size_t strips = 0;
  for (const PackedBlock& block : packed) strips = std::max(strips, block.chunks.size());
  arrays.strips_a_block = static_cast<int>(strips);
  const std::size_t rows = groups * GatherConfig::kStripRows,
                    places = strips * GatherConfig::kStripRows, extras = places - rows;
  arrays.warps.resize(blocks * static_cast<std::size_t>(config.warps));
  arrays.strips.resize(blocks * strips);
  arrays.places.resize(blocks * (places + extras));
  std::vector<std::size_t> offsets;
  std::size_t words = 0;
  for (std::size_t block = 0; block < blocks; ++block) {
    GatherStrip* const of_block = &arrays.strips[block * strips];
    for (std::size_t s = 0; s < packed[block].chunks.size(); ++s)
      of_block[s].chunks = packed[block].chunks[s];
    cut(words / chunk_words, of_block, arrays.strips_a_block,
        &arrays.warps[block * static_cast<std::size_t>(config.warps)], config.warps);
    const auto of_lanes =
        std::span(arrays.places).subspan(block * (places + extras), places + extras);
    write_places(packed[block].runs, rows, of_lanes.first(places), of_lanes.last(extras));
    arrays.nonzeros += packed[block].nonzeros;
    arrays.conflicts += packed[block].conflicts;
    offsets.push_back(words);
    words += packed[block].stream.size();
  }
  arrays.stream.resize(std::max(words, chunk_words));
  for_each_block([&](std::size_t block) {
    const std::vector<std::uint32_t> stream = std::move(packed[block].stream);
    std::copy(stream.begin(), stream.end(),
              arrays.stream.begin() + static_cast<std::ptrdiff_t>(offsets[block]));
  });
  return arrays;
}

}  // namespace rarefy::gpu
