// Body of the scans of `kernels.device_scan`: scores of rows and queries on tensor cores, and the few
// pairs whose score may still matter. A score never leaves the registers otherwise.
//
// A block of 4 warps makes tiles of 128 rows by QUERIES queries from slices of 64 bytes of codes,
// which are copied to shared memory while the slice before is multiplied. Codes are bytes to all
// of this but the multiplication: a fragment of 32 bytes holds 32 int8 or 16 16-bit values, in the
// same registers. The blocks stay: each takes every gridDim.x-th tile of all segments, so many
// small segments cost what one array of their size does. Tiles are taken in strides, so that any
// part of them is a sample of all rows.
//
// Row r and query q have the score  unit * scale * (codes . codes) - bias,  and it is wrong by
// said * lost(r) + lost(q) * norm + room(q) at most; see `device_scan_codes.py`.

const int TILE_ROWS = 128;            // TILE_ROWS in device_scan_launch.py
const int SLICE = 64;                 // bytes of codes
const int LINE = SLICE + 16;          // between rows in shared memory: no two banks collide
const int PIECE = 16;                 // bytes of one copy
const u32 ALL = 0xffffffffu;
const float BIAS_ROOM = 4.25f / (1 << 20);  // of a bias: what its rounding may add, from both sides

// ---- what the hardware does; the shim has twins of these ------------------------------------

#ifdef __CUDACC__

// Starts a copy of 16 bytes to shared memory, `bytes` (0 or 16) of them read, the others 0.
__device__ __forceinline__ void tile_copy(void* to, const void* from, int bytes) {
    u32 at = (u32)__cvta_generic_to_shared(to);
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes));
}

__device__ __forceinline__ void tile_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until all but the last LEFT groups of this thread's copies are done.
template <int LEFT>
__device__ __forceinline__ void tile_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

// sums (16 rows x 8 queries) += a (16 x 32 bytes) * b (8 x 32 bytes), in the layout of PTX's
// m16n8k32 and m16n8k16: lane / 4 is a row and a query, lane % 4 a word of their bytes.
__device__ __forceinline__ void tile_mma(int (&sums)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(sums[0]), "+r"(sums[1]), "+r"(sums[2]), "+r"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#define TILE_MMA_16(NAME, KIND)                                                                  \
    __device__ __forceinline__ void NAME(float (&sums)[4], const u32 (&a)[4], const u32 (&b)[2]) { \
        asm("mma.sync.aligned.m16n8k16.row.col.f32." KIND "." KIND ".f32 "                       \
            "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"                    \
            : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])                         \
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                 \
    }
TILE_MMA_16(tile_mma_f16, "f16")
TILE_MMA_16(tile_mma_bf16, "bf16")

#endif

struct Int8 {
    typedef int Sum;
    static __device__ __forceinline__ void mma(int (&s)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        tile_mma(s, a, b);
    }
};
struct Float16 {
    typedef float Sum;
    static __device__ __forceinline__ void mma(float (&s)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        tile_mma_f16(s, a, b);
    }
};
struct Bfloat16 {
    typedef float Sum;
    static __device__ __forceinline__ void mma(float (&s)[4], const u32 (&a)[4], const u32 (&b)[2]) {
        tile_mma_bf16(s, a, b);
    }
};

// ---- which tile ------------------------------------------------------------------------------

struct Job {
    const Segment* segments;
    i64 num_segments;
    i64 tiles, step;   // of rows; the i-th to be taken is i * step % tiles
    i64 first, count;  // which of them, in that order
    const u8* codes;   // (queries, width)
    const float4* asked;  // (queries,) unit, said, lost, room
    const float* floors;  // (queries,) the least score that is of interest
    i64 queries, width;
};

struct Item {
    const Segment* segment;
    i64 row;    // first of the tile, in its segment or its list
    i64 query;  // first of the tile
};

template <int QUERIES>
__device__ Item item_of(const Job& job, i64 number) {
    i64 query_tiles = (job.queries + QUERIES - 1) / QUERIES;
    i64 tile = (job.first + number / query_tiles) * job.step % job.tiles;
    i64 low = 0, high = job.num_segments;  // the last segment that begins at or before the tile
    while (high - low > 1) {
        i64 middle = (low + high) / 2;
        if (job.segments[middle].first_tile <= tile) low = middle;
        else high = middle;
    }
    const Segment* segment = job.segments + low;
    return {segment, (tile - segment->first_tile) * TILE_ROWS, number % query_tiles * QUERIES};
}

// ---- copies ----------------------------------------------------------------------------------

// What one thread copies of a tile: a piece of every 32nd row and of every 32nd query.
template <int QUERIES>
struct Loader {
    static const int LINES = TILE_ROWS + QUERIES;
    static const int OWN = (LINES + 31) / 32;
    const u8* from[OWN];
    u32 inside;  // bit i: line i exists
    i64 number;
    i64 slice;

