// Loops in the widest vectors of a core: reading memory (the bandwidth ceilings, eviction) and
// multiplying (the clock under vector load).
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

/// A chain of `kSpinChain` dependent exclusive-ors an iteration, one cycle each on every CPU of the
/// last decades (additions of constants are free on recent ones), beside independent vector
/// multiplications that keep the clock where vector code has it.
inline constexpr int kSpinChain = 16;
using SpinVectors = std::uint64_t(std::int64_t iterations, std::uint64_t seed);

SpinVectors spin_vectors_portable;
SpinVectors spin_vectors_avx2;
SpinVectors spin_vectors_avx512;

/// The widest that this CPU has.
ReadStreams* widest_read_streams();
SpinVectors* widest_spin_vectors();

}  // namespace rarefy::planning
