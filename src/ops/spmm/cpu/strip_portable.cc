// Strips in plain C++.
#include "ops/spmm/cpu/strip_fma.h"
#include "ops/spmm/cpu/vector16_portable.h"

namespace rarefy::strip {

void run_f32_portable(const Unit& unit, const Activations& x, const Unit* next) {
  run_unit<PortableVector, F32Weights>(unit, x, next);
}
void run_f16_portable(const Unit& unit, const Activations& x, const Unit* next) {
  run_unit<PortableVector, F16Weights>(unit, x, next);
}
void run_bf16_portable(const Unit& unit, const Activations& x, const Unit* next) {
  run_unit<PortableVector, Bf16Weights>(unit, x, next);
}

}  // namespace rarefy::strip
