// Scans of bfloat16 codes; see `scan_tile.cuh`.

#include "order.cuh"
#include "scan_segment.cuh"
#include "scan_tile.cuh"

SCANS(Bfloat16, bfloat16)
