// SpMM on a GPU: what its kernel families share, and how one is chosen and run.
//
// A family turns a problem into candidates: configurations that are legal by construction, each
// with an estimate, the source that must be compiled, and a function that packs the weight for it.
// Which candidate runs is decided by measuring (search.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cuda/compiler.h"
#include "cuda/device.h"
#include "cuda/stream.h"
#include "rarefy/matrix.h"
#include "rarefy/spmm.h"

namespace rarefy::gpu {

/// What a kernel is made for: C = act(A·B + bias) + residual, A M×K sparse, sums in f32.
struct Problem {
  std::int64_t m = 0, k = 0, n = 1;
  DType weight = DType::kF16;
  DType activations = DType::kF16;  ///< of B
  DType output = DType::kF16;       ///< of C and of the residual
  Layout layout = Layout::kTokenMajor;
  Activation activation = Activation::kNone;
  bool bias = false, residual = false;
  /// Sums may be added in any order, by atomics: a little faster where rows are cut into pieces,
  /// and other bits every time. Else a plan gives the same bits every time.
  bool any_order = false;
};

/// What the weight takes with its zeros.
inline std::size_t dense_bytes(const Problem& problem) {
  return static_cast<std::size_t>(problem.m * problem.k) * size_of(problem.weight);
}

/// Device addresses of one run. Strides count elements and lie between the rows of the layout:
/// tokens (kTokenMajor) or features (kFeatureMajor).
struct Operands {
  cuda::abi::CUdeviceptr b = 0;
  std::int64_t b_stride = 0;
  cuda::abi::CUdeviceptr c = 0;
  std::int64_t c_stride = 0;
  cuda::abi::CUdeviceptr bias = 0;      ///< M floats, when the problem has a bias.
  cuda::abi::CUdeviceptr residual = 0;  ///< May be c itself.
  std::int64_t residual_stride = 0;
  std::int64_t n = 1;  ///< Any number of tokens; fastest at the problem's.

  /// Tokens [first, first + count), token-major; elements of b, and of c and the residual.
  [[nodiscard]] Operands part(DType activations, DType output, std::int64_t first,
                              std::int64_t count) const;
};

/// Of operators that take any number of tokens at once.
constexpr std::int64_t kAnyNumber = std::int64_t{1} << 30;

/// A weight packed for one kernel configuration on one device. Immutable but for its scratch
/// memory: one stream at a time runs it. Deterministic, the same bits every time, unless the
/// problem allows any order.
class Operator {
 public:
  virtual ~Operator() = default;
  /// Launches only: may be recorded into a graph.
  virtual void enqueue(const cuda::Stream& stream, const Operands& operands) const = 0;
  /// Device memory of the packed weight, with everything that belongs to it.
  [[nodiscard]] virtual std::size_t bytes() const = 0;
  /// Tokens that one pass over the weight serves.
  [[nodiscard]] virtual std::int64_t tokens_a_pass() const { return 1; }
  /// Whether `expand` can write the weight out (expanded.h: how many tokens are multiplied).
  [[nodiscard]] virtual bool expands() const { return false; }
  /// Writes the weight with its zeros, bit for bit, to `dense`: M rows of K elements of its dtype,
  /// one after the other. Launches only.
  virtual void expand(const cuda::Stream& stream, cuda::abi::CUdeviceptr dense) const;
  /// The same with its own memory, so that measurements can rotate through copies.
  [[nodiscard]] virtual std::unique_ptr<Operator> copy(const cuda::Stream& stream) const = 0;
};

/// A weight on the host, as families pack it from.
struct Weight {
  const RowSource* source = nullptr;
  const PatternStats* pattern = nullptr;
  MatrixPtr csr;  ///< CSR with 32-bit columns, of the source's dtype.
};

struct Candidate {
  std::string name;        ///< "composed.csr16.g8.v4.u2.t512.shared": family first, unique.
  double estimate_us = 0;  ///< From counted bytes and issue slots.
  bool always = false;  ///< Measured whatever its estimate: dense, which no choice may lose to, and
                        ///< the first algorithm for 2:4 weights.
  cuda::Source source;  ///< Compiled ahead of `build`, by many threads; may be empty.
  /// Why this weight is not taken, before it takes another candidate's place among those that are
  /// measured; empty: it is taken. None: any weight is.
  std::function<std::string(const Weight& weight)> refuses;
  std::function<std::unique_ptr<Operator>(const Weight& weight, const cuda::Stream& stream)> build;
  /// Variations that are compiled and measured only if this is the fastest; their names begin with
  /// this one's. May be empty.
  std::function<std::vector<Candidate>()> refine;
};

class Family {
 public:
  virtual ~Family() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  [[nodiscard]] virtual Support supports(const Problem& problem,
                                         const cuda::DeviceFacts& device) const = 0;
  /// Every configuration that makes sense for the problem, in any order. `supports` said yes.
  [[nodiscard]] virtual std::vector<Candidate> candidates(
      const Problem& problem, const PatternStats& pattern,
      const cuda::DeviceFacts& device) const = 0;
  /// The text of every instance of the search space, over all dtypes: what the test of all kernels
  /// compiles for every GPU generation.
  [[nodiscard]] virtual std::vector<cuda::Source> all_sources() const = 0;
};

/// All families of this build.
std::span<const Family* const> families();

}  // namespace rarefy::gpu
