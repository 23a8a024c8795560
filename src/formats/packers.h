// One packer a format, and the table that `pack` and `can_pack` look them up in.
//
// A new format adds two declarations here and one line to the table in pack.cc. A packer may rely
// on this: its own `can_pack_…` said yes to (spec, rows, cols, dtype), and dtype is f32, f16 or
// bf16. It must treat the values *after* rounding to `dtype` (panels.h does so), count them, and
// give the same bits for any number of threads.
#pragma once

#include <cstdint>

#include "rarefy/matrix.h"

namespace rarefy {

using CanPack = Support(const FormatSpec& spec, std::int64_t rows, std::int64_t cols, DType dtype);
using Pack = MatrixPtr(const RowSource& source, const FormatSpec& spec, DType dtype,
                       ThreadPool& pool);

CanPack can_pack_dense_rows;
Pack pack_dense_rows;

CanPack can_pack_dense_tiles;
Pack pack_dense_tiles;

CanPack can_pack_csr;
Pack pack_csr;

CanPack can_pack_bitmap;
Pack pack_bitmap;

CanPack can_pack_delta;
Pack pack_delta;

CanPack can_pack_window;
Pack pack_window;

CanPack can_pack_csb;
Pack pack_csb;

CanPack can_pack_sell;
Pack pack_sell;

CanPack can_pack_nm;
Pack pack_nm;

CanPack can_pack_bsr;
Pack pack_bsr;

CanPack can_pack_hybrid;
Pack pack_hybrid;

}  // namespace rarefy
