#include "ops/spmm/cuda/composed/pack.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/check.h"

namespace rarefy::gpu {
namespace {

constexpr std::uint32_t kPartial = 0x80000000U;

/// Nonzeros [begin, begin + count) of the CSR, and where their sum goes.
struct Item {
  std::int64_t begin, count;
  std::uint32_t target;
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
      items.push_back({begin, count, row});
      continue;
    }
    arrays.rows.push_back(row);
    arrays.slots.push_back(slot);
    for (std::int64_t at = 0; at < count; at += longest)
      items.push_back({begin + at, std::min(longest, count - at), kPartial | slot++});
  }
  if (!arrays.rows.empty()) arrays.slots.push_back(slot);
  return items;
}

template <class Index, class Bits>
void fill(const CsrMatrix& csr, const std::vector<Item>& items, const PackSpec& spec,
          ComposedArrays& arrays) {
  const auto* from_columns = csr.col_indices<std::uint32_t>();
  const auto* from_values = static_cast<const Bits*>(csr.values());
  const std::size_t entries =
      static_cast<std::size_t>(arrays.begin.back()) * static_cast<std::size_t>(spec.vec);
  arrays.columns.resize(entries * sizeof(Index));
  arrays.values.resize(entries * sizeof(Bits));
  auto* columns = reinterpret_cast<Index*>(arrays.columns.data());
  auto* values = reinterpret_cast<Bits*>(arrays.values.data());
  for (std::size_t i = 0; i < items.size(); ++i) {
    const Item& item = items[i];
    const std::int64_t padded =
        static_cast<std::int64_t>(arrays.begin[i + 1] - arrays.begin[i]) * spec.vec;
    for (std::int64_t j = 0; j < padded; ++j) {
      const bool real = j < item.count;
      const std::uint32_t column = from_columns[item.begin + (real ? j : item.count - 1)];
      *columns++ = static_cast<Index>(spec.swizzled ? column ^ (column >> 3 & 7) : column);
      *values++ = real ? from_values[item.begin + j] : Bits{};
    }
  }
}

}  // namespace

ComposedArrays pack_composed(const CsrMatrix& csr, const PackSpec& spec) {
  if (csr.rows() >= std::int64_t{kPartial})
    fail(ErrorKind::kUnsupported, "composed: expected fewer than 2^31 rows, got {}", csr.rows());
  ComposedArrays arrays;
  std::vector<Item> items = cut_rows(csr, spec.longest_piece, arrays);
  std::stable_sort(items.begin(), items.end(),
                   [](const Item& a, const Item& b) { return a.count > b.count; });
  arrays.begin.reserve(items.size() + 1);
  arrays.target.reserve(items.size());
  std::int64_t vectors = 0;
  for (const Item& item : items) {
    arrays.begin.push_back(static_cast<std::uint32_t>(vectors));
    arrays.target.push_back(item.target);
    vectors += (item.count + spec.vec - 1) / spec.vec;
    if (vectors > std::numeric_limits<std::uint32_t>::max())
      fail(ErrorKind::kUnsupported, "composed: {} nonzeros are too many", csr.entries());
  }
  arrays.begin.push_back(static_cast<std::uint32_t>(vectors));
  const auto with_values = [&](auto index) {
    using Index = decltype(index);
    if (size_of(csr.dtype()) == 4) {
      fill<Index, std::uint32_t>(csr, items, spec, arrays);
    } else {
      fill<Index, std::uint16_t>(csr, items, spec, arrays);
    }
  };
  if (spec.index_bits == 16) {
    with_values(std::uint16_t{});
  } else {
    with_values(std::uint32_t{});
  }
  return arrays;
}

}  // namespace rarefy::gpu
