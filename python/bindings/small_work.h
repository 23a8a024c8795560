// Whether a call is worth more than the calling thread.
#pragma once

#include <cstdint>

#include "rarefy/threads.h"

namespace rarefy::python {

/// Products (stored values × tokens) below which one thread is done before others have woken.
inline constexpr std::int64_t kInlineProducts = 32768;

/// The default pool; for small work one that runs it on the calling thread. Results are the same
/// bits.
inline ThreadPool& pool_for(std::int64_t stored, std::int64_t tokens) {
  static auto* alone = new ThreadPool(1);  // As the default pools it outlives every call.
  return tokens <= 0 || stored < kInlineProducts / tokens ? *alone : default_pool();
}

}  // namespace rarefy::python
