// Scans of float16 codes; see `scan_tile.cuh`.

#include "order.cuh"
#include "scan_segment.cuh"
#include "scan_tile.cuh"

SCANS(Float16, float16)