    __device__ void aim(const Job& job) {
        Item item = item_of<QUERIES>(job, number);
        const Segment& segment = *item.segment;
        inside = 0;
        for (int i = 0; i < OWN; i++) {
            int line = threadIdx.x / 4 + 32 * i;
            i64 at = line < TILE_ROWS ? item.row + line : item.query + line - TILE_ROWS;
            bool exists = line < LINES && at < (line < TILE_ROWS ? segment.count : job.queries);
            if (!exists) at = 0;
            if (line < TILE_ROWS && segment.listed) at = segment.listed[at];
            from[i] = (line < TILE_ROWS ? segment.codes : job.codes) + at * job.width;
            if (exists) inside |= 1u << i;
        }
    }

    // Starts the copies of the next slice, and moves on.
    __device__ void load(const Job& job, u8* stage, i64 slices) {
        if (slice == 0) aim(job);
        i64 column = slice * SLICE + threadIdx.x % 4 * PIECE;
        for (int i = 0; i < OWN; i++) {
            int line = threadIdx.x / 4 + 32 * i;
            if (LINES % 32 != 0 && line >= LINES) continue;
            bool real = column < job.width && (inside >> i & 1);
            tile_copy(stage + line * LINE + threadIdx.x % 4 * PIECE, from[i] + (real ? column : 0),
                      real ? PIECE : 0);
        }
        if (++slice == slices) {
            slice = 0;
            number += gridDim.x;
        }
    }
};

// ---- what is kept ----------------------------------------------------------------------------

struct Kept {
    u32* counts;    // (queries,) pairs found, also those for which there was no room
    u32* places;    // (queries, room)
    float* uppers;  // (queries, room) no less than the score
    float* lowers;  // (queries, room) no more than the score
    u32* dropped;   // (queries,) greatest `order_of` an upper bound for which there was no room
    i64 room;
};

// Adds the rows that a warp found for 4 queries, one for the lanes of each lane % 4.
template <int ROWS>
__device__ __forceinline__ void append(const Kept& kept, i64 query, u32 passed, const float4& asked,
                                       const float4 (&rows)[ROWS], const u32 (&places)[ROWS],
                                       const float (&uppers)[ROWS]) {
    int lane = threadIdx.x % 32;
    u32 own = __popc(passed), until = own;  // those of lanes up to this one
    for (int step = 4; step < 32; step *= 2) {
        u32 other = __shfl_up_sync(ALL, until, step);
        if (lane >= step) until += other;
    }
    u32 start = 0;
    if (lane >= 28 && until > 0) start = atomicAdd(kept.counts + query, until);
    start = __shfl_sync(ALL, start, 28 + lane % 4);
    i64 slot = (i64)start + until - own;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
        if (!(passed >> r & 1)) continue;
        if (slot < kept.room) {
            float wrong = fmaf(asked.y, rows[r].z, fmaf(asked.z, rows[r].w, asked.w));
            i64 at = query * kept.room + slot;
            kept.places[at] = places[r];
            kept.uppers[at] = uppers[r];
            kept.lowers[at] = uppers[r] - 2.0f * wrong - BIAS_ROOM * rows[r].y;
        } else {
            atomicMax(kept.dropped + query, order_of(uppers[r]));
        }
        slot++;
    }
}

// ---- the scan --------------------------------------------------------------------------------

