// Device bodies of `kernels.pairwise`.

// ---- every query to every row, float32 ------------------------------------------------------
// A block of 16 x 16 threads makes a tile of 64 x 64 distances, 4 x 4 a thread, from slices of 16
// columns in shared memory. A slice's sum is added to the total as one number, which keeps the
// rounding error near (16 + dim / 16) units.

const int TILE = 64;
const int SLICE = 16;
const int OWN = 4;  // rows and queries a thread

template <typename T>
__device__ void load_slice(float (*slice)[SLICE + 1], const T* values, i64 first, i64 count,
                           i64 width, i64 column) {
    for (int at = threadIdx.y * 16 + threadIdx.x; at < TILE * SLICE; at += 256) {
        i64 row = first + at / SLICE;
        i64 c = column + at % SLICE;
        bool inside = row < count && c < width;
        slice[at / SLICE][at % SLICE] = inside ? widen(values[row * width + c]) : 0.0f;
    }
}

template <int METRIC>
__device__ float finish(float sum, float query_square, float row_square) {
    if (METRIC == IP) return 0.0f - sum;
    if (METRIC == COSINE) {
        float scale = sqrtf(query_square) * sqrtf(row_square);
        return scale > 0.0f ? fmaxf(0.0f, 1.0f - sum / scale) : 1.0f;
    }
    return METRIC == L2 ? sqrtf(sum) : sum;
}

template <typename T, int METRIC>
__device__ void pairwise(const float* queries, const T* rows, i64 m, i64 n, i64 width, float* out) {
    __shared__ float q[TILE][SLICE + 1];
    __shared__ float r[TILE][SLICE + 1];
    i64 first_query = (i64)blockIdx.y * TILE;
    i64 first_row = (i64)blockIdx.x * TILE;
    float sums[OWN][OWN] = {};
    float query_squares[OWN] = {};
    float row_squares[OWN] = {};
    for (i64 column = 0; column < width; column += SLICE) {
        load_slice(q, queries, first_query, m, width, column);
        load_slice(r, rows, first_row, n, width, column);
        __syncthreads();
        float part[OWN][OWN] = {};
        float query_part[OWN] = {};
        float row_part[OWN] = {};
        for (int c = 0; c < SLICE; c++) {
            for (int a = 0; a < OWN; a++) {
                float x = q[threadIdx.y + 16 * a][c];
                float own = r[threadIdx.x + 16 * a][c];
                if (METRIC == COSINE) {
                    query_part[a] += x * x;
                    row_part[a] += own * own;
                }
                for (int b = 0; b < OWN; b++) {
                    float y = r[threadIdx.x + 16 * b][c];
                    float gap = x - y;
                    part[a][b] += METRIC == COSINE || METRIC == IP ? x * y : gap * gap;
                }
            }
        }
        for (int a = 0; a < OWN; a++) {
            query_squares[a] += query_part[a];
            row_squares[a] += row_part[a];
            for (int b = 0; b < OWN; b++) sums[a][b] += part[a][b];
        }
        __syncthreads();
    }
    for (int a = 0; a < OWN; a++) {
        for (int b = 0; b < OWN; b++) {
            i64 i = first_query + threadIdx.y + 16 * a;
            i64 j = first_row + threadIdx.x + 16 * b;
            if (i < m && j < n)
                out[i * n + j] = finish<METRIC>(sums[a][b], query_squares[a], row_squares[b]);
        }
    }
}

#define PAIRWISE(METRIC, T, NAME)                                                             \
    extern "C" __global__ void NAME(const float* queries, const T* rows, i64 m, i64 n,        \
                                    i64 width, float* out) {                                  \
        pairwise<T, METRIC>(queries, rows, m, n, width, out);                                 \
    }

// ---- given pairs, float64 -------------------------------------------------------------------
// 16 threads a pair, thread l adding columns l, l + 16, ...: the lanes of `kernels.lanes`, added in
// the same order, with every operation rounded by itself. The bits are those of the host.

__device__ inline double add_lanes(double value) {
    for (int step = 8; step > 0; step /= 2)
        value = __dadd_rn(value, __shfl_down_sync(0xffffffffu, value, step, 16));
    return value;  // in lane 0
}

