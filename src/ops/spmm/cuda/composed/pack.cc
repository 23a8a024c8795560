#include "ops/spmm/cuda/composed/pack.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace rarefy::gpu {
namespace {

constexpr std::uint32_t kPartial = 0x80000000U;
constexpr int kDeltaBits = 6;

/// Nonzeros [begin, begin + count) of the CSR, and where their sum goes.
struct Item {
  std::int64_t begin, count;
  std::uint32_t target;
  std::int64_t vectors = 0;  ///< As packed.
};

std::vector<Item> cut_rows(const CsrMatrix& csr, std::int64_t longest, ComposedArrays& arrays) {
  std::vector<Item> items;
  items.reserve(static_cast<std::size_t>(csr.rows()));
  std::uint32_t slot = 0;
  for (std::int64_t r = 0; r < csr.rows(); ++r) {
    const std::int64_t begin = csr.row_offsets()[r];
    const std::int64_t count = csr.row_offsets()[r + 1] - begin;
    const auto row = static_cast<std::uint32_t>(r);
    if (count <= longest) {
      items.push_back({begin, count, row, 0});
      continue;
    }
    arrays.rows.push_back(row);
    arrays.slots.push_back(slot);
    for (std::int64_t at = 0; at < count; at += longest)
      items.push_back({begin + at, std::min(longest, count - at), kPartial | slot++, 0});
  }
  if (!arrays.rows.empty()) arrays.slots.push_back(slot);
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

template <class Bits>
void fill(const CsrMatrix& csr, const std::vector<Item>& items, const PackSpec& spec,
          ComposedArrays& arrays, ThreadPool& pool) {
  const auto vectors = static_cast<std::size_t>(arrays.begin.back());
  const auto vec = static_cast<std::size_t>(spec.vec);
  const bool delta = spec.index_bits == kDeltaBits;
  arrays.columns.resize(delta ? vectors * 8
                              : vectors * vec * static_cast<std::size_t>(spec.index_bits) / 8);
  arrays.values.resize(vectors * vec * sizeof(Bits));
  constexpr std::int64_t kGrain = 64;
  pool.parallel_dynamic(
      static_cast<std::int64_t>(items.size()), kGrain, [&](std::int64_t first, std::int64_t last) {
        for (std::int64_t i = first; i < last; ++i) {
          const auto at = static_cast<std::size_t>(i);
          const std::size_t begin = arrays.begin[at];
          const std::size_t count = arrays.begin[at + 1] - begin;
          auto* values = reinterpret_cast<Bits*>(arrays.values.data()) + begin * vec;
          const auto entries = static_cast<std::int64_t>(count * vec);
          if (delta) {
            fill_delta(csr, items[at], static_cast<std::int64_t>(count),
                       reinterpret_cast<std::uint64_t*>(arrays.columns.data()) + begin, values);
          } else if (spec.index_bits == 16) {
            fill_csr(csr, items[at], entries, spec.swizzled,
                     reinterpret_cast<std::uint16_t*>(arrays.columns.data()) + begin * vec, values);
          } else {
            fill_csr(csr, items[at], entries, spec.swizzled,
                     reinterpret_cast<std::uint32_t*>(arrays.columns.data()) + begin * vec, values);
          }
        }
      });
}

}  // namespace

ComposedArrays pack_composed(const CsrMatrix& csr, const PackSpec& spec, ThreadPool& pool) {
  if (csr.rows() >= std::int64_t{kPartial})
    fail(ErrorKind::kUnsupported, "composed: expected fewer than 2^31 rows, got {}", csr.rows());
  ComposedArrays arrays;
  std::vector<Item> items = cut_rows(csr, spec.longest_piece, arrays);
  pool.parallel_for(static_cast<std::int64_t>(items.size()),
                    [&](std::int64_t first, std::int64_t last) {
                      for (std::int64_t i = first; i < last; ++i) {
                        Item& item = items[static_cast<std::size_t>(i)];
                        item.vectors = vectors_of(csr, item, spec);
                      }
                    });
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.vectors > b.vectors; });
  arrays.begin.reserve(items.size() + 1);
  arrays.target.reserve(items.size());
  std::int64_t vectors = 0;
  for (const Item& item : items) {
    arrays.begin.push_back(static_cast<std::uint32_t>(vectors));
    arrays.target.push_back(item.target);
    vectors += item.vectors;
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
