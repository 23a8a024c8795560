// Strips with AVX-512: a column of 16 outputs is one vector, and the activation a broadcast operand
// of the multiply-add, so that 16 tokens cost 16 instructions a column and nothing else.
//
// bf16 goes by shift/and and f32 multiply-adds: vdpbf16ps has half their rate (77 against 157
// GFLOP/s a core) and would round activations.

#include "ops/spmm/cpu/strip_fma.h"
#include "ops/spmm/cpu/vector16_avx512.h"

namespace rarefy::strip {

void run_f32_avx512(const Unit& unit, const Activations& x, const Unit*) {
  run_unit<Vector512, F32Weights>(unit, x);
}
void run_f16_avx512(const Unit& unit, const Activations& x, const Unit*) {
  run_unit<Vector512, F16Weights>(unit, x);
}
void run_bf16_avx512(const Unit& unit, const Activations& x, const Unit*) {
  run_unit<Vector512, Bf16Weights>(unit, x);
}

}  // namespace rarefy::strip
