#include "ops/spmm/cuda/gather/gather_pack.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <numeric>

#include "base/check.h"
#include "ops/spmm/cuda/gather/gather_order.h"
#include "ops/spmm/cuda/row_groups.h"

namespace rarefy::gpu {
namespace {

constexpr int kLanes = 32;

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

}  // namespace

GatherArrays pack_gather(const CsrMatrix& csr, const GatherConfig& config, ThreadPool& pool) {
  const auto strips = static_cast<std::size_t>(config.strips);
  const auto blocks = static_cast<std::size_t>(config.blocks());
  const auto chunk_words = static_cast<std::size_t>(config.chunk_bytes()) / 4;
  const auto chunk_steps = static_cast<std::size_t>(config.chunk_steps());
  const std::size_t rows = strips * GatherConfig::kStripRows;
  GatherArrays arrays;
  arrays.groups = deal_row_groups(csr, GatherConfig::kStripRows, config.tiles, config.strips);
  arrays.warps.resize(blocks * static_cast<std::size_t>(config.warps));
  arrays.strips.resize(blocks * strips);
  arrays.places.resize(blocks * rows);
  std::vector<std::vector<std::uint32_t>> streams(blocks);
  std::atomic<std::int64_t> nonzeros = 0, conflicts = 0;
  pool.parallel_dynamic(
      static_cast<std::int64_t>(blocks), 1, [&](std::int64_t from, std::int64_t to) {
        for (auto block = static_cast<std::size_t>(from); block < static_cast<std::size_t>(to);
             ++block) {
          const std::size_t tile = block / static_cast<std::size_t>(config.split);
          const std::int64_t rank = static_cast<std::int64_t>(block) % config.split;
          const std::int64_t begin = std::min(csr.cols(), rank * config.columns);
          const Columns columns(csr, begin, std::min(csr.cols(), begin + config.columns));
          // The tile's rows, the longest first.
          std::vector<Columns::Range> ranges(rows, {0, 0});
          for (std::size_t p = 0; p < rows; ++p) {
            const std::int32_t group = arrays.groups[tile * strips + p / 16];
            const std::int64_t row = group + static_cast<std::int64_t>(p % 16);
            if (group >= 0 && row < csr.rows()) ranges[p] = columns.of_row(row);
          }
          std::uint16_t* places = &arrays.places[block * rows];
          std::iota(places, places + rows, std::uint16_t{0});
          std::stable_sort(places, places + rows, [&](std::uint16_t a, std::uint16_t b) {
            return ranges[a].last - ranges[a].first > ranges[b].last - ranges[b].first;
          });
          std::vector<std::uint32_t>& stream = streams[block];
          for (std::size_t s = 0; s < strips; ++s) {
            GatherRows nonzeros_of;
            for (std::size_t r = 0; r < nonzeros_of.size(); ++r) {
              const Columns::Range range = ranges[places[s * 16 + r]];
              for (std::int64_t at = range.first; at < range.last; ++at)
                nonzeros_of[r].push_back(columns.entry(at));
              nonzeros += range.last - range.first;
              if (config.delta > 0)  // Columns of a group of eight have changed places.
                std::sort(nonzeros_of[r].begin(), nonzeros_of[r].end(),
                          [](GatherEntry a, GatherEntry b) { return a.column < b.column; });
            }
            const GatherOrder order = config.delta > 0
                                          ? order_within_reach(nonzeros_of, config.chunk_steps(),
                                                               gather_reach(config.delta))
                                          : order_freely(nonzeros_of, config.chunk_steps());
            conflicts += order.conflicts;
            const std::size_t chunks = order.halves[0].size() / chunk_steps;
            const std::size_t before = stream.size();
            stream.resize(before + chunks * chunk_words);
            for (std::size_t c = 0; c < chunks; ++c) {
              const Chunk chunk(order, c * chunk_steps);
              std::uint32_t* const words_of = stream.data() + before + c * chunk_words;
              if (config.delta > 0) {
                write_deltas(chunk, config.delta, words_of);
              } else {
                write_words(chunk, words_of);
              }
            }
            arrays.strips[block * strips + s].chunks = static_cast<std::uint32_t>(chunks);
          }
        }
      });
  arrays.nonzeros = nonzeros;
  arrays.conflicts = conflicts;
  std::size_t words = 0;
  std::vector<std::size_t> offsets;
  for (std::size_t block = 0; block < blocks; ++block) {
    cut(words / chunk_words, &arrays.strips[block * strips], config.strips,
        &arrays.warps[block * static_cast<std::size_t>(config.warps)], config.warps);
    offsets.push_back(words);
    words += streams[block].size();
  }
  arrays.stream.resize(std::max(words, chunk_words));
  pool.parallel_dynamic(
      static_cast<std::int64_t>(blocks), 1, [&](std::int64_t from, std::int64_t to) {
        for (auto block = static_cast<std::size_t>(from); block < static_cast<std::size_t>(to);
             ++block) {
          std::copy(streams[block].begin(), streams[block].end(),
                    arrays.stream.begin() + static_cast<std::ptrdiff_t>(offsets[block]));
          streams[block] = {};
        }
      });
  return arrays;
}

}  // namespace rarefy::gpu
