// Device body of `kernels.select_k` for many neighbours: a radix selection, one block for each query
// and part. `best_k.cu` has few neighbours.
//
// Distances become unsigned keys of the same order. Four rounds of a 256-bin histogram, highest
// byte first, find the key of the k-th column; if more columns share it than are wanted, eight
// rounds over the tie ranks find the last one that is. A last pass writes the k columns, unsorted.
// Any k, any number of columns; the choice does not depend on the order in which threads run.

const int THREADS = 256;

__device__ inline u32 key_of(float distance) {
    u32 bits = __float_as_uint(distance);
    if (bits == 0x80000000u) bits = 0;  // -0 is equal to 0
    return (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
}

struct Columns {
    const float* distances;  // of one query
    const i64* ranks;        // of its columns; null: the column's number
    i64 start, stop;
    __device__ u32 key(i64 j) const { return key_of(distances[j]); }
    __device__ u64 rank(i64 j) const { return (u64)(ranks ? ranks[j] : j) ^ ((u64)1 << 63); }  // signed
};

// One round: counts of the next byte among columns that match what is known so far. Leaves in
// `state` the byte that the k-th of them has, and how many come before it.
struct State {
    u64 known;  // bytes found so far, in their places
    u64 mask;   // which bytes those are
    i64 left;   // how many columns to take among those that match
};

template <bool BY_RANK>
__device__ void find(const Columns& columns, u32 key, State* state, u32* bins, int bytes) {
    for (int place = bytes - 1; place >= 0; place--) {
        for (int bin = threadIdx.x; bin < 256; bin += THREADS) bins[bin] = 0;
        __syncthreads();
        u64 known = state->known, mask = state->mask;
        for (i64 j = columns.start + threadIdx.x; j < columns.stop; j += THREADS) {
            if (BY_RANK && columns.key(j) != key) continue;
            u64 value = BY_RANK ? columns.rank(j) : (u64)columns.key(j);
            if ((value & mask) == known) atomicAdd(&bins[(value >> (8 * place)) & 255], 1u);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            int bin = 0;
            while (state->left > (i64)bins[bin]) state->left -= bins[bin++];
            state->known |= (u64)bin << (8 * place);
            state->mask |= (u64)255 << (8 * place);
        }
        __syncthreads();
    }
}

// Writes min(k, columns of the part) positions of columns to places (query, part, k) of `rows`;
// grid: x = query, y = part.
extern "C" __global__ void select_k(const float* distances, const i64* ranks, i64 rank_stride, i64 n,
                                    i64 part_size, i64 k, i64* rows) {
    __shared__ u32 bins[256];
    __shared__ State state;
    __shared__ u64 written;
    i64 query = blockIdx.x, part = blockIdx.y;
    i64 start = part * part_size;
    i64 stop = start + part_size < n ? start + part_size : n;
    i64 wanted = k < stop - start ? k : stop - start;
    Columns columns = {distances + query * n, ranks ? ranks + query * rank_stride : 0, start, stop};
    if (threadIdx.x == 0) {
        state.known = 0;
        state.mask = 0;
        state.left = wanted;
        written = 0;
    }
    __syncthreads();
    find<false>(columns, 0, &state, bins, 4);
    u32 key = (u32)state.known;
    bool all_equal_fit = state.left == (i64)bins[key & 255];  // every column of that key is wanted
    __syncthreads();
    u64 last_rank = ~(u64)0;
    if (!all_equal_fit) {
        if (threadIdx.x == 0) {
            state.known = 0;
            state.mask = 0;
        }
        __syncthreads();
        find<true>(columns, key, &state, bins, 8);
        last_rank = state.known;
    }
    i64* out = rows + (query * gridDim.y + part) * k;
    for (i64 j = columns.start + threadIdx.x; j < columns.stop; j += THREADS) {
        u32 own = columns.key(j);
        if (own < key || (own == key && columns.rank(j) <= last_rank)) {
            u64 place = atomicAdd(&written, (u64)1);
            if (place < (u64)wanted) out[place] = j;
        }
    }
}
