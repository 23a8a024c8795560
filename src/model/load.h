// From a checkpoint to packed weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "model/layer.h"
#include "rarefy/checkpoint.h"
#include "rarefy/model.h"

namespace rarefy::model {

/// A linear weight to load: which tensor, of what shape, where to.
struct WeightJob {
  Projection* projection;
  std::string tensor;
  std::int64_t rows, cols;
};

/// Bytes of all weights, dense in the checkpoint's dtypes.
std::size_t dense_bytes(const Checkpoint& checkpoint, std::span<const WeightJob> jobs);

/// Plans and packs one weight after the other and lets the pages of the file go that nothing
/// borrows. Throws `Error`: kCorrupt for a shape that config.json does not say or a value that is
/// not finite, and what planning and packing throw.
void load_weights(const Checkpoint& checkpoint, std::span<const WeightJob> jobs, Planner& planner,
                  const LoadOptions& options, ThreadPool& pool);

}  // namespace rarefy::model
