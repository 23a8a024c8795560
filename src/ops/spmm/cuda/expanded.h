// Packed weights with many tokens: expanded into dense memory, then multiplied by cuBLASLt.
//
// A packed kernel reads its weight once for every few tokens. From some number on it is faster to
// write the weight out once, zeros and all, and to multiply densely: the expansion costs the
// weight's dense bytes over the memory's bandwidth, whatever the number of tokens. One buffer, as
// large as the largest weight, serves all weights of a stream.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <tuple>

#include "ops/spmm/cuda/dense_products.h"
#include "ops/spmm/cuda/device_spmm.h"

namespace rarefy::gpu {

/// Zeros for all of a problem's weight, before its nonzeros are stored there.
void clear_dense(const cuda::Stream& stream, const Problem& problem, cuda::abi::CUdeviceptr dense);

/// How many blocks take turns at what one of `blocks` multiplies: some for every multiprocessor,
/// however few a pass has.
unsigned expanding_turns(int blocks);

/// The fewest tokens at once for which expanding `source` is estimated to be faster than `packed`,
/// which takes `packed_us` for the problem's; empty when there are none, or `source` cannot be
/// expanded. Both hold the same weight, and may be one.
std::optional<std::int64_t> tokens_to_expand_for(const Operator& packed, const Operator& source,
                                                 const Problem& problem, double packed_us,
                                                 const cuda::DeviceFacts& device);

/// Makes operators of packed weights that expand where that is faster. Outlives none of them: what
/// they share is kept as long as one of them is.
class Expander {
 public:
  explicit Expander(const cuda::Stream& stream);

  /// `packed`, which is best for the problem's tokens, for any number of them; itself where
  /// expanding never pays. The result runs on the expander's stream only.
  /// @param expandable the same weight in a format that expands, where that of `packed` does not;
  ///                   nullptr: none
  [[nodiscard]] std::unique_ptr<Operator> wrap(std::unique_ptr<Operator> packed,
                                               const Problem& problem, double packed_us,
                                               std::unique_ptr<Operator> expandable = nullptr);

 private:
  struct Shared;
  std::shared_ptr<Shared> shared_;
};

}  // namespace rarefy::gpu
