#include "ops/spmm/cuda/gather/gather_pack.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <numeric>

#include "ops/spmm/cuda/row_groups.h"

namespace rarefy::gpu {
namespace {

constexpr int kBanks = 8;  // Groups of four: the 16 bytes of a column lie in one.
constexpr int kHalf = 8;   // Rows that gather together.
constexpr int kLanes = 32;

/// Where column `i` of a block lies in shared memory (stage_activations).
std::uint32_t place_of(std::int64_t i) {
  return static_cast<std::uint32_t>(i ^ (i >> 3 & 7));
}

struct Entry {
  std::uint16_t value = 0, column = 0;
};
using Step = std::array<Entry, kHalf>;

/// Puts the nonzeros of eight rows into an order in which the eight of a step lie in different
/// banks: a matching of rows and banks each step, which takes from the fullest banks first. Where
/// none covers every row that has no step to lose, two share a bank.
class HalfStrip {
 public:
  void add(int row, Entry entry) {
    lists_[row][entry.column % kBanks].push_back(entry);
    ++row_left_[row];
    ++bank_left_[entry.column % kBanks];
  }

  [[nodiscard]] int longest() const {
    return *std::max_element(row_left_.begin(), row_left_.end());
  }

  /// Takes the next step of `steps_left`; returns how many of its nonzeros share a bank.
  int take(int steps_left, Step& step) {
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

  std::array<std::array<std::vector<Entry>, kBanks>, kHalf> lists_;
  std::array<int, kHalf> row_left_ = {};
  std::array<int, kBanks> bank_left_ = {};
  std::array<int, kHalf> rows_ = {}, bank_of_ = {};
};

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
  [[nodiscard]] Entry entry(std::int64_t at) const {
    return {values_[at], static_cast<std::uint16_t>(place_of(columns_[at] - begin_))};
  }

 private:
  const std::int64_t* offsets_;
  const std::uint32_t* columns_;
  const std::uint16_t* values_;
  std::int64_t begin_, end_;
};

/// Writes eight steps of both halves of a strip as a chunk.
void write_chunk(const Step* low, const Step* high, std::uint32_t* words) {
  const Step* halves[2] = {low, high};
  for (int lane = 0; lane < kLanes; ++lane) {
    const int g = lane / 4, e = lane % 4 ^ lane / 8, q = lane / 8;
    for (int pair = 0; pair < GatherConfig::kChunkSteps / 2; ++pair) {
      const std::uint32_t value = halves[e % 2][pair * 2 + e / 2][g].value;
      const std::uint32_t column = halves[q % 2][pair * 2 + q / 2][lane % 8 ^ 2 * q].column;
      words[lane * 4 + pair] = column << 16 | value;
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
  constexpr std::size_t kWords = GatherConfig::kChunkBytes / 4;
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
        std::vector<Step> steps[2];
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
            HalfStrip halves[2];
            for (int r = 0; r < GatherConfig::kStripRows; ++r) {
              const Columns::Range range = ranges[places[s * 16 + static_cast<std::size_t>(r)]];
              // Taken from the back.
              for (std::int64_t at = range.last; at-- > range.first;)
                halves[r / kHalf].add(r % kHalf, columns.entry(at));
              nonzeros += range.last - range.first;
            }
            const int longest = std::max(halves[0].longest(), halves[1].longest());
            const int chunks =
                (longest + GatherConfig::kChunkSteps - 1) / GatherConfig::kChunkSteps;
            const int count = chunks * GatherConfig::kChunkSteps;
            for (int h = 0; h < 2; ++h) {
              steps[h].resize(static_cast<std::size_t>(count));
              for (int i = 0; i < count; ++i)
                conflicts += halves[h].take(count - i, steps[h][static_cast<std::size_t>(i)]);
            }
            const std::size_t before = stream.size();
            stream.resize(before + static_cast<std::size_t>(chunks) * kWords);
            for (int c = 0; c < chunks; ++c)
              write_chunk(steps[0].data() + c * GatherConfig::kChunkSteps,
                          steps[1].data() + c * GatherConfig::kChunkSteps,
                          stream.data() + before + static_cast<std::size_t>(c) * kWords);
            arrays.strips[block * strips + s].chunks = static_cast<std::uint32_t>(chunks);
          }
        }
      });
  arrays.nonzeros = nonzeros;
  arrays.conflicts = conflicts;
  std::size_t words = 0;
  std::vector<std::size_t> offsets;
  for (std::size_t block = 0; block < blocks; ++block) {
    cut(words / kWords, &arrays.strips[block * strips], config.strips,
        &arrays.warps[block * static_cast<std::size_t>(config.warps)], config.warps);
    offsets.push_back(words);
    words += streams[block].size();
  }
  arrays.stream.resize(std::max(words, kWords));
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
