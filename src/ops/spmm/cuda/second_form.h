// Whether a weight gets a second form for many tokens, and from how many on it runs: what estimates
// and measured times say, without a GPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace rarefy::gpu {

/// What a form of a weight costs for many tokens.
struct FormCost {
  double bytes = 0, us = 0;
};

enum class SecondForm : std::uint8_t {
  kBlocks,  ///< Without the blocks that are empty.
  kDense,   ///< With all zeros.
};

/// The second forms that a weight may have beside one of `few_bytes`, best first.
/// @param blocks every way to store the weight as blocks
/// @param weight_memory both forms' most bytes, as a share of the dense form's
std::vector<SecondForm> second_forms(std::size_t few_bytes, const FormCost& dense,
                                     std::span<const FormCost> blocks, double weight_memory);

/// The time of a packed kernel, which reads its weight once for every few tokens.
struct Passes {
  Passes(std::int64_t tokens_a_pass, std::int64_t n, double us_for_n);
  [[nodiscard]] double us(std::int64_t n) const;
  /// The fewest tokens of every number of passes, more than n's, up to `most` tokens.
  [[nodiscard]] std::vector<std::int64_t> starts(std::int64_t most) const;

 private:
  [[nodiscard]] std::int64_t count(std::int64_t n) const;
  std::int64_t tokens_, n_;
  double a_pass_us_;
};

/// Of a dense product with n tokens, from what it takes for few, when it waits for its weight, and
/// for `many`, when it does not.
double roofline_us(std::int64_t n, double few_us, std::int64_t many, double many_us);

/// The first of `tokens`, in rising order, for which `other_us` is less than the passes take.
std::optional<std::int64_t> first_faster(std::span<const std::int64_t> tokens, const Passes& few,
                                         const std::function<double(std::int64_t)>& other_us);

}  // namespace rarefy::gpu
