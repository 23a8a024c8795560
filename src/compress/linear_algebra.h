// The dense algebra of SparseGPT, on OpenBLAS and LAPACK. Matrices are row-major f32.
//
// Work is cut into tiles that do not depend on the number of threads, and each tile is one
// single-threaded library call made from our own pool: the answer is bitwise the same for any
// number of threads, which the library's own threading does not promise.
#pragma once

#include <cstdint>

#include "rarefy/tensor.h"
#include "rarefy/threads.h"

namespace rarefy::compress {

/// Keeps OpenBLAS to one thread while it lives, and restores what was set. The setting is global to
/// the process.
class SingleThreadedBlas {
 public:
  SingleThreadedBlas();
  ~SingleThreadedBlas();
  SingleThreadedBlas(const SingleThreadedBlas&) = delete;
  SingleThreadedBlas& operator=(const SingleThreadedBlas&) = delete;

 private:
  int previous_;
};

/// H += XᵀX, the lower triangle and the diagonal tiles of K×K `h`. x: T×K f32.
void add_gram(ConstMatrixRef x, float* h, ThreadPool& pool);

/// Turns the lower triangle of a symmetric n×n matrix into L with A = L·Lᵀ. The strict upper
/// triangle is left alone.
/// @return false when A is not positive definite; the lower triangle is then spoilt.
bool cholesky_lower(float* a, std::int64_t n, ThreadPool& pool);

/// Turns the lower triangle L into L⁻¹. The strict upper triangle is left alone.
void invert_lower(float* a, std::int64_t n, ThreadPool& pool);

/// C -= A·B for row-major A m×k, B k×n, C m×n with the given strides.
void subtract_product(std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
                      std::int64_t lda, const float* b, std::int64_t ldb, float* c,
                      std::int64_t ldc, ThreadPool& pool);

/// out = X·Wᵀ for row-major X t×k, W m×k, out t×m.
void multiply_transposed(std::int64_t t, std::int64_t m, std::int64_t k, const float* x,
                         const float* w, float* out);

}  // namespace rarefy::compress
