#include "formats/delta.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "formats/check_arrays.h"
#include "formats/packers.h"

namespace rarefy {
namespace {

/// Code i of a list of `bits`-wide codes.
template <int bits>
int code_at(const std::uint8_t* codes, std::int64_t i) {
  if constexpr (bits == 8) return codes[i];
  return (codes[i / 2] >> (i % 2 * 4)) & 0xF;
}

template <class Body>
decltype(auto) dispatch_code_bits(int bits, Body&& body) {
  if (bits == 8) return body(std::integral_constant<int, 8>{});
  return body(std::integral_constant<int, 4>{});
}

/// Codes that a row takes before padding: one a nonzero, and its escapes.
std::int64_t count_codes(const MaskedRow& row, std::int64_t words, std::int64_t reach) {
  std::int64_t last = -1;
  std::int64_t escapes = 0;
  for (std::int64_t word = 0; word < words; ++word) {
    for_each_bit(row.masks[word], [&](int bit) {
      const std::int64_t k = word * 64 + bit;
      if (k - last > reach) escapes += (k - last - 1) / reach;
      last = k;
    });
  }
  return row.nnz + escapes;
}

/// Writes codes one after the other; 4-bit codes meet in zeroed bytes.
template <int bits>
class CodeWriter {
 public:
  explicit CodeWriter(std::uint8_t* codes) : codes_(codes) {}
  void put(std::int64_t code) {
    if constexpr (bits == 8) {
      codes_[at_] = static_cast<std::uint8_t>(code);
    } else {
      codes_[at_ / 2] = static_cast<std::uint8_t>(codes_[at_ / 2] | (code << (at_ % 2 * 4)));
    }
    ++at_;
  }
  void escape(std::int64_t count) { at_ += count; }  // Escapes are zeros, as the bytes already are.

 private:
  std::uint8_t* codes_;
  std::int64_t at_ = 0;
};

template <int bits, class Bits>
void fill_row(const MaskedRow& row, std::int64_t words, std::uint8_t* codes, Bits* values) {
  constexpr std::int64_t kReach = (1 << bits) - 1;
  const auto* from = static_cast<const Bits*>(row.values);
  CodeWriter<bits> writer(codes);
  std::int64_t last = -1;
  for (std::int64_t word = 0; word < words; ++word) {
    for_each_bit(row.masks[word], [&](int bit) {
      const std::int64_t k = word * 64 + bit;
      std::int64_t gap = k - last;
      if (gap > kReach) {
        const std::int64_t escapes = (gap - 1) / kReach;
        writer.escape(escapes);
        gap -= escapes * kReach;
      }
      writer.put(gap);
      *values++ = from[k];
      last = k;
    });
  }
}

template <int bits>
void check_rows(const DeltaMatrix& a) {
  constexpr std::int64_t kReach = (1 << bits) - 1;
  for (std::int64_t r = 0; r < a.rows(); ++r) {
    const std::int64_t begin = a.group_offsets()[r];
    const std::uint8_t* codes = a.codes() + begin * DeltaMatrix::kGroupBytes;
    const std::int64_t count = (a.group_offsets()[r + 1] - begin) * a.group_codes();
    std::int64_t column = -1;
    std::int64_t values = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const int code = code_at<bits>(codes, i);
      column += code == 0 ? kReach : code;
      if (code == 0) continue;
      ++values;
      if (column >= a.cols()) {
        fail(ErrorKind::kCorrupt,
             "{} codes of row {}, code {}: expected a column below {}, found {}", a.spec().name(),
             r, i, a.cols(), column);
      }
    }
    const std::int64_t expected = a.value_offsets()[r + 1] - a.value_offsets()[r];
    if (values != expected) {
      fail(ErrorKind::kCorrupt, "{} codes of row {}: expected {} values, found {}", a.spec().name(),
           r, expected, values);
    }
  }
}

}  // namespace

DeltaMatrix::DeltaMatrix(const PackedShape& shape, Arrays arrays)
    : PackedMatrix(shape), arrays_(std::move(arrays)) {}

