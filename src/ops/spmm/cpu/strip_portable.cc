// Strips in plain C++.
#include "ops/spmm/cpu/strip_fma.h"
#include "ops/spmm/cpu/vector16_portable.h"

namespace rarefy::strip {

void run_f32_portable(const Unit& unit, const Activations& x, const Unit*) {
  run_unit<PortableVector, F32Weights>(unit, x);
}
void run_f16_portable(const Unit& unit, const Activations& x, const Unit*) {
  run_unit<PortableVector, F16Weights>(unit, x);
}
void run_bf16_portable(const Unit& unit, const Activations& x, const Unit*) {
  run_unit<PortableVector, Bf16Weights>(unit, x);
}

}  // namespace rarefy::strip