template <typename Kind, int QUERIES, int WARP_ROWS, int WARP_QUERIES, int STAGES>
__device__ __forceinline__ void scan(const Job& job, const Kept& kept) {
    typedef typename Kind::Sum Sum;
    const int ACROSS = QUERIES / WARP_QUERIES;  // warps side by side over the queries
    const int M = WARP_ROWS / 16, N = WARP_QUERIES / 8;
    __shared__ __align__(16) u8 stages[STAGES][(TILE_ROWS + QUERIES) * LINE];

    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int group = lane / 4, word = lane % 4;
    int warp_row = warp / ACROSS * WARP_ROWS, warp_query = warp % ACROSS * WARP_QUERIES;
    i64 slices = (job.width + SLICE - 1) / SLICE;
    i64 items = job.count * ((job.queries + QUERIES - 1) / QUERIES);
    i64 own = items > blockIdx.x ? (items - blockIdx.x + gridDim.x - 1) / gridDim.x : 0;
    i64 steps = own * slices;

    Loader<QUERIES> loader;
    loader.number = blockIdx.x;
    loader.slice = 0;
    for (int s = 0; s < STAGES - 1; s++) {
        if (s < steps) loader.load(job, stages[s], slices);
        tile_commit();
    }
    Sum sums[M][N][4] = {};
    i64 number = blockIdx.x, slice = 0;
    for (i64 step = 0; step < steps; step++) {
        tile_wait<STAGES - 2>();
        __syncthreads();
        if (step + STAGES - 1 < steps)
            loader.load(job, stages[(step + STAGES - 1) % STAGES], slices);
        tile_commit();

        const u8* rows = stages[step % STAGES] + (warp_row + group) * LINE + word * 4;
        const u8* asked = stages[step % STAGES] + (TILE_ROWS + warp_query + group) * LINE + word * 4;
#pragma unroll
        for (int part = 0; part < SLICE; part += 32) {
            if (slice * SLICE + part >= job.width) break;
            u32 a[M][4], b[N][2];
#pragma unroll
            for (int i = 0; i < M; i++)
#pragma unroll
                for (int r = 0; r < 4; r++)
                    a[i][r] = *(const u32*)(rows + (16 * i + r % 2 * 8) * LINE + part + r / 2 * 16);
#pragma unroll
            for (int j = 0; j < N; j++)
#pragma unroll
                for (int r = 0; r < 2; r++)
                    b[j][r] = *(const u32*)(asked + 8 * j * LINE + part + r * 16);
#pragma unroll
            for (int i = 0; i < M; i++)
#pragma unroll
                for (int j = 0; j < N; j++) Kind::mma(sums[i][j], a[i], b[j]);
        }
        if (++slice < slices) continue;

        Item item = item_of<QUERIES>(job, number);
        const Segment& segment = *item.segment;
        float4 values[2 * M];
        u32 places[2 * M];
#pragma unroll
        for (int r = 0; r < 2 * M; r++) {
            i64 at = item.row + warp_row + r / 2 * 16 + r % 2 * 8 + group;
            bool found = at < segment.count;
            if (found && segment.listed) at = segment.listed[at];
            if (found && segment.bits) found = segment.bits[at / 32] >> (at % 32) & 1;
            places[r] = (u32)(segment.first_place + at);
            values[r] = make_float4(0.0f, INFINITY, 0.0f, 0.0f);  // below every floor
            if (found) values[r] = segment.values[at];
        }
#pragma unroll
        for (int j = 0; j < N; j++) {
            i64 query = item.query + warp_query + 8 * j + 2 * word;
            float uppers[2][2 * M];
            u32 passed[2] = {0, 0};
            float4 wanted[2];
#pragma unroll
            for (int c = 0; c < 2; c++) {
                bool real = query + c < job.queries;
                wanted[c] = real ? job.asked[query + c] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                float floor = real ? job.floors[query + c] : INFINITY;
#pragma unroll
                for (int r = 0; r < 2 * M; r++) {
                    float wrong = fmaf(wanted[c].y, values[r].z,
                                       fmaf(wanted[c].z, values[r].w, wanted[c].w - values[r].y));
                    float product = values[r].x * (float)sums[r / 2][j][r % 2 * 2 + c];
                    uppers[c][r] = fmaf(wanted[c].x, product, wrong);
                    if (uppers[c][r] >= floor) passed[c] |= 1u << r;
                }
            }
            if (__any_sync(ALL, passed[0] | passed[1])) {
#pragma unroll
                for (int c = 0; c < 2; c++)
                    append(kept, query + c, passed[c], wanted[c], values, places, uppers[c]);
            }
#pragma unroll
            for (int i = 0; i < M; i++)
#pragma unroll
                for (int r = 0; r < 4; r++) sums[i][j][r] = 0;
        }
        slice = 0;
        number += gridDim.x;
    }
    tile_wait<0>();
}

#define SCAN(NAME, KIND, QUERIES, WARP_ROWS, WARP_QUERIES, STAGES, BLOCKS)                          \
    extern "C" __global__ void __launch_bounds__(128, BLOCKS) NAME(                               \
        const i64* segments, i64 num_segments, i64 tiles, i64 step, i64 first, i64 count,          \
        const u8* codes, const float* asked, const float* floors, i64 queries, i64 width,          \
        u32* counts, u32* places, float* uppers, float* lowers, u32* dropped, i64 room) {          \
        Job job = {(const Segment*)segments, num_segments, tiles, step, first, count, codes,       \
                   (const float4*)asked, floors, queries, width};                                  \
        Kept kept = {counts, places, uppers, lowers, dropped, room};                               \
        scan<KIND, QUERIES, WARP_ROWS, WARP_QUERIES, STAGES>(job, kept);                           \
    }

#define SCANS(KIND, NAME)                          \
    SCAN(scan_##NAME##_16, KIND, 16, 32, 16, 4, 4) \
    SCAN(scan_##NAME##_64, KIND, 64, 32, 64, 3, 3) \
    SCAN(scan_##NAME##_128, KIND, 128, 64, 64, 2, 2)
