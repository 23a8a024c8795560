// A block's stages of the scatter format, as scatter.cu and expand.cu read them. Laid out by the
// packer (scatter_pack.h).
#pragma once

struct alignas(16) ScatterBlock {
  u64 first;        // Word in the stream.
  u32 first_stage;  // In the table of stages.
  u32 stages;
};
