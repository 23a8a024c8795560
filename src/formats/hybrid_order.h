// Rows and columns of a weight in the order of their nonzeros.
#pragma once

#include <vector>

#include "rarefy/matrix.h"

namespace rarefy {

/// Which row (or column) lies at each place; empty: its own.
struct StoredOrder {
  std::vector<std::int32_t> rows, cols;
};

/// Most nonzeros first, those of equally many in their own order; rows within each `scope` of them.
StoredOrder order_by_nonzeros(const RowSource& source, DType dtype, bool rows, std::int64_t scope,
                              bool cols, ThreadPool& pool);

/// A source whose rows and columns are moved. Values are of `dtype`.
class OrderedSource final : public RowSource {
 public:
  OrderedSource(const RowSource& source, DType dtype, const StoredOrder& order)
      : source_(source), dtype_(dtype), order_(order) {}
  [[nodiscard]] std::int64_t rows() const override { return source_.rows(); }
  [[nodiscard]] std::int64_t cols() const override { return source_.cols(); }
  [[nodiscard]] DType dtype() const override { return dtype_; }
  void read_rows(std::int64_t begin, std::int64_t end, void* out) const override;

 private:
  const RowSource& source_;
  DType dtype_;
  const StoredOrder& order_;
};

}  // namespace rarefy
