#include "formats/nm.h"

#include <atomic>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "formats/check_arrays.h"
#include "formats/packers.h"

namespace rarefy {
namespace {

/// The place in slot `slot`: at most 5 bits that straddle at most two bytes.
int place_at(const std::uint8_t* indices, std::int64_t slot, int width) {
  const std::int64_t bit = slot * width;
  const unsigned pair = indices[bit / 8] | (static_cast<unsigned>(indices[bit / 8 + 1]) << 8);
  return static_cast<int>((pair >> (bit % 8)) & ((1U << width) - 1));
}

/// Bits [k, k + count) of a row's masks, count ≤ 32; a zero word lies behind the last.
std::uint32_t mask_bits(const std::uint64_t* masks, std::int64_t k, int count) {
  const std::int64_t word = k / 64;
  const int shift = static_cast<int>(k % 64);
  std::uint64_t bits = masks[word] >> shift;
  if (shift != 0) bits |= masks[word + 1] << (64 - shift);
  return static_cast<std::uint32_t>(bits & ((std::uint64_t{1} << count) - 1));
}

/// Appends fields of `width` bits to whole bytes.
class BitWriter {
 public:
  BitWriter(std::uint8_t* to, int width) : to_(to), width_(width) {}
  void put(int field) {
    held_ |= static_cast<std::uint64_t>(field) << held_bits_;
    held_bits_ += width_;
    while (held_bits_ >= 8) {
      *to_++ = static_cast<std::uint8_t>(held_);
      held_ >>= 8;
      held_bits_ -= 8;
    }
  }

 private:
  std::uint8_t* to_;
  int width_;
  std::uint64_t held_ = 0;
  int held_bits_ = 0;
};

template <class Bits>
void fill_row(const MaskedRow& row, const FormatSpec& spec, std::int64_t cols, std::int64_t slots,
              Bits* values, std::uint8_t* indices) {
  const auto* from = static_cast<const Bits*>(row.values);
  BitWriter places(indices, NmMatrix::index_width(spec.m));
  std::int64_t slot = 0;
  for (std::int64_t k = 0; k < cols; k += spec.m) {
    const std::int64_t stop = slot + spec.n;
    for_each_bit(mask_bits(row.masks, k, spec.m), [&](int place) {
      values[slot++] = from[k + place];
      places.put(place);
    });
    for (; slot < stop; ++slot) {
      values[slot] = 0;
      places.put(0);
    }
  }
  for (; slot < slots; ++slot) {
    values[slot] = 0;
    places.put(0);
  }
}

/// The first place, in reading order, where a group holds too many; as row · K + column.
class FirstViolation {
 public:
  void report(std::int64_t place) {
    std::int64_t seen = first_.load(std::memory_order_relaxed);
    while (place < seen && !first_.compare_exchange_weak(seen, place)) {
    }
  }
  [[nodiscard]] std::int64_t first() const { return first_.load(); }
  static constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();

