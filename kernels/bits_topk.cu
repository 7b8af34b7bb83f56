// Device body of `kernels.device_bits`: the k nearest rows of packed bits, in one read of the rows.
//
// A warp takes a part of the rows for some queries, a row a lane, and keeps each query's best in
// shared memory (`best.cuh`). 32 rows share a word of the mask; words without a row cost nothing.
// Distances are final: counts of bits, divided once in float64 for Jaccard.

#include "best.cuh"

__device__ inline int bits_of(u64 word) { return __popcll(word); }
__device__ inline int bits_of(u32 word) { return __popc(word); }
__device__ inline int bits_of(u8 word) { return __popc((u32)word); }

// Counts of one row against `OWN` queries, which lie in shared memory `stride` bytes apart.
template <int OWN, typename WORD>
__device__ inline void count_bits(const u8* row, const u8* own, i64 stride, i64 width, u32* differ,
                                  u32* united) {
    for (i64 at = 0; at < width; at += sizeof(WORD)) {
        WORD x = *(const WORD*)(row + at);
#pragma unroll
        for (int q = 0; q < OWN; q++) {
            WORD y = *(const WORD*)(own + q * stride + at);
            differ[q] += bits_of((WORD)(x ^ y));
            united[q] += bits_of((WORD)(x | y));
        }
    }
}

// Grid: x = groups of `OWN` queries, y = blocks of warps over parts. `part_size` is a multiple of
// 32. Dynamic shared memory: the queries, `stride` bytes each (a multiple of 16), then the lists.
template <int OWN>
__device__ void bits_topk(const u8* queries, const u8* rows, const u32* mask, const i64* ranks,
                          const float* bounds, i64 m, i64 n, i64 width, i64 stride, i64 part_size,
                          i64 parts, int metric, int k, int keep, int room, i64* found,
                          float* found_distances) {
    DYNAMIC_SHARED(memory);
    i64 first = (i64)blockIdx.x * OWN;
    for (i64 at = threadIdx.x; at < OWN * stride; at += blockDim.x) {
        i64 query = first + at / stride, column = at % stride;
        memory[at] = query < m && column < width ? queries[query * width + column] : 0;
    }
    __syncthreads();
    int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
    i64 part = (i64)blockIdx.y * (blockDim.x / LANES) + warp;
    if (part >= parts) return;  // the whole warp
    i64 start = part * part_size;
    i64 stop = start + part_size < n ? start + part_size : n;
    Best best[OWN];
    u32 last[OWN];  // key of the farthest that is wanted
#pragma unroll
    for (int q = 0; q < OWN; q++) {
        best[q].start((Entry*)(memory + OWN * stride) + (warp * OWN + q) * room, keep, room);
        last[q] = bounds && first + q < m ? key_of(bounds[first + q]) : ALL;
    }
    u64 unit = (u64)rows | (u64)width;  // what words must begin at multiples of
    for (i64 base = start; base < stop; base += LANES) {
        u32 word = mask ? mask[base / LANES] : ALL;
        if (!word) continue;
        i64 j = base + lane;
        bool real = j < stop && (word >> lane & 1);
        u32 differ[OWN] = {}, united[OWN] = {};
        if (real) {
            const u8* row = rows + j * width;
            if (unit % 8 == 0)
                count_bits<OWN, u64>(row, memory, stride, width, differ, united);
            else if (unit % 4 == 0)
                count_bits<OWN, u32>(row, memory, stride, width, differ, united);
            else
                count_bits<OWN, u8>(row, memory, stride, width, differ, united);
        }
#pragma unroll
        for (int q = 0; q < OWN; q++) {
            float distance = (float)differ[q];
            if (metric == JACCARD)
                distance = united[q] ? (float)((double)differ[q] / (double)united[q]) : 0.0f;
            Entry entry = nothing();
            u32 key = key_of(distance);
            if (real && key <= last[q] && key <= best[q].worst.key) {
                entry.key = key;
                entry.rank = ranks ? rank_of(ranks[j]) : 0;
                entry.place = (u32)(j - start);
            }
            best[q].offer(entry);
        }
    }
#pragma unroll
    for (int q = 0; q < OWN; q++) {
        if (first + q >= m) continue;
        best[q].settle();
        for (int at = lane; at < k; at += LANES) {
            Entry entry = best[q].entries[at];
            i64 out = ((first + q) * parts + part) * k + at;
            bool real = !is_nothing(entry);
            found[out] = real ? start + entry.place : -1;
            found_distances[out] = real ? distance_of(entry.key) : bits_to_float(0x7f800000u);
        }
    }
}

#define BITS_TOPK(OWN)                                                                          \
    extern "C" __global__ void bits_topk_##OWN(                                                 \
        const u8* queries, const u8* rows, const u32* mask, const i64* ranks,                   \
        const float* bounds, i64 m, i64 n, i64 width, i64 stride, i64 part_size, i64 parts,     \
        int metric, int k, int keep, int room, i64* found, float* found_distances) {            \
        bits_topk<OWN>(queries, rows, mask, ranks, bounds, m, n, width, stride, part_size,      \
                       parts, metric, k, keep, room, found, found_distances);                   \
    }

BITS_TOPK(1)
BITS_TOPK(4)
