#include "ops/block_sparse/cuda/sample_grids.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "ops/block_sparse/cuda/steps.h"

namespace rarefy::gpu {
namespace {

struct Stored {
  std::int64_t row, column;  ///< In Pᵀ·Q, counted in pieces.
  std::uint32_t to;
};

/// A strip of Q with what some strips of P need of it.
struct Column {
  std::int64_t strip;
  std::vector<Stored> pieces;
};
using Columns = std::vector<Column>;

/// Some strips of P by some of Q: a task.
struct Part {
  std::int64_t first;  ///< Strip of P.
  int rows;            ///< Strips of P.
  Columns columns;
  std::int64_t second;  ///< Column that the second warpgroup begins with.
};

class Cutter {
 public:
  Cutter(const BlockPattern& pattern, const GridShape& shape)
      : p_(pattern),
        shape_(shape),
        piece_(piece_shape(pattern, false)),
        high_(kSampleHeight / piece_.out),
        wide_(shape.strip / piece_.in) {}

  [[nodiscard]] std::int64_t strips() const {
    return (p_.rows + kSampleHeight - 1) / kSampleHeight;
  }

  /// All that is stored of `rows` strips of P.
  [[nodiscard]] std::vector<Part> cut(std::int64_t first, int rows) const {
    return rows == 1 ? cut_one(first, columns_of(first, 1)) : cut_two(first);
  }

  /// What one warpgroup multiplies alone.
  [[nodiscard]] bool is_half(const Part& part) const {
    return part.rows == 1 && std::ssize(part.columns) <= shape_.together;
  }

  /// A whole task as two for one warpgroup each.
  [[nodiscard]] std::vector<Part> halves(const Part& part) const {
    std::vector<Part> found;
    for (int half = 0; half < 2; ++half) {
      Part mine{part.first + (part.rows - 1) * half, 1, {}, shape_.together};
      for (std::int64_t i = 0; i < std::ssize(part.columns); ++i) {
        Column column = part.columns[static_cast<std::size_t>(i)];
        if (part.rows == 2)
          std::erase_if(column.pieces,
                        [&](const Stored& piece) { return piece.row / high_ != mine.first; });
        if (part.rows == 1 ? (i >= part.second) == (half == 1) : !column.pieces.empty())
          mine.columns.push_back(std::move(column));
      }
      if (!mine.columns.empty()) found.push_back(std::move(mine));
    }
    return found;
  }

  void add_task(const Part& part, SampleGrids& all) const {
    all.tasks.push_back({static_cast<std::uint32_t>(part.first * kSampleHeight),
                         static_cast<std::uint32_t>(all.strips.size()),
                         static_cast<std::uint32_t>(all.places.size()),
                         static_cast<std::uint8_t>(part.rows),
                         static_cast<std::uint8_t>(part.columns.size()),
                         static_cast<std::uint8_t>(part.second), 0});
    const std::size_t across = part.columns.size() * static_cast<std::size_t>(wide_);
    const std::size_t begin = all.places.size();
    all.places.resize(begin + static_cast<std::size_t>(part.rows * high_) * across,
                      SampleGrids::kNone);
    for (std::size_t i = 0; i < part.columns.size(); ++i) {
      const Column& column = part.columns[i];
      all.strips.push_back(static_cast<std::uint32_t>(column.strip * shape_.strip));
      for (const Stored& piece : column.pieces)
        all.places[begin + static_cast<std::size_t>(piece.row - part.first * high_) * across +
                   i * static_cast<std::size_t>(wide_) +
                   static_cast<std::size_t>(piece.column % wide_)] = piece.to;
    }
  }

 private:
  [[nodiscard]] std::vector<Part> cut_one(std::int64_t first, Columns columns) const {
    const std::int64_t most =
        shape_.column_strips >= 2 * shape_.together ? 2 * shape_.together : shape_.together;
    std::vector<Part> parts;
    for (Column& column : columns) {
      if (parts.empty() || std::ssize(parts.back().columns) == most)
        parts.push_back({first, 1, {}, shape_.together});
      parts.back().columns.push_back(std::move(column));
    }
    return parts;
  }

  /// Columns that the first strip of P needs, then those that both do, then the second's.
  [[nodiscard]] std::vector<Part> cut_two(std::int64_t first) const {
    const std::int64_t spare = shape_.column_strips - shape_.together;
    Columns lists[3];  // The first's, both's, the second's.
    for (Column& column : columns_of(first, 2)) {
      const auto needed = [&](std::int64_t strip) {
        return std::ranges::any_of(column.pieces,
                                   [&](const Stored& piece) { return piece.row / high_ == strip; });
      };
      const bool both = spare == 0 || (needed(first) && needed(first + 1));
      lists[both ? 1 : needed(first) ? 0 : 2].push_back(std::move(column));
    }
    const std::int64_t one = std::ssize(lists[0]), both = std::ssize(lists[1]),
                       two = std::ssize(lists[2]);
    const std::int64_t tasks = (both + std::max(one, two) + shape_.together - 1) / shape_.together;
    std::vector<Part> parts;
    std::int64_t taken[3] = {};
    for (std::int64_t i = 0; taken[0] + taken[1] + taken[2] < one + both + two; ++i) {
      // What both need is spread over all tasks, so that all bring about as many strips.
      const std::int64_t b = i < tasks ? both * (i + 1) / tasks - both * i / tasks : 0;
      const std::int64_t a = std::min({one - taken[0], shape_.together - b, spare});
      const std::int64_t c =
          std::min({two - taken[2], shape_.together - b, shape_.column_strips - b - a});
      Part part{first, 2, {}, a};
      const std::int64_t counts[] = {a, b, c};
      for (int l = 0; l < 3; ++l)
        for (std::int64_t k = 0; k < counts[l]; ++k)
          part.columns.push_back(std::move(lists[l][static_cast<std::size_t>(taken[l]++)]));
      if (b == 0 && (a == 0 || c == 0)) {
        part.first += a == 0 ? 1 : 0;
        part.rows = 1;
        part.second = shape_.together;
      }
      parts.push_back(std::move(part));
    }
    return parts;
  }

