#include "io/bitmask_kernels.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "rarefy/cpu.h"

namespace rarefy::io {
namespace {

std::uint64_t load_word(const std::uint8_t* bytes, std::size_t count) {
  std::uint64_t word = 0;
  std::memcpy(&word, bytes, count);
  return word;
}

template <class Element>
void expand(const void* values, std::size_t /*available*/, const std::uint8_t* bits,
            std::size_t cols, void* out) {
  const auto* from = static_cast<const std::byte*>(values);
  auto* to = static_cast<std::byte*>(out);
  std::memset(to, 0, cols * sizeof(Element));
  for (std::size_t c = 0; c < cols; c += 64) {
    std::uint64_t word = load_word(bits + c / 8, (std::min<std::size_t>(cols - c, 64) + 7) / 8);
    for (; word != 0; word &= word - 1, from += sizeof(Element)) {
      const std::size_t at = c + static_cast<std::size_t>(std::countr_zero(word));
      std::memcpy(to + at * sizeof(Element), from, sizeof(Element));
    }
  }
}

template <class Element>
std::size_t compress(const void* dense, std::size_t cols, void* values, std::uint8_t* bits) {
  constexpr auto kMagnitude =
      static_cast<Element>(static_cast<Element>(~Element{0}) >> 1);  // all but the sign
  const auto* from = static_cast<const std::byte*>(dense);
  auto* to = static_cast<std::byte*>(values);
  std::size_t stored = 0;
  for (std::size_t c = 0; c < cols; c += 8) {
    unsigned mask = 0;
    for (std::size_t i = 0; i < std::min<std::size_t>(cols - c, 8); ++i) {
      Element element;
      std::memcpy(&element, from + (c + i) * sizeof(Element), sizeof(Element));
      // Written whether kept or not, so that nothing here branches on the data.
      std::memcpy(to + stored * sizeof(Element), &element, sizeof(Element));
      const bool kept = (element & kMagnitude) != 0;
      mask |= static_cast<unsigned>(kept) << i;
      stored += static_cast<std::size_t>(kept);
    }
    bits[c / 8] = static_cast<std::uint8_t>(mask);
  }
  return stored;
}

std::uint64_t count(const std::uint8_t* bits, std::size_t bytes) {
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < bytes; i += 8) {
    total += static_cast<std::uint64_t>(
        std::popcount(load_word(bits + i, std::min<std::size_t>(bytes - i, 8))));
  }
  return total;
}

}  // namespace

const BitmaskKernels kPortableBitmask = {expand<std::uint16_t>, expand<std::uint32_t>,
                                         compress<std::uint16_t>, compress<std::uint32_t>, count};

const BitmaskKernels& bitmask_kernels() {
#if defined(__x86_64__)
  if (active_isa() >= Isa::kAvx512) return kAvx512Bitmask;
#endif
  return kPortableBitmask;
}

}  // namespace rarefy::io
