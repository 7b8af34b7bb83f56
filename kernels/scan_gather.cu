// Copies rows of several segments, named by their places among all, one after the other.

#include "scan_segment.cuh"

extern "C" __global__ void __launch_bounds__(256) gather_rows(const i64* table, i64 num_segments,
                                                            const u32* places, i64 pairs,
                                                            i64 row_bytes, u8* out) {
    const Segment* segments = (const Segment*)table;
    i64 pair = (i64)blockIdx.x * 8 + threadIdx.x / 32;  // a warp a row
    if (pair >= pairs) return;
    i64 low = 0, high = num_segments;
    while (high - low > 1) {
        i64 middle = (low + high) / 2;
        if (segments[middle].first_place <= (i64)places[pair]) low = middle;
        else high = middle;
    }
    const u8* from = segments[low].vectors + ((i64)places[pair] - segments[low].first_place) * row_bytes;
    u8* to = out + pair * row_bytes;
    if (((u64)from | (u64)row_bytes) % 4 == 0) {
        for (i64 i = threadIdx.x % 32; i < row_bytes / 4; i += 32) ((u32*)to)[i] = ((const u32*)from)[i];
    } else {
        for (i64 i = threadIdx.x % 32; i < row_bytes; i += 32) to[i] = from[i];
    }
}
