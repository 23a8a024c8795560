// The families of this build; a new one is a function here and a line in families.cc.
#pragma once

#include "ops/spmm/cuda/device_spmm.h"

namespace rarefy::gpu {

const Family& blocks_family();
const Family& composed_family();
const Family& decode_family();
const Family& dense_family();
const Family& gather_family();
const Family& hybrid_family();
const Family& scatter_family();
const Family& sliced_family();
const Family& structured_family();

}  // namespace rarefy::gpu
