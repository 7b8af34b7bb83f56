// Device body of `kernels.select_k` for few neighbours, and of `kernels.merge_k`: one pass.
//
// A warp reads a part of one query's columns and keeps the best in shared memory, see `best.cuh`.
// Answers are in order, and do not depend on the order in which threads run.

#include "best.cuh"

const int READ = 4;  // columns that a lane has in flight

// Grid: x = blocks of warps over (query, part), part fastest. Writes k places of rows and distances
// a warp; missing ones are row -1 at +inf. `rows`, if given, are what is written instead of column
// numbers, and columns whose row is negative are padding.
extern "C" __global__ void best_k(const float* distances, const i64* ranks, i64 rank_stride,
                                  const i64* rows, i64 queries, i64 n, i64 part_size, i64 parts,
                                  int k, int keep, int room, i64* found, float* found_distances) {
    DYNAMIC_SHARED(memory);
    int lane = threadIdx.x % LANES;
    i64 task = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / LANES;
    if (task >= queries * parts) return;  // the whole warp
    i64 query = task / parts;
    i64 start = task % parts * part_size;
    i64 stop = start + part_size < n ? start + part_size : n;
    const float* own = distances + query * n;
    const i64* own_ranks = ranks ? ranks + query * rank_stride : 0;
    const i64* own_rows = rows ? rows + query * n : 0;
    Best best;
    best.start((Entry*)memory + threadIdx.x / LANES * room, keep, room);
    for (i64 column = start; column < stop; column += READ * LANES) {
        float values[READ];
#pragma unroll
        for (int r = 0; r < READ; r++) {
            i64 j = column + r * LANES + lane;
            values[r] = j < stop ? own[j] : 0.0f;
        }
#pragma unroll
        for (int r = 0; r < READ; r++) {
            i64 j = column + r * LANES + lane;
            Entry entry = nothing();
            u32 key = key_of(values[r]);
            if (j < stop && key <= best.worst.key && !(own_rows && own_rows[j] < 0)) {
                entry.key = key;
                entry.rank = own_ranks ? rank_of(own_ranks[j]) : 0;
                entry.place = (u32)(j - start);
            }
            best.offer(entry);
        }
    }
    best.settle();
    for (int at = lane; at < k; at += LANES) {
        Entry entry = best.entries[at];
        bool real = !is_nothing(entry);
        i64 j = start + entry.place;
        i64 out = task * k + at;
        found[out] = real ? (own_rows ? own_rows[j] : j) : -1;
        found_distances[out] = real ? own[j] : bits_to_float(0x7f800000u);
    }
}
