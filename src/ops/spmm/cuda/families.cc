#include "ops/spmm/cuda/families.h"

namespace rarefy::gpu {

std::span<const Family* const> families() {
  static const Family* const kFamilies[] = {
      &decode_family(),   &gather_family(),     &scatter_family(),
      &composed_family(), &sliced_family(),     &blocks_family(),
      &hybrid_family(),   &structured_family(), &dense_family(),
  };
  return kFamilies;
}

}  // namespace rarefy::gpu
