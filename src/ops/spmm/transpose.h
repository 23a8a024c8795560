// Between token-major and feature-major activations.
#pragma once

#include "rarefy/tensor.h"
#include "rarefy/threads.h"

namespace rarefy {

/// to[c, r] = from[r, c]; the same dtype, of 2 or 4 bytes; no overlap.
void transpose(const ConstMatrixRef& from, const MatrixRef& to, ThreadPool& pool);

}  // namespace rarefy
