// Device body of `kernels.groups_topk`: the next best row of every group of every query.
//
// A row's distance and order make one number; each group's cell takes the least by an atomic
// minimum, of those beyond what the group gave before. The answer does not depend on who comes
// first; a cell that is read too early only costs an atomic too many.

__device__ inline u32 key_of(float distance) {
    u32 bits = __float_as_uint(distance);
    if (bits == 0x80000000u) bits = 0;  // -0 is equal to 0
    return (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
}

// Grid: x = columns, y = queries. `codes`: (n,) groups, negative: none. `orders`: (n,) distinct
// numbers, order at equal distance; null: the column's number. `mask`: bits of columns, or null.
// `before`, `best`: (m, groups); `before` null: nothing was given yet.
extern "C" __global__ void group_best(const float* distances, const int* codes, const u32* orders,
                                      const u32* mask, const u64* before, i64 n, i64 groups,
                                      u64* best) {
    i64 j = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    i64 query = blockIdx.y;
    if (j >= n || (mask && !(mask[j / 32] >> (j % 32) & 1))) return;
    int group = codes[j];
    if (group < 0) return;
    u64 own = (u64)key_of(distances[query * n + j]) << 32 | (orders ? orders[j] : (u32)j);
    i64 cell = query * groups + group;
    if (before && own <= before[cell]) return;
    if (own < best[cell]) atomicMin(&best[cell], own);
}
