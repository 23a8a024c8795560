// Weights on their way from a checkpoint into memory.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "rarefy/checkpoint.h"
#include "rarefy/tensor.h"
#include "rarefy/threads.h"

namespace rarefy::model {

/// The tensor `name`, checked to be rows×cols and finite. Dense tensors stay in the mapping;
/// compressed ones are decoded once by all of `pool`, so that planning and packing read plain rows.
/// Throws `Error` (kCorrupt) naming file and tensor.
std::shared_ptr<const RowSource> stage_weight(const Checkpoint& checkpoint, const std::string& name,
                                              std::int64_t rows, std::int64_t cols,
                                              ThreadPool& pool);

/// The same for one reader that wants as little memory as can be: nothing is staged, rows are
/// checked as they are read, and the pages behind them are dropped every few megabytes. Reading
/// throws what `stage_weight` would.
std::shared_ptr<const RowSource> stream_weight(std::shared_ptr<const Checkpoint> checkpoint,
                                               const std::string& name, std::int64_t rows,
                                               std::int64_t cols);

/// A 1-D tensor of `count` finite values as f32.
std::vector<float> stage_vector(const Checkpoint& checkpoint, const std::string& name,
                                std::int64_t count);

}  // namespace rarefy::model
