// The kernel's walk through a packed weight, on the host: what tests hold the packer against.
#include <array>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "ops/spmm/cuda/decode/lane_pack.h"

namespace rarefy::gpu {
namespace {

constexpr int kLanes = 32;

/// A warp's ring, with the level that each half-word row holds.
class Ring {
 public:
  Ring(const LaneConfig& config, int rows)
      : rows_(rows),
        values_(static_cast<std::size_t>(rows + config.mirror_rows()) * kLanes * 2),
        levels_(static_cast<std::size_t>(rows + config.mirror_rows()), -1) {}

  /// Takes the rows of a stage as its header says; returns where the next stage begins.
  const std::byte* fetch(const std::byte* stage, const std::uint8_t* copies, int slot_bytes) {
    const std::byte* rows = stage + slot_bytes;
    copy(rows, 0, copies[0], copies[1]);
    copy(rows, copies[4], copies[2], copies[3]);
    level_ += copies[5];
    return rows + copies[5] * LaneConfig::kRowBytes;
  }

  [[nodiscard]] std::uint16_t at(int row, int lane, int high, int level) const {
    const auto r = static_cast<std::size_t>(row);
    if (r >= levels_.size() || levels_[r] != level)
      fail(ErrorKind::kInternal, "lane: row {} of the ring should hold level {}, holds {}", row,
           level, r < levels_.size() ? levels_[r] : -2);
    return values_[r * kLanes * 2 + static_cast<std::size_t>(lane * 2 + high)];
  }
  [[nodiscard]] int rows() const { return rows_; }

 private:
  void copy(const std::byte* from, int first, int count, int to) {
    for (int i = 0; i < count; ++i) {
      const auto r = static_cast<std::size_t>(to + i);
      if (r >= levels_.size()) fail(ErrorKind::kInternal, "lane: a copy leaves the ring");
      std::memcpy(&values_[r * kLanes * 2], from + (first + i) * LaneConfig::kRowBytes,
                  LaneConfig::kRowBytes);
      levels_[r] = level_ + first + i;
    }
  }

  int rows_;
  std::vector<std::uint16_t> values_;
  std::vector<int> levels_;
  int level_ = 0;
};

/// Where a lane reads next: the row of the ring, the half-column, and the level it expects there.
struct Pointer {
  int row = 0, lane = 0, high = 0, level = 0;
};

std::uint8_t mask_of(const LaneConfig& config, const std::byte* masks, int fragment, int lane) {
  const int whole = config.fragments() / 4 * 4;
  const int rest = config.fragments() % 4;
  int at = fragment / 4 * 128 + lane * 4 + fragment % 4;
  if (fragment >= whole) {
    const int within = fragment - whole;
    at = whole * 32;
    if (rest == 1) at += lane;
    if (rest >= 2) at += within < 2 ? lane * 2 + within : 64 + lane;
  }
  return static_cast<std::uint8_t>(masks[at]);
}

}  // namespace

std::vector<std::uint16_t> unpack_lane(const LaneArrays& arrays, const LaneConfig& config,
                                       std::int64_t rows, std::int64_t cols) {
  std::vector<std::uint16_t> dense(static_cast<std::size_t>(rows * cols));
  for (std::size_t i = 0; i < arrays.works.size(); ++i) {
    const LaneWork& work = arrays.works[i];
    if (work.stages == 0) continue;
    const auto warp = static_cast<int>(i) % config.warps();
    const int group = static_cast<int>(i) / config.warps() / config.split * config.row_warps +
                      config.row_warp(warp);
    Ring ring(config, arrays.ring_rows);
    const std::byte* stage = arrays.stream.data() + work.offset;
    const std::byte* next =
        ring.fetch(stage, reinterpret_cast<const std::uint8_t*>(work.copies), config.slot_bytes());
    std::array<std::array<Pointer, kLanes>, 2> pointers;
    for (int high = 0; high < 2; ++high)
      for (int lane = 0; lane < kLanes; ++lane) pointers[high][lane] = {0, lane, high, 0};
    for (std::uint32_t s = 0; s < work.stages; ++s) {
      const std::byte* after = next;
      if (s + 1 < work.stages)
        after = ring.fetch(next, reinterpret_cast<const std::uint8_t*>(stage), config.slot_bytes());
      for (int q = 0; q < config.swaps(); ++q) {
        const int swap = static_cast<int>(stage[6 + q]);
        auto before = pointers;
        for (int lane = 0; lane < kLanes; ++lane)
          for (int high = 0; high < 2; ++high)
            pointers[high][lane] = before[high ^ (swap >> 5 & 1)][lane ^ (swap & 31)];
        const std::byte* masks = stage + LaneConfig::kHeaderBytes + q * config.mask_bytes();
        for (int f = 0; f < config.fragments(); ++f) {
          const int strip = f % config.strips;
          const std::int64_t block = q * config.swap_blocks + f / config.strips;
          const std::int64_t column = (work.block + std::int64_t{s} * config.blocks + block) * 16;
          const std::int32_t first =
              arrays.strip_rows[static_cast<std::size_t>(group * config.strips + strip)];
          for (int lane = 0; lane < kLanes; ++lane) {
            for (auto& of_high : pointers)
              if (f % config.wrap() == 0 && of_high[lane].row >= ring.rows())
                of_high[lane].row -= ring.rows();
            const std::uint8_t mask = mask_of(config, masks, f, lane);
            for (int bit = 0; bit < 8; ++bit) {
              if ((mask >> bit & 1) == 0) continue;
              const int high = bit / 2 % 2;
              Pointer& p = pointers[high][lane];
              const std::int64_t row = first + lane / 4 + 8 * high;
              const std::int64_t col =
                  column + bit % 2 +
                  (config.wide ? lane % 4 * 2 + bit / 4 * 8 : lane % 4 * 4 + bit / 4 * 2);
              if (first < 0 || row >= rows || col >= cols)
                fail(ErrorKind::kInternal, "lane: a nonzero at {},{} of a {}x{} weight", row, col,
                     rows, cols);
              dense[static_cast<std::size_t>(row * cols + col)] =
                  ring.at(p.row, p.lane, p.high, p.level);
              ++p.row;
              ++p.level;
            }
          }
        }
      }
      stage = next;
      next = after;
    }
  }
  return dense;
}

}  // namespace rarefy::gpu
