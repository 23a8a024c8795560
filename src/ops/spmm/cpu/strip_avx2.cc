// Strips with AVX2, FMA and F16C: 16 outputs are two vectors, six tokens keep twelve sums in
// registers.
#include "ops/spmm/cpu/strip_fma.h"
#include "ops/spmm/cpu/vector16_avx2.h"

namespace rarefy::strip {

void run_f32_avx2(const Unit& unit, const Activations& x, const Unit* next) {
  run_unit<Vector256x2, F32Weights>(unit, x, next);
}
void run_f16_avx2(const Unit& unit, const Activations& x, const Unit* next) {
  run_unit<Vector256x2, F16Weights>(unit, x, next);
}
void run_bf16_avx2(const Unit& unit, const Activations& x, const Unit* next) {
  run_unit<Vector256x2, Bf16Weights>(unit, x, next);
}

}  // namespace rarefy::strip
