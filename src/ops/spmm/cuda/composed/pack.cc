#include "ops/spmm/cuda/composed/pack.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace rarefy::gpu {
namespace {

constexpr std::uint32_t kPiece = 0x80000000U;
constexpr int kJoinShift = 29;

/// Nonzeros of the CSR, and where their sum goes.
struct Item {
  Nonzeros run;
  std::uint32_t target;
  std::int64_t vectors = 0;  ///< As packed.
  std::int64_t order = 0;    ///< Of the neighbours that share a row, the longest one's vectors.

  [[nodiscard]] int joined() const { return static_cast<int>(target >> kJoinShift & 3U); }
};

/// [begin, begin + count) as 2^joined neighbours.
void add_neighbours(std::int64_t begin, std::int64_t count, int joined, std::uint32_t target,
                    std::vector<Item>& items) {
  const std::int64_t parts = std::int64_t{1} << joined;
  for (std::int64_t i = 0; i < parts; ++i) {
    const std::int64_t first = count * i / parts;
    items.push_back({{begin + first, count * (i + 1) / parts - first},
                     target | static_cast<std::uint32_t>(joined) << kJoinShift});
  }
}

std::vector<Item> cut_rows(const CsrMatrix& csr, const PackSpec& spec, ComposedArrays& arrays) {
  std::vector<Item> items;
  items.reserve(static_cast<std::size_t>(csr.rows()));
  std::uint32_t piece = 0;
  for (std::int64_t r = 0; r < csr.rows(); ++r) {
    const std::int64_t begin = csr.row_offsets()[r];
    const std::int64_t count = csr.row_offsets()[r + 1] - begin;
    const auto row = static_cast<std::uint32_t>(r);
    int joined = 0;
    while ((spec.longest_item << joined) < count && (1 << joined) < spec.neighbours) ++joined;
    const std::int64_t together = spec.longest_item << joined;
    if (count <= together) {
      add_neighbours(begin, count, joined, row, items);
      continue;
    }
    const auto cut = static_cast<std::uint32_t>(arrays.rows.size());
    arrays.rows.push_back(row);
    arrays.first.push_back(piece);
    const std::int64_t pieces = (count + together - 1) / together;
    for (std::int64_t i = 0; i < pieces; ++i) {
      const std::int64_t first = count * i / pieces;
      add_neighbours(begin + first, count * (i + 1) / pieces - first, joined, kPiece | piece++,
                     items);
      arrays.row_of_piece.push_back(cut);
    }
  }
  if (!arrays.rows.empty()) arrays.first.push_back(piece);
  return items;
}

/// Moves `count` vectors of `bytes` each from a packed item to their place.
void place_vectors(const std::vector<std::byte>& item, std::size_t from, std::size_t count,
                   std::size_t bytes, std::vector<std::byte>& to, std::size_t at) {
  std::copy_n(item.data() + from * bytes, count * bytes, to.data() + at * bytes);
}

void fill(const CsrMatrix& csr, const std::vector<Item>& items, const PackSpec& spec,
          ComposedArrays& arrays, ThreadPool& pool) {
  const auto vectors = static_cast<std::size_t>(arrays.begin.back());
  const std::size_t column_bytes = spec.format.column_bytes();
  const std::size_t value_bytes = static_cast<std::size_t>(spec.format.vec) * size_of(csr.dtype());
  arrays.columns.resize(vectors * column_bytes);
  arrays.values.resize(vectors * value_bytes);
  constexpr std::int64_t kGrain = 64;
  pool.parallel_dynamic(
      static_cast<std::int64_t>(items.size()), kGrain, [&](std::int64_t first, std::int64_t last) {
        std::vector<std::byte> columns;
        std::vector<std::byte> values;
        for (std::int64_t i = first; i < last; ++i) {
          const Item& item = items[static_cast<std::size_t>(i)];
          const auto count = static_cast<std::size_t>(item.vectors);
          columns.resize(count * column_bytes);
          values.resize(count * value_bytes);
          write_vectors(csr, item.run, spec.format, item.vectors, columns.data(), values.data());
          const std::size_t head = i < arrays.heads ? static_cast<std::size_t>(spec.head) : 0;
          const std::size_t head_at = static_cast<std::size_t>(i) * head;
          const std::size_t rest_at = arrays.begin[static_cast<std::size_t>(i)];
          place_vectors(columns, 0, head, column_bytes, arrays.columns, head_at);
          place_vectors(columns, head, count - head, column_bytes, arrays.columns, rest_at);
          place_vectors(values, 0, head, value_bytes, arrays.values, head_at);
          place_vectors(values, head, count - head, value_bytes, arrays.values, rest_at);
        }
      });
}

}  // namespace

ComposedArrays pack_composed(const CsrMatrix& csr, const PackSpec& spec, ThreadPool& pool) {
  if (csr.rows() >= std::int64_t{1} << kJoinShift)
    fail(ErrorKind::kUnsupported, "composed: expected fewer than 2^29 rows, got {}", csr.rows());
  ComposedArrays arrays;
  std::vector<Item> items = cut_rows(csr, spec, arrays);
  pool.parallel_for(static_cast<std::int64_t>(items.size()),
                    [&](std::int64_t first, std::int64_t last) {
                      for (std::int64_t i = first; i < last; ++i) {
                        Item& item = items[static_cast<std::size_t>(i)];
                        item.vectors = count_vectors(csr, item.run, spec.format);
                      }
                    });
  for (std::size_t i = 0; i < items.size();) {
    const std::size_t end = i + (std::size_t{1} << items[i].joined());
    std::int64_t most = 0;
    for (std::size_t j = i; j < end; ++j) most = std::max(most, items[j].vectors);
    for (; i < end; ++i) items[i].order = most;
  }
  std::stable_sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
    return a.joined() != b.joined() ? a.joined() > b.joined() : a.order > b.order;
  });
  arrays.begin.reserve(items.size() + 1);
  arrays.target.reserve(items.size());
  if (spec.head > 0) {
    arrays.heads = std::find_if(items.begin(), items.end(),
                                [&](const Item& i) { return i.vectors < spec.head; }) -
                   items.begin();
  }
  std::int64_t vectors = arrays.heads * spec.head;
  for (const Item& item : items) {
    arrays.begin.push_back(static_cast<std::uint32_t>(vectors));
    arrays.target.push_back(item.target);
    vectors += item.vectors;
    if (std::ssize(arrays.target) <= arrays.heads) vectors -= spec.head;
    if (vectors > std::numeric_limits<std::uint32_t>::max())
      fail(ErrorKind::kUnsupported, "composed: {} nonzeros are too many", csr.entries());
  }
  arrays.begin.push_back(static_cast<std::uint32_t>(vectors));
  fill(csr, items, spec, arrays, pool);
  return arrays;
}

}  // namespace rarefy::gpu
