// Weights that callers pass: arrays, packed matrices, tensors of checkpoints.
#pragma once

#include <memory>
#include <optional>

#include "array.h"
#include "packed.h"
#include "rarefy/tensor.h"

namespace rarefy::python {

/// A weight that is read row by row as Python holds it: a tensor of a checkpoint.
struct Source {
  std::shared_ptr<const RowSource> rows;
};

/// Any weight as a RowSource, valid as long as this and the caller's argument are.
class SourceArgument {
 public:
  /// Throws `Error` (kInvalidArgument) for what is no matrix of f32, f16 or bf16.
  SourceArgument(const ArrayArgument& weight, const char* name);
  [[nodiscard]] const RowSource& operator*() const { return *rows_; }

 private:
  std::shared_ptr<const RowSource> rows_;
  std::optional<Array> array_;
};

/// Rows of `source` densely into `out`, a matrix of its shape, rounded to out's dtype.
void read_dense(const RowSource& source, const ArrayArgument& out);

}  // namespace rarefy::python
