// Reading memory as fast as a core can: the loop behind the bandwidth ceilings and behind eviction.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rarefy::planning {

inline constexpr int kReadStreams = 8;

/// Xor of all words of [data, data + bytes), read as eight streams side by side, 512 bytes ahead of
/// use: one stream reaches little more than half of what a core can take from memory. `bytes` is a
/// multiple of 512, `data` 64-byte aligned.
using ReadStreams = std::uint64_t(const std::byte* data, std::size_t bytes);

ReadStreams read_streams_portable;
ReadStreams read_streams_avx2;
ReadStreams read_streams_avx512;

/// The widest that this CPU has.
ReadStreams* widest_read_streams();

}  // namespace rarefy::planning
