// Rows to and from bitmasks: bit c of the mask (little bit order) is set where element c is stored;
// the stored elements follow each other. One table an instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rarefy::io {

struct BitmaskKernels {
  /// Writes `cols` elements of 2 or 4 bytes: the next of `values` where the bit is set, else zero.
  /// `available` counts the elements that may be read from `values` on; at least the set bits.
  void (*expand16)(const void* values, std::size_t available, const std::uint8_t* bits,
                   std::size_t cols, void* out);
  void (*expand32)(const void* values, std::size_t available, const std::uint8_t* bits,
                   std::size_t cols, void* out);
  /// The inverse: stores mask and non-zero elements (±0 is zero) and returns their number. `values`
  /// has room for `cols` elements.
  std::size_t (*compress16)(const void* dense, std::size_t cols, void* values, std::uint8_t* bits);
  std::size_t (*compress32)(const void* dense, std::size_t cols, void* values, std::uint8_t* bits);
  /// Set bits of `bytes` bytes.
  std::uint64_t (*count)(const std::uint8_t* bits, std::size_t bytes);
};

extern const BitmaskKernels kPortableBitmask;
extern const BitmaskKernels kAvx512Bitmask;

/// The table for `active_isa()`.
const BitmaskKernels& bitmask_kernels();

}  // namespace rarefy::io
