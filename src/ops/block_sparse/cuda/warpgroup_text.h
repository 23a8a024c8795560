// The wgmma instruction names each of its registers, so its wrapper is written out for a shape.
#pragma once

#include <string>

#include "rarefy/dtype.h"

namespace rarefy::gpu {

struct WarpgroupProduct {
  int columns = 64;  ///< N: a multiple of 8 up to 256.
  DType dtype = DType::kBF16;
  bool transposed_a = false, transposed_b = false;  ///< Operands with rows along K.
  bool a_in_registers = false;                      ///< As mma.m16n8k16 has it; not transposed.
};

/// `multiply(float (&sums)[columns / 2], u64 a, u64 b)` in device code: sums += a·b for 64 rows and
/// a K of 16, both operands in shared memory (operand.cuh describes them), or with `const u32
/// (&a)[4]`.
std::string warpgroup_text(const WarpgroupProduct& product);

}  // namespace rarefy::gpu
