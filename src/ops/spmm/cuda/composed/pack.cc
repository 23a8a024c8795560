#include "ops/spmm/cuda/composed/pack.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace rarefy::gpu {
namespace {

constexpr std::uint32_t kPiece = 0x80000000U;
constexpr int kJoinShift = 29;
constexpr int kDeltaBits = 6;

/// Nonzeros [begin, begin + count) of the CSR, and where their sum goes.
struct Item {
  std::int64_t begin, count;
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
    items.push_back({begin + first, count * (i + 1) / parts - first,
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

/// The longest step of a delta vector, and its nonzeros.
constexpr std::uint32_t kLongestStep = 63;
constexpr std::int64_t kDeltaVector = 8;

/// Calls `emit(column, index of the nonzero, or -1 for a zero between)` for what a delta run
/// stores.
template <class Emit>
void walk_delta(const std::uint32_t* columns, const Item& item, const Emit& emit) {
  std::int64_t stored = 0;
  std::uint32_t last = 0;
  for (std::int64_t j = item.begin; j < item.begin + item.count; ++j) {
    while (stored % kDeltaVector != 0 && columns[j] - last > kLongestStep) {
      last += kLongestStep;
      emit(last, -1);
      ++stored;
    }
    last = columns[j];
    emit(last, j);
    ++stored;
  }
}

std::int64_t vectors_of(const CsrMatrix& csr, const Item& item, const PackSpec& spec) {
  std::int64_t entries = item.count;
  if (spec.index_bits == kDeltaBits) {
    entries = 0;
    walk_delta(csr.col_indices<std::uint32_t>(), item,
               [&](std::uint32_t, std::int64_t) { ++entries; });
  }
  return (entries + spec.vec - 1) / spec.vec;
}

template <class Bits>
void fill_delta(const CsrMatrix& csr, const Item& item, std::int64_t vectors, std::uint64_t* words,
                Bits* values) {
  const auto* from = static_cast<const Bits*>(csr.values());
  std::fill_n(words, vectors, 0);
  std::int64_t at = 0;
  std::uint32_t last = 0;
  walk_delta(csr.col_indices<std::uint32_t>(), item, [&](std::uint32_t column, std::int64_t j) {
    std::uint64_t& word = words[at / kDeltaVector];
    const std::int64_t i = at % kDeltaVector;
    if (i == 0) {
      word = column;
    } else {
      // Two steps in the low word behind the column, five in the high word.
      word |= std::uint64_t{column - last} << (i < 3 ? 10 + 6 * i : 14 + 6 * i);
    }
    values[at++] = j >= 0 ? from[j] : Bits{};
    last = column;
  });
  std::fill(values + at, values + vectors * kDeltaVector, Bits{});
}

template <class Index, class Bits>
void fill_csr(const CsrMatrix& csr, const Item& item, std::int64_t entries, bool swizzled,
              Index* columns, Bits* values) {
  const auto* from_columns = csr.col_indices<std::uint32_t>();
  const auto* from_values = static_cast<const Bits*>(csr.values());
  for (std::int64_t j = 0; j < entries; ++j) {
    const bool real = j < item.count;
    const std::uint32_t column = from_columns[item.begin + (real ? j : item.count - 1)];
    columns[j] = static_cast<Index>(swizzled ? column ^ (column >> 3 & 7) : column);
    values[j] = real ? from_values[item.begin + j] : Bits{};
  }
}

/// Moves `count` vectors of `bytes` each from a packed item to their place.
void place_vectors(const std::vector<std::byte>& item, std::size_t from, std::size_t count,
                   std::size_t bytes, std::vector<std::byte>& to, std::size_t at) {
  std::copy_n(item.data() + from * bytes, count * bytes, to.data() + at * bytes);
}

template <class Bits>
void fill(const CsrMatrix& csr, const std::vector<Item>& items, const PackSpec& spec,
          ComposedArrays& arrays, ThreadPool& pool) {
  const auto vectors = static_cast<std::size_t>(arrays.begin.back());
  const auto vec = static_cast<std::size_t>(spec.vec);
  const bool delta = spec.index_bits == kDeltaBits;
  const std::size_t column_bytes = delta ? 8 : vec * static_cast<std::size_t>(spec.index_bits) / 8;
  const std::size_t value_bytes = vec * sizeof(Bits);
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
          auto* const bits = reinterpret_cast<Bits*>(values.data());
          const auto entries = static_cast<std::int64_t>(count * vec);
          if (delta) {
            fill_delta(csr, item, item.vectors, reinterpret_cast<std::uint64_t*>(columns.data()),
                       bits);
          } else if (spec.index_bits == 16) {
            fill_csr(csr, item, entries, spec.swizzled,
                     reinterpret_cast<std::uint16_t*>(columns.data()), bits);
          } else {
            fill_csr(csr, item, entries, spec.swizzled,
                     reinterpret_cast<std::uint32_t*>(columns.data()), bits);
          }
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
                        item.vectors = vectors_of(csr, item, spec);
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
  if (size_of(csr.dtype()) == 4) {
    fill<std::uint32_t>(csr, items, spec, arrays, pool);
  } else {
    fill<std::uint16_t>(csr, items, spec, arrays, pool);
  }
  return arrays;
}

}  // namespace rarefy::gpu
