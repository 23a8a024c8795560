#include "compress/linear_algebra.h"

#include <cblas.h>
#include <lapacke.h>

#include <algorithm>
#include <vector>

#include "base/check.h"

namespace rarefy::compress {
namespace {

/// Rows of a tile. 256 keeps a call's operands in L2 and its arithmetic above 90 % of the library's
/// peak; 2048 columns still make 8 tasks.
constexpr std::int64_t kTile = 256;
/// A gram matrix of 192 inputs would be one task of 256: its tiles are smaller.
constexpr std::int64_t kGramTile = 128;

std::int64_t tiles(std::int64_t n, std::int64_t tile) {
  return (n + tile - 1) / tile;
}

int narrow(std::int64_t n) {
  return static_cast<int>(n);
}

}  // namespace

SingleThreadedBlas::SingleThreadedBlas() : previous_(openblas_get_num_threads()) {
  openblas_set_num_threads(1);
}

SingleThreadedBlas::~SingleThreadedBlas() {
  openblas_set_num_threads(previous_);
}

void add_gram(ConstMatrixRef x, float* h, ThreadPool& pool) {
  const std::int64_t k = x.cols;
  const std::int64_t count = tiles(k, kGramTile);
  pool.parallel_dynamic(count, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t task = first; task < last; ++task) {
      const std::int64_t begin = (count - 1 - task) * kGramTile;  // The longest first.
      const std::int64_t end = std::min(k, begin + kGramTile);
      cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, narrow(end - begin), narrow(end),
                  narrow(x.rows), 1.0F, x.row<float>(0) + begin, narrow(x.row_stride),
                  x.row<float>(0), narrow(x.row_stride), 1.0F, h + begin * k, narrow(k));
    }
  });
}

bool cholesky_lower(float* a, std::int64_t n, ThreadPool& pool) {
  const int stride = narrow(n);
  for (std::int64_t k = 0; k < n; k += kTile) {
    const std::int64_t next = std::min(n, k + kTile);
    const int width = narrow(next - k);
    float* const diagonal = a + k * n + k;
    // Row-major lower is column-major upper.
    if (LAPACKE_spotrf_work(LAPACK_COL_MAJOR, 'U', width, diagonal, stride) != 0) return false;
    const std::int64_t count = tiles(n - next, kTile);
    pool.parallel_dynamic(count, 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t t = first; t < last; ++t) {
        const std::int64_t row = next + t * kTile;
        cblas_strsm(CblasRowMajor, CblasRight, CblasLower, CblasTrans, CblasNonUnit,
                    narrow(std::min(kTile, n - row)), width, 1.0F, diagonal, stride,
                    a + row * n + k, stride);
      }
    });
    pool.parallel_dynamic(count, 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t t = first; t < last; ++t) {
        const std::int64_t row = next + (count - 1 - t) * kTile;
        const int height = narrow(std::min(kTile, n - row));
        const float* const left = a + row * n + k;
        if (row > next) {
          cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, height, narrow(row - next), width,
                      -1.0F, left, stride, a + next * n + k, stride, 1.0F, a + row * n + next,
                      stride);
        }
        cblas_ssyrk(CblasRowMajor, CblasLower, CblasNoTrans, height, width, -1.0F, left, stride,
                    1.0F, a + row * n + row, stride);
      }
    });
  }
  return true;
}

void invert_lower(float* a, std::int64_t n, ThreadPool& pool) {
  // From the last block column to the first: with T = L[next:, next:]⁻¹ already there,
  // the column below the diagonal becomes -T · L[next:, k:next] · D⁻¹, D the diagonal block.
  const int stride = narrow(n);
  std::vector<float> column;
  for (std::int64_t k = (tiles(n, kTile) - 1) * kTile; k >= 0; k -= kTile) {
    const std::int64_t next = std::min(n, k + kTile);
    const std::int64_t below = n - next;
    const int width = narrow(next - k);
    float* const diagonal = a + k * n + k;
    const int info = LAPACKE_strtri_work(LAPACK_COL_MAJOR, 'U', 'N', width, diagonal, stride);
    if (info != 0) fail(ErrorKind::kInternal, "inverse of a triangle: zero on the diagonal");
    column.resize(static_cast<std::size_t>(below * width));
    for (std::int64_t row = 0; row < below; ++row)
      std::copy_n(a + (next + row) * n + k, width, column.data() + row * width);
    const std::int64_t count = tiles(below, kTile);
    pool.parallel_dynamic(count, 1, [&](std::int64_t first, std::int64_t last) {
      for (std::int64_t t = first; t < last; ++t) {
        const std::int64_t local = (count - 1 - t) * kTile;
        const std::int64_t row = next + local;
        const int height = narrow(std::min(kTile, n - row));
        float* const out = a + row * n + k;  // Holds its own rows of `column` already.
        cblas_strmm(CblasRowMajor, CblasLeft, CblasLower, CblasNoTrans, CblasNonUnit, height, width,
                    1.0F, a + row * n + row, stride, out, stride);
        if (local > 0) {
          cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, height, width, narrow(local), 1.0F,
                      a + row * n + next, stride, column.data(), width, 1.0F, out, stride);
        }
        cblas_strmm(CblasRowMajor, CblasRight, CblasLower, CblasNoTrans, CblasNonUnit, height,
                    width, -1.0F, diagonal, stride, out, stride);
      }
    });
  }
}

void subtract_product(std::int64_t m, std::int64_t n, std::int64_t k, const float* a,
                      std::int64_t lda, const float* b, std::int64_t ldb, float* c,
                      std::int64_t ldc, ThreadPool& pool) {
  if (n == 0) return;
  pool.parallel_dynamic(tiles(m, kTile), 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t t = first; t < last; ++t) {
      const std::int64_t row = t * kTile;
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, narrow(std::min(kTile, m - row)),
                  narrow(n), narrow(k), -1.0F, a + row * lda, narrow(lda), b, narrow(ldb), 1.0F,
                  c + row * ldc, narrow(ldc));
    }
  });
}

void multiply_transposed(std::int64_t t, std::int64_t m, std::int64_t k, const float* x,
                         const float* w, float* out) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, narrow(t), narrow(m), narrow(k), 1.0F, x,
              narrow(k), w, narrow(k), 0.0F, out, narrow(m));
}

}  // namespace rarefy::compress
