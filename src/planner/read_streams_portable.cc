#define RAREFY_READ_STREAMS read_streams_portable
#define RAREFY_SPIN_VECTORS spin_vectors_portable
#define RAREFY_READ_WIDTH 16
#include "planner/read_streams.inc"
