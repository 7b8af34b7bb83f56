// Device body of `kernels.range_pairs`: pairs that a range may hold, counted, then written.
//
// A warp takes a part of one query's columns. Both kernels ask the same question, so the counts of
// the first, added up, are the places of the second; pairs come in row-major order.

const int LANES = 32;

struct Question {
    const float* distances;  // (m, n)
    const float* low;        // (m,), or null
    const float* high;       // (m,)
    const float* query_doubt;  // (m,), or null
    const float* row_doubt;    // (n,), with query_doubt
    float base, share;

    // Whether a distance, right to base + share * distance + query * row, may be inside.
    __device__ bool maybe(i64 i, i64 j, i64 n) const {
        float distance = distances[i * n + j];
        float doubt = __fadd_rn(base, __fmul_rn(share, distance));
        if (query_doubt) doubt = __fadd_rn(doubt, __fmul_rn(query_doubt[i], row_doubt[j]));
        if (distance - doubt > high[i]) return false;
        return !(low && distance + doubt <= low[i]);
    }
};

template <bool FILL>
__device__ void range_pairs(const Question& question, i64 m, i64 n, i64 part_size, i64 parts,
                            i64* counts, i64* owners, i64* columns) {
    i64 task = ((i64)blockIdx.x * blockDim.x + threadIdx.x) / LANES;
    if (task >= m * parts) return;  // the whole warp
    u32 lane = threadIdx.x % LANES;
    i64 query = task / parts, start = task % parts * part_size;
    i64 stop = start + part_size < n ? start + part_size : n;
    i64 at = FILL ? counts[task] : 0;
    for (i64 column = start; column < stop; column += LANES) {
        i64 j = column + lane;
        bool inside = j < stop && question.maybe(query, j, n);
        u32 votes = __ballot_sync(0xffffffffu, inside);
        if (FILL && inside) {
            i64 place = at + __popc(votes & ((1u << lane) - 1));
            owners[place] = query;
            columns[place] = j;
        }
        at += __popc(votes);
    }
    if (!FILL && lane == 0) counts[task] = at;
}

// Grid: x = blocks of warps over (query, part), part fastest. `counts`: (m, parts).
extern "C" __global__ void range_count(const float* distances, const float* low, const float* high,
                                       const float* query_doubt, const float* row_doubt, float base,
                                       float share, i64 m, i64 n, i64 part_size, i64 parts,
                                       i64* counts) {
    Question question = {distances, low, high, query_doubt, row_doubt, base, share};
    range_pairs<false>(question, m, n, part_size, parts, counts, 0, 0);
}

// As above; `places`: (m, parts), where the pairs of each part begin.
extern "C" __global__ void range_fill(const float* distances, const float* low, const float* high,
                                      const float* query_doubt, const float* row_doubt, float base,
                                      float share, i64 m, i64 n, i64 part_size, i64 parts,
                                      i64* places, i64* owners, i64* columns) {
    Question question = {distances, low, high, query_doubt, row_doubt, base, share};
    range_pairs<true>(question, m, n, part_size, parts, places, owners, columns);
}