  [[nodiscard]] Columns columns_of(std::int64_t first, std::int64_t rows) const {
    Columns columns;
    for (const Stored& piece : stored(first * high_, rows * high_)) {
      const std::int64_t strip = piece.column / wide_;
      if (columns.empty() || columns.back().strip != strip) columns.push_back({strip, {}});
      columns.back().pieces.push_back(piece);
    }
    return columns;
  }

  /// Pieces of `count` rows of them, by columns.
  [[nodiscard]] std::vector<Stored> stored(std::int64_t first, std::int64_t count) const {
    std::vector<Stored> found;
    const std::int64_t down = p_.block_rows / piece_.out, across = p_.block_cols / piece_.in;
    const std::int64_t end = std::min(first + count, p_.rows / piece_.out);
    for (std::int64_t r = first; r < end; ++r) {
      const auto row = static_cast<std::size_t>(r / down);
      for (std::int32_t b = p_.row_offsets[row]; b < p_.row_offsets[row + 1]; ++b)
        for (std::int64_t a = 0; a < across; ++a)
          found.push_back({r, p_.col_indices[static_cast<std::size_t>(b)] * across + a,
                           static_cast<std::uint32_t>(
                               (std::int64_t{b} * p_.block_rows + r % down * piece_.out) * 2 + a)});
    }
    std::sort(found.begin(), found.end(), [](const Stored& a, const Stored& b) {
      return a.column != b.column ? a.column < b.column : a.row < b.row;
    });
    return found;
  }

  const BlockPattern& p_;
  GridShape shape_;
  PieceShape piece_;
  std::int64_t high_, wide_;  ///< Pieces of a strip.
};

/// Half tasks that one of `workers` does at most, where whole ones go first.
std::int64_t rounds(std::int64_t whole, std::int64_t half, std::int64_t workers) {
  std::int64_t most = 0;
  for (std::int64_t w = 0; w < std::min(workers, whole + half); ++w) {
    const std::int64_t tasks = (whole + half - w + workers - 1) / workers;
    const std::int64_t mine = w < whole ? (whole - w + workers - 1) / workers : 0;
    most = std::max(most, tasks + mine);
  }
  return most;
}

}  // namespace

SampleGrids make_grids(const BlockPattern& pattern, const GridShape& shape, int workers) {
  constexpr std::int64_t kMost = std::int64_t{1} << 31;  // Coordinates of the copy engine.
  require(pattern.blocks() * pattern.block_rows < kMost && pattern.rows < kMost,
          "block-sparse products on a GPU: expected fewer than 2^31 rows, and rows of blocks, got "
          "{} and {}",
          pattern.rows, pattern.blocks() * pattern.block_rows);
  const Cutter cutter(pattern, shape);
  std::vector<std::vector<Part>> of_rows;
  for (std::int64_t first = 0; first < cutter.strips(); first += shape.row_strips)
    of_rows.push_back(cutter.cut(first, static_cast<int>(std::min<std::int64_t>(
                                            shape.row_strips, cutter.strips() - first))));
  // Tasks that run at a time share their columns as well as their rows: the first ones of all rows,
  // then the second ones.
  std::vector<Part> whole, half;
  for (std::size_t i = 0, left = of_rows.size(); left > 0; ++i) {
    left = 0;
    for (std::vector<Part>& parts : of_rows) {
      if (i >= parts.size()) continue;
      ++left;
      (cutter.is_half(parts[i]) ? half : whole).push_back(std::move(parts[i]));
    }
  }
  const std::int64_t last = std::ssize(whole) % workers;
  if (rounds(std::ssize(whole) - last, std::ssize(half) + 2 * last, workers) <
      rounds(std::ssize(whole), std::ssize(half), workers)) {
    std::vector<Part> more;
    for (auto part = whole.end() - last; part != whole.end(); ++part)
      for (Part& each : cutter.halves(*part)) more.push_back(std::move(each));
    whole.erase(whole.end() - last, whole.end());
    half.insert(half.begin(), std::make_move_iterator(more.begin()),
                std::make_move_iterator(more.end()));
  }
  SampleGrids all;
  for (const std::vector<Part>* parts : {&whole, &half})
    for (const Part& part : *parts) cutter.add_task(part, all);
  return all;
}

}  // namespace rarefy::gpu
