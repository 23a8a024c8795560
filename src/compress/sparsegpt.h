// SparseGPT: weights go column by column, and those to the right make up for each loss (Frantar &
// Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot").
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "compress/weight.h"
#include "rarefy/tensor.h"

namespace rarefy::compress {

/// H = XᵀX over all tokens seen. The paper's factor 2 and the authors' division by the number of
/// samples cancel: neither masks nor updates depend on the scale of H.
class Hessian {
 public:
  explicit Hessian(std::int64_t inputs);
  void add(ConstMatrixRef x, ThreadPool& pool);  ///< x: T×K f32
  [[nodiscard]] std::int64_t inputs() const { return inputs_; }
  [[nodiscard]] float* data() { return h_.as<float>(); }  ///< K×K, the lower triangle filled.
  [[nodiscard]] Buffer release() { return std::move(h_); }

 private:
  std::int64_t inputs_;
  Buffer h_;
};

/// U, upper triangular, with H⁻¹ = UᵀU: all that the updates need to know about the inputs.
struct InverseFactor {
  std::int64_t inputs = 0;
  Buffer upper;                    ///< K×K row-major; only the upper triangle means anything.
  std::vector<std::uint8_t> dead;  ///< 1 where an input was always zero.

  [[nodiscard]] const float* row(std::int64_t i) const { return upper.as<float>() + i * inputs; }
};

/// Takes H with `dampening`·mean(diag H) added to its diagonal; a dead input gets a diagonal of 1
/// first, as in the authors' code. When the sum is still not positive definite in f32, dampening is
/// multiplied by ten, at most five times.
///
/// One Cholesky factorisation and one triangular inverse of H with its rows and columns reversed
/// give U directly: with JHJ = LLᵀ (J the reversal), H = (JLJ)(JLJ)ᵀ and U = (JLJ)⁻¹ = J L⁻¹ J.
/// That is 2/3 K³ instead of the 4/3 K³ of inverting H and factorising the inverse, and loses no
/// digits to an explicit inverse.
/// @throws Error that names `weight_name` when inputs are not finite or H stays indefinite.
InverseFactor factorise(Hessian hessian, double dampening, const std::string& weight_name,
                        ThreadPool& pool);

struct SparseGptRule {
  PrunePattern pattern;
  PruneScope scope = PruneScope::kTensor;  ///< Within a block of columns: kTensor all rows together
                                           ///< (the paper), kRow each row for itself.
  double sparsity = 0.5;
  std::int64_t block_size = 128;  ///< Columns whose updates are applied lazily together.
};

/// For each block of columns: choose the weights with the smallest w²/U_jj² (N:M chooses when its
/// group is reached, with the weights as they are by then), then, column by column, err = w_j/U_jj
/// for those that go and w_l -= err·U_jl for the columns l ≥ j; later blocks get the block's errors
/// in one product. Of a block of n weights exactly round(sparsity·n) go.
///
/// Weights of dead inputs go. Weights that are zero already stay zero, and count. Width is rounded
/// up to whole groups or blocks of the pattern. Rows are independent and worked on in parallel.
/// @return Σerr², which is tr(ΔHΔᵀ), Δ = W-Ŵ before Ŵ is rounded to the weight's dtype, H damped.
double prune_sparsegpt(DenseWeight& weight, const InverseFactor& factor, const SparseGptRule& rule,
                       ThreadPool& pool);

}  // namespace rarefy::compress
