// Strips with AVX-512: a column of 16 outputs is one vector. Four strips times 6 tokens keep 24
// sums in registers and need 10 loads for 24 multiply-adds; one strip times 16 tokens, 17 loads for
// 16, took a quarter longer.
//
// bf16 goes by shift/and and f32 multiply-adds: vdpbf16ps has half their rate (77 against 157
// GFLOP/s a core) and would round activations.

#include "ops/spmm/cpu/strip_fma.h"
#include "ops/spmm/cpu/vector16_avx512.h"

namespace rarefy::strip {

void run_f32_avx512(const Unit& unit, const Activations& x, const Unit* next) {
  run_unit<Vector512, F32Weights>(unit, x, next);
}
void run_f16_avx512(const Unit& unit, const Activations& x, const Unit* next) {
  run_unit<Vector512, F16Weights>(unit, x, next);
}
void run_bf16_avx512(const Unit& unit, const Activations& x, const Unit* next) {
  run_unit<Vector512, Bf16Weights>(unit, x, next);
}

}  // namespace rarefy::strip
