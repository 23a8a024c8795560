// Sparse matrix × dense matrix: the operator that Rarefy is about.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "rarefy/cpu.h"
#include "rarefy/error.h"
#include "rarefy/matrix.h"
#include "rarefy/tensor.h"
#include "rarefy/threads.h"

namespace rarefy {

enum class Activation : std::uint8_t {
  kNone,
  kRelu,
  kGelu,
  kSilu
};  ///< kGelu is the exact (erf) form.

const char* to_string(Activation activation);

/// Where the N columns of B and C lie.
enum class Layout : std::uint8_t {
  kTokenMajor,    ///< B is given as N rows of K values, C as N rows of M values: how a transformer
                  ///< keeps activations.
  kFeatureMajor,  ///< B is given as K rows of N values, C as M rows of N values.
};

/// How exactly f32 activations enter the multiplications.
enum class Precision : std::uint8_t {
  kExact,  ///< f32 activations keep at least 16 bits of mantissa (split in two bf16 where the units
           ///< take bf16).
  kBf16,   ///< Activations may be rounded to bf16 first, as PyTorch does for bf16 models. The
           ///< default for bf16 activations.
};

/// C = act(A·B + bias) + residual, with A M×K sparse, B K×N, C M×N; sums in f32.
struct SpmmArgs {
  ConstMatrixRef b;             ///< Activations; f32, f16 or bf16.
  MatrixRef c;                  ///< Result; f32, f16 or bf16; may not overlap b.
  const float* bias = nullptr;  ///< M values, or nullptr.
  Activation activation = Activation::kNone;
  ConstMatrixRef
      residual;  ///< Same shape, layout and dtype as c, or data == nullptr; may be c itself.
  Layout layout = Layout::kTokenMajor;
  Precision precision = Precision::kExact;
};

/// The shape of a multiplication, without its data: what kernels are chosen by.
struct SpmmProblem {
  std::int64_t m = 0, k = 0, n = 0;
  DType weight = DType::kBF16;
  DType activations = DType::kF32;  ///< dtype of B
  DType output = DType::kF32;       ///< dtype of C
  Precision precision = Precision::kExact;
  int threads = 1;
};

/// What one run costs, counted rather than measured.
struct SpmmCost {
  double bytes = 0;  ///< Read from memory when the weight is not in cache.
  double cycles =
      0;  ///< Core cycles of decoding and arithmetic, summed over all threads, were memory free.
};

/// One implementation of SpMM for one format, dtype set and instruction set; listed in
/// `spmm_kernels()`.
class SpmmKernel {
 public:
  virtual ~SpmmKernel() = default;
  [[nodiscard]] virtual std::string_view name()
      const = 0;  ///< "bitmap.amx", "csr.avx512.panels", unique.
  [[nodiscard]] virtual Isa isa() const = 0;
  /// Whether it runs matrices of this format at this problem on this CPU at the active instruction
  /// set, and if not, why.
  [[nodiscard]] virtual Support supports(const FormatSpec& spec,
                                         const SpmmProblem& problem) const = 0;
  /// Counted cost for a weight of this pattern packed in `spec`; `bytes` of the packed matrix may
  /// be exact or estimated.
  [[nodiscard]] virtual SpmmCost cost(const FormatSpec& spec, const PatternStats& pattern,
                                      const SpmmProblem& problem) const = 0;
  /// Arguments were checked by `spmm`; layout is kTokenMajor.
  virtual void run(const Matrix& a, const SpmmArgs& args, ThreadPool& pool) const = 0;
};

/// All kernels of this build, fastest families first; those of higher instruction sets than the
/// active one report so in `supports`.
std::span<const SpmmKernel* const> spmm_kernels();

/// nullptr when there is none of this name.
const SpmmKernel* find_spmm_kernel(std::string_view name);

/// The kernel that an unplanned call takes: the cheapest by `cost` among those that support the
/// problem (there is always one).
const SpmmKernel& default_spmm_kernel(const Matrix& a, const SpmmProblem& problem);

/// Runs C = act(A·B + bias) + residual with `kernel`, or with the default one. Bitwise the same for
/// any number of threads of `pool`. An activation that is not finite reaches every output that has
/// a stored weight for it; whether it reaches others (0·∞) is up to the format. Throws `Error`:
/// kInvalidArgument for shapes, strides or dtypes that do not fit, kUnsupported when `kernel`
/// cannot.
void spmm(const Matrix& a, const SpmmArgs& args, ThreadPool& pool = default_pool(),
          const SpmmKernel* kernel = nullptr);

/// The same in double, one product after the other, too simple to be wrong. c must be f64, M×N or
/// N×M as the layout says.
void spmm_reference(const RowSource& a, const SpmmArgs& args);

}  // namespace rarefy