 private:
  std::atomic<std::int64_t> first_{kNone};
};

/// Counts nonzeros, and throws when the values break the pattern.
std::int64_t count_and_check(const RowSource& source, const FormatSpec& spec, DType dtype,
                             ThreadPool& pool) {
  const std::int64_t cols = source.cols();
  std::atomic<std::int64_t> nnz{0};
  FirstViolation violation;
  for_each_masked_row(source, dtype, pool, [&](const MaskedRow& row) {
    nnz.fetch_add(row.nnz, std::memory_order_relaxed);
    if (spec.n == spec.m) return;
    for (std::int64_t k = 0; k < cols; k += spec.m) {
      if (std::popcount(mask_bits(row.masks, k, spec.m)) > spec.n)
        return violation.report(row.row * cols + k);
    }
  });
  if (violation.first() != FirstViolation::kNone) {
    const std::int64_t k = violation.first() % cols;
    fail(ErrorKind::kUnsupported,
         "pack as {}: expected at most {} nonzeros in columns {} to {} of row {}, found more",
         spec.name(), spec.n, k, std::min(cols, k + spec.m) - 1, violation.first() / cols);
  }
  return nnz;
}

}  // namespace

NmMatrix::NmMatrix(const PackedShape& shape, Arrays arrays)
    : PackedMatrix(shape), arrays_(std::move(arrays)) {}

int NmMatrix::index_width(int m) {
  return std::bit_width(static_cast<unsigned>(m - 1));
}

std::int64_t NmMatrix::row_slots(const FormatSpec& spec, std::int64_t cols) {
  const std::int64_t slots = (cols + spec.m - 1) / spec.m * spec.n;
  return (slots + kSlotMultiple - 1) / kSlotMultiple * kSlotMultiple;
}

void NmMatrix::read_rows(std::int64_t begin, std::int64_t end, void* out) const {
  if (begin == end || cols() == 0) return;
  std::memset(out, 0, static_cast<std::size_t>((end - begin) * cols()) * size_of(dtype()));
  const int width = index_width(spec().m);
  dispatch_bits(dtype(), [&](auto zero) {
    using Bits = decltype(zero);
    auto* row = static_cast<Bits*>(out);
    for (std::int64_t r = begin; r < end; ++r, row += cols()) {
      const auto* value = static_cast<const Bits*>(values()) + r * row_slots();
      const std::uint8_t* places = indices() + r * row_index_bytes();
      std::int64_t slot = 0;
      for (std::int64_t k = 0; k < cols(); k += spec().m) {
        for (int s = 0; s < spec().n; ++s, ++slot) {
          if (value[slot] != 0) row[k + place_at(places, slot, width)] = value[slot];
        }
      }
    }
  });
}

std::size_t NmMatrix::bytes() const {
  return arrays_.values.size() + arrays_.indices.size();
}

void NmMatrix::validate() const {
  const std::int64_t slots = row_slots();
  check_size(*this, "values", arrays_.values,
             static_cast<std::size_t>(rows() * slots) * size_of(dtype()) + kTailBytes);
  check_size(*this, "indices", arrays_.indices,
             static_cast<std::size_t>(rows() * row_index_bytes()) + kTailBytes);
  const int width = index_width(spec().m);
  dispatch_bits(dtype(), [&](auto zero) {
    using Bits = decltype(zero);
    for (std::int64_t r = 0; r < rows(); ++r) {
      const auto* value = static_cast<const Bits*>(values()) + r * slots;
      const std::uint8_t* places = indices() + r * row_index_bytes();
      int last = -1;
      bool ended = false;
      for (std::int64_t slot = 0; slot < slots; ++slot) {
        if (slot % spec().n == 0) {
          last = -1;
          ended = false;
        }
        const std::int64_t left = cols() - slot / spec().n * spec().m;
        const int place = place_at(places, slot, width);
        if (value[slot] == 0) {
          ended = true;
          if (place == 0) continue;
          fail(ErrorKind::kCorrupt, "{} indices of row {}, slot {}: expected 0 (empty), found {}",
               spec().name(), r, slot, place);
        }
        if (ended || left <= 0) {
          fail(ErrorKind::kCorrupt, "{} values of row {}, slot {}: expected an empty slot",
               spec().name(), r, slot);
        }
        const std::int64_t stop = std::min<std::int64_t>(spec().m, left);
        if (place <= last || place >= stop) {
          fail(ErrorKind::kCorrupt, "{} indices of row {}, slot {}: expected {} to {}, found {}",
               spec().name(), r, slot, last + 1, stop - 1, place);
        }
        last = place;
      }
    }
  });
  check_nnz(*this, values(), rows() * slots);
}

Support can_pack_nm(const FormatSpec& spec, std::int64_t, std::int64_t, DType) {
  if (spec.n > spec.m || spec.m > NmMatrix::kMaxM) {
    return Support::no(fmt::format("N:M needs N <= M <= {}, got {}", NmMatrix::kMaxM, spec.name()));
  }
  return Support::yes();
}

MatrixPtr pack_nm(const RowSource& source, const FormatSpec& spec, DType dtype, ThreadPool& pool) {
  const std::int64_t rows = source.rows();
  const std::int64_t cols = source.cols();
  const std::int64_t nnz = count_and_check(source, spec, dtype, pool);
  const std::int64_t slots = NmMatrix::row_slots(spec, cols);
  const std::int64_t index_bytes = slots * NmMatrix::index_width(spec.m) / 8;
  NmMatrix::Arrays arrays;
  arrays.values = buffer_with_tail(static_cast<std::size_t>(rows * slots) * size_of(dtype));
  arrays.indices = buffer_with_tail(static_cast<std::size_t>(rows * index_bytes));
  for_each_masked_row(source, dtype, pool, [&](const MaskedRow& row) {
    dispatch_bits(dtype, [&](auto zero) {
      using Bits = decltype(zero);
      fill_row(row, spec, cols, slots, arrays.values.as<Bits>() + row.row * slots,
               arrays.indices.as<std::uint8_t>() + row.row * index_bytes);
    });
  });
  return std::make_shared<NmMatrix>(PackedShape{spec, rows, cols, dtype, nnz}, std::move(arrays));
}

}  // namespace rarefy
