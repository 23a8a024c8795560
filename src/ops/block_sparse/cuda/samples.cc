#include "ops/block_sparse/cuda/samples.h"

#include <algorithm>

#include "base/check.h"
#include "ops/block_sparse/cuda/steps.h"

namespace rarefy::gpu {
namespace {

struct Stored {
  std::uint32_t column, row;  ///< Strips.
  std::uint32_t to;
};

/// Pieces of the strips first … first + count - 1 of rows, by columns.
std::vector<Stored> stored_pieces(const BlockPattern& p, const PieceShape& piece,
                                  std::int64_t first, std::int64_t count) {
  std::vector<Stored> found;
  const std::int64_t down = p.block_rows / piece.out, across = p.block_cols / piece.in;
  for (std::int64_t strip = first; strip < first + count; ++strip) {
    const auto row = static_cast<std::size_t>(strip / down);
    for (std::int32_t b = p.row_offsets[row]; b < p.row_offsets[row + 1]; ++b)
      for (std::int64_t a = 0; a < across; ++a)
        found.push_back(
            {static_cast<std::uint32_t>(p.col_indices[static_cast<std::size_t>(b)] * across + a),
             static_cast<std::uint32_t>(strip),
             static_cast<std::uint32_t>(
                 (std::int64_t{b} * p.block_rows + strip % down * piece.out) * 2 + a)});
  }
  std::sort(found.begin(), found.end(), [](const Stored& a, const Stored& b) {
    return a.column != b.column ? a.column < b.column : a.row < b.row;
  });
  return found;
}

/// Adds the task of found[begin, end).
void add_task(const std::vector<Stored>& found, std::size_t begin, std::size_t end,
              const PieceShape& piece, SampleTasks& all) {
  std::vector<std::uint32_t> rows, columns;
  std::vector<Stored> mine(found.begin() + static_cast<std::ptrdiff_t>(begin),
                           found.begin() + static_cast<std::ptrdiff_t>(end));
  std::sort(mine.begin(), mine.end(), [](const Stored& a, const Stored& b) {
    return a.row != b.row ? a.row < b.row : a.column < b.column;
  });
  for (const Stored& s : mine) {
    rows.push_back(s.row);
    columns.push_back(s.column);
  }
  for (std::vector<std::uint32_t>* list : {&rows, &columns}) {
    std::sort(list->begin(), list->end());
    list->erase(std::unique(list->begin(), list->end()), list->end());
  }
  const auto place = [](const std::vector<std::uint32_t>& list, std::uint32_t value) {
    return static_cast<std::uint16_t>(std::lower_bound(list.begin(), list.end(), value) -
                                      list.begin());
  };
  all.tasks.push_back(
      {static_cast<std::uint32_t>(all.pieces.size()), static_cast<std::uint32_t>(mine.size()),
       static_cast<std::uint32_t>(all.strips.size()), static_cast<std::uint16_t>(rows.size()),
       static_cast<std::uint16_t>(columns.size())});
  for (const Stored& s : mine)
    all.pieces.push_back({s.to, place(rows, s.row), place(columns, s.column)});
  for (const std::uint32_t row : rows)
    all.strips.push_back(row * static_cast<std::uint32_t>(piece.out));
  for (const std::uint32_t column : columns)
    all.strips.push_back(column * static_cast<std::uint32_t>(piece.in));
}

}  // namespace

SampleTasks make_tasks(const BlockPattern& pattern, const TaskShape& shape) {
  require(pattern.blocks() * pattern.block_rows < (std::int64_t{1} << 31),
          "block-sparse products on a GPU: expected fewer than 2^31 rows of blocks, got {}",
          pattern.blocks() * pattern.block_rows);
  const PieceShape piece = piece_shape(pattern, false);
  const std::int64_t strips = pattern.rows / piece.out;
  SampleTasks all;
  std::vector<std::size_t> first_of_rows;
  for (std::int64_t first = 0; first < strips; first += shape.row_strips) {
    first_of_rows.push_back(all.tasks.size());
    const std::vector<Stored> found = stored_pieces(
        pattern, piece, first, std::min<std::int64_t>(shape.row_strips, strips - first));
    std::size_t begin = 0;
    int columns = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const bool next_column = i == begin || found[i].column != found[i - 1].column;
      if (i > begin && (static_cast<int>(i - begin) == shape.pieces ||
                        (next_column && columns == shape.column_strips))) {
        add_task(found, begin, i, piece, all);
        begin = i;
        columns = 0;
      }
      if (next_column || i == begin) ++columns;
    }
    if (begin < found.size()) add_task(found, begin, found.size(), piece, all);
  }
  // Tasks that run at a time share their columns as well as their rows: the first ones of all rows,
  // then the second ones.
  first_of_rows.push_back(all.tasks.size());
  std::vector<SampleTask> in_turn;
  for (std::size_t i = 0; in_turn.size() < all.tasks.size(); ++i)
    for (std::size_t r = 0; r + 1 < first_of_rows.size(); ++r)
      if (first_of_rows[r] + i < first_of_rows[r + 1])
        in_turn.push_back(all.tasks[first_of_rows[r] + i]);
  all.tasks = std::move(in_turn);
  return all;
}

}  // namespace rarefy::gpu
