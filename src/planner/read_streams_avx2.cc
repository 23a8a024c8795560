#define RAREFY_READ_STREAMS read_streams_avx2
#define RAREFY_SPIN_VECTORS spin_vectors_avx2
#define RAREFY_READ_WIDTH 32
#include "planner/read_streams.inc"
