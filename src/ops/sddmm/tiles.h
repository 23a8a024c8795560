// SDDMM in tiles on AMX: bf16 operands packed once, then products of whole tiles, of which the
// stored places are kept. Both ways are only for CPUs whose active level is kAmx.
#pragma once

#include <cstdint>

#include "ops/sddmm/places.h"
#include "rarefy/tensor.h"

namespace rarefy {

/// Whether sddmm_blocks can make this matrix: blocks in strips, of a width that tiles divide.
bool in_tiles(const Matrix& pattern);

/// The blocks of a Bsr that is in_tiles, computed as they lie.
MatrixPtr sddmm_blocks(const Matrix& pattern, const ConstMatrixRef& p, const ConstMatrixRef& q,
                       ThreadPool& pool);

/// Computes the places of regions of 32×32 that hold enough of them to be worth it, judged by
/// counted costs of both ways, and returns the others for somebody else to compute. No places are
/// returned when all were computed, and all of them when tiles do not pay.
Places sddmm_regions(const Places& places, std::int64_t cols, const ConstMatrixRef& p,
                     const ConstMatrixRef& q, float* values, ThreadPool& pool);

/// Puts values of the places that sddmm_regions returned where they belong among all of them.
void merge_values(const Places& all, const Places& others, std::int64_t rows,
                  const float* other_values, float* values, ThreadPool& pool);

}  // namespace rarefy
