// Scans of int8 codes; see `scan_tile.cuh`.

#include "order.cuh"
#include "scan_segment.cuh"
#include "scan_tile.cuh"

SCANS(Int8, int8)