template <typename T>
__device__ void paired(const float* queries, const T* rows, const i64* query_index,
                       const i64* row_index, i64 pairs, i64 width, int metric, float* out) {
    i64 wanted = (i64)blockIdx.x * 16 + threadIdx.x / 16;
    i64 p = wanted < pairs ? wanted : pairs - 1;  // no thread leaves before the shuffles
    const float* q = queries + query_index[p] * width;
    const T* r = rows + row_index[p] * width;
    double sum = 0.0, query_square = 0.0, row_square = 0.0;
    for (i64 c = threadIdx.x % 16; c < width; c += 16) {
        double x = to_double(q[c]), y = to_double(widen(r[c]));
        if (metric == COSINE || metric == IP) {
            sum = __dadd_rn(sum, __dmul_rn(x, y));
            query_square = __dadd_rn(query_square, __dmul_rn(x, x));
            row_square = __dadd_rn(row_square, __dmul_rn(y, y));
        } else {
            double gap = __dadd_rn(x, -y);
            sum = __dadd_rn(sum, __dmul_rn(gap, gap));
        }
    }
    sum = add_lanes(sum);
    query_square = add_lanes(query_square);
    row_square = add_lanes(row_square);
    if (threadIdx.x % 16 != 0 || wanted >= pairs) return;
    double found = sum;
    if (metric == IP) found = 0.0 - sum;
    if (metric == L2) found = sqrt(sum);
    if (metric == COSINE) {
        double scale = sqrt(__dmul_rn(query_square, row_square));
        found = scale > 0.0 ? fmax(0.0, __dadd_rn(1.0, -(sum / scale))) : 1.0;
    }
    out[wanted] = to_float(found);
}

#define DENSE(T, SUFFIX)                                                                      \
    PAIRWISE(COSINE, T, pairwise_cosine_##SUFFIX)                                             \
    PAIRWISE(L2, T, pairwise_l2_##SUFFIX)                                                     \
    PAIRWISE(SQEUCLIDEAN, T, pairwise_sqeuclidean_##SUFFIX)                                   \
    PAIRWISE(IP, T, pairwise_ip_##SUFFIX)                                                     \
    extern "C" __global__ void paired_##SUFFIX(                                               \
        const float* queries, const T* rows, const i64* query_index, const i64* row_index,    \
        i64 pairs, i64 width, int metric, float* out) {                                       \
        paired<T>(queries, rows, query_index, row_index, pairs, width, metric, out);          \
    }

DENSE(float, float32)
DENSE(f16, float16)
DENSE(bf16, bfloat16)
DENSE(signed char, int8)
DENSE(u8, uint8)

// ---- packed bits ----------------------------------------------------------------------------

__device__ inline float bit_distance(const u8* a, const u8* b, i64 width, int metric) {
    i64 differ = 0, united = 0, c = 0;
    if (((u64)a | (u64)b | (u64)width) % 8 == 0) {
        for (; c < width; c += 8) {
            u64 x = *(const u64*)(a + c), y = *(const u64*)(b + c);
            differ += __popcll(x ^ y);
            united += __popcll(x | y);
        }
    }
    for (; c < width; c++) {
        differ += __popc((u32)(a[c] ^ b[c]));
        united += __popc((u32)(a[c] | b[c]));
    }
    if (metric == HAMMING) return (float)differ;
    return united > 0 ? to_float((double)differ / (double)united) : 0.0f;
}

extern "C" __global__ void pairwise_bits(const u8* queries, const u8* rows, i64 m, i64 n,
                                         i64 width, int metric, float* out) {
    i64 j = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    i64 i = blockIdx.y;
    if (i < m && j < n) out[i * n + j] = bit_distance(queries + i * width, rows + j * width, width, metric);
}

extern "C" __global__ void paired_bits(const u8* queries, const u8* rows, const i64* query_index,
                                       const i64* row_index, i64 pairs, i64 width, int metric,
                                       float* out) {
    i64 p = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (p < pairs)
        out[p] = bit_distance(queries + query_index[p] * width, rows + row_index[p] * width, width,
                              metric);
}
