#include "ops/simd/vec_avx512.h"
#include "ops/spmm/cpu/panel_tiles.h"

namespace rarefy {

const PanelInners kPanelAvx512 = {multiply, widen};

}  // namespace rarefy
