#define RAREFY_READ_STREAMS read_streams_avx512
#define RAREFY_SPIN_VECTORS spin_vectors_avx512
#define RAREFY_READ_WIDTH 64
#include "planner/read_streams.inc"