void DeltaMatrix::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  if (begin == end || cols() == 0) return;
  std::memset(out, 0, static_cast<std::size_t>((end - begin) * cols()) * size_of(dtype()));
  dispatch_code_bits(code_bits(), [&](auto width) {
    constexpr int kBits = decltype(width)::value;
    constexpr std::int64_t kReach = (1 << kBits) - 1;
    dispatch_bits(dtype(), [&](auto zero) {
      using Bits = decltype(zero);
      auto* row = static_cast<Bits*>(out);
      for (std::int64_t r = begin; r < end; ++r, row += cols()) {
        const std::uint8_t* list = codes() + group_offsets()[r] * kGroupBytes;
        const auto* value = static_cast<const Bits*>(values()) + value_offsets()[r];
        const auto* stop = static_cast<const Bits*>(values()) + value_offsets()[r + 1];
        std::int64_t column = -1;
        for (std::int64_t i = 0; value != stop; ++i) {
          const int code = code_at<kBits>(list, i);
          column += code == 0 ? kReach : code;
          if (code != 0) row[column] = *value++;
        }
      }
    });
  });
}

std::size_t DeltaMatrix::bytes() const {
  return arrays_.group_offsets.size() + arrays_.value_offsets.size() + arrays_.codes.size() +
         arrays_.values.size();
}

void DeltaMatrix::validate() const {
  const std::int64_t groups = check_offsets(*this, "group_offsets", arrays_.group_offsets, rows());
  const std::int64_t stored = check_offsets(*this, "value_offsets", arrays_.value_offsets, rows());
  check_size(*this, "codes", arrays_.codes,
             static_cast<std::size_t>(groups * kGroupBytes) + kTailBytes);
  check_size(*this, "values", arrays_.values,
             static_cast<std::size_t>(stored) * size_of(dtype()) + kTailBytes);
  dispatch_code_bits(code_bits(), [&](auto width) { check_rows<decltype(width)::value>(*this); });
  check_nnz(*this, values(), stored);
}

Support can_pack_delta(const FormatSpec&, std::int64_t, std::int64_t, DType) {
  return Support::yes();
}

MatrixPtr pack_delta(const RowSource& source, const FormatSpec& spec, DType dtype,
                     ThreadPool& pool) {
  const std::int64_t rows = source.rows();
  const std::int64_t words = (source.cols() + 63) / 64;
  const std::int64_t reach = (std::int64_t{1} << spec.index_bits) - 1;
  const std::int64_t group_codes = DeltaMatrix::kGroupBytes * 8 / spec.index_bits;
  const std::size_t offset_bytes = static_cast<std::size_t>(rows + 1) * sizeof(std::int64_t);
  DeltaMatrix::Arrays arrays;
  arrays.group_offsets = Buffer(offset_bytes);
  arrays.value_offsets = Buffer(offset_bytes);
  auto* groups = arrays.group_offsets.as<std::int64_t>();
  auto* offsets = arrays.value_offsets.as<std::int64_t>();
  for_each_masked_row(source, dtype, pool, [&](const MaskedRow& row) {
    offsets[row.row + 1] = row.nnz;
    groups[row.row + 1] = (count_codes(row, words, reach) + group_codes - 1) / group_codes;
  });
  const std::int64_t nnz = to_offsets(offsets, rows);
  const std::int64_t group_count = to_offsets(groups, rows);

  arrays.codes = buffer_with_tail(static_cast<std::size_t>(group_count * DeltaMatrix::kGroupBytes));
  arrays.values = buffer_with_tail(static_cast<std::size_t>(nnz) * size_of(dtype));
  for_each_masked_row(source, dtype, pool, [&](const MaskedRow& row) {
    const std::int64_t first = groups[row.row];
    std::uint8_t* codes = arrays.codes.as<std::uint8_t>() + first * DeltaMatrix::kGroupBytes;
    std::memset(codes, 0,
                static_cast<std::size_t>((groups[row.row + 1] - first) * DeltaMatrix::kGroupBytes));
    dispatch_code_bits(spec.index_bits, [&](auto width) {
      dispatch_bits(dtype, [&](auto zero) {
        using Bits = decltype(zero);
        fill_row<decltype(width)::value>(row, words, codes,
                                         arrays.values.as<Bits>() + offsets[row.row]);
      });
    });
  });
  return std::make_shared<DeltaMatrix>(PackedShape{spec, rows, source.cols(), dtype, nnz},
                                       std::move(arrays));
}

}  // namespace rarefy
