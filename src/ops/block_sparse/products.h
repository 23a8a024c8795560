// The two ways of multiplying with blocks, chosen by block_sparse.cc, which has checked everything.
#pragma once

#include "ops/block_sparse/pattern.h"
#include "rarefy/block_sparse.h"

namespace rarefy {

/// In f32, by multiply-adds: any blocks, any dtypes, any CPU.
void multiply_blocks_fma(const BlockGroups& groups, const ConstBlockValues& values,
                         const SpmmArgs& args, ThreadPool& pool);
void sample_blocks_fma(const BlockPattern& pattern, const ConstMatrixRef& p,
                       const ConstMatrixRef& q, const BlockValues& out, ThreadPool& pool);

/// bf16 values on AMX. The active level must be kAmx.
bool fits_amx(const BlockGroups& groups, const ConstBlockValues& values, const SpmmArgs& args);
void multiply_blocks_amx(const BlockGroups& groups, const ConstBlockValues& values,
                         const SpmmArgs& args, ThreadPool& pool);
bool fits_amx(const BlockPattern& pattern, const ConstMatrixRef& p);
void sample_blocks_amx(const BlockPattern& pattern, const ConstMatrixRef& p,
                       const ConstMatrixRef& q, const BlockValues& out, ThreadPool& pool);

}  // namespace rarefy
