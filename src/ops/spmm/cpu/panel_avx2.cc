#include "ops/simd/vec_avx2.h"
#include "ops/spmm/cpu/panel_tiles.h"

namespace rarefy {

const PanelInners kPanelAvx2 = {multiply, widen};

}  // namespace rarefy
