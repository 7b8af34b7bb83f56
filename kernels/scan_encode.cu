// Device body of `kernels.device_scan_codes`: codes of vectors, and what bounds their loss. A warp a
// vector; sums are in double.

const u32 ALL = 0xffffffffu;
const float TINY = 7.888609e-31f;  // 2^-100: peaks that need no step of their own
enum Code { NONE, INT8, FLOAT16, BFLOAT16 };  // CODES in device_scan_codes.py

// What is told of a vector: STATS in device_scan_codes.py.
struct Stats {
    double unit;    // what a code of 1 stands for
    double peak;    // greatest magnitude
    double square;  // sum of squares
    double lost;    // sum of squares of what codes do not say
    double size;    // norm before it was scaled to length 1; else the norm
};

__device__ inline double warp_sum(double value) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(ALL, value, step);
    return value;
}

__device__ inline float warp_max(float value) {
    for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(ALL, value, step));
    return value;
}

// Nearest float16 of a magnitude below 65504, ties to even.
__device__ inline f16 to_f16(float x) {
    u32 bits = __float_as_uint(x), size = bits & 0x7fffffffu;
    u32 near = size >= 0x38800000u  // 2^-14, the least that is not subnormal
                   ? (size - 0x38000000u + 0xfffu + (size >> 13 & 1)) >> 13
                   : (u32)rintf(bits_to_float(size) * 16777216.0f);
    f16 out = {(u16)(near | (bits >> 16 & 0x8000u))};
    return out;
}

__device__ inline bf16 to_bf16(float x) {
    u32 bits = __float_as_uint(x);
    bf16 out = {(u16)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16)};
    return out;
}

template <typename T>
__device__ void encode(const T* vectors, const float* origin, i64 count, i64 dim, int code,
                       int to_length_1, u8* codes, i64 width, double* stats) {
    i64 number = (i64)blockIdx.x * 8 + threadIdx.x / 32;
    if (number >= count) return;  // the whole warp
    int lane = threadIdx.x % 32;
    const T* own = vectors + number * dim;
    double total = 0.0;
    for (i64 c = lane; c < dim; c += 32) {
        double x = (double)(widen(own[c]) - (origin ? origin[c] : 0.0f));
        total += x * x;
    }
    Stats found;
    found.size = sqrt(warp_sum(total));
    double length = to_length_1 && found.size > 0.0 ? found.size : 1.0;

    float peak = 0.0f;
    bool whole = true;  // small whole numbers lose nothing in steps of 1
    for (i64 c = lane; c < dim; c += 32) {
        float x = (float)((double)(widen(own[c]) - (origin ? origin[c] : 0.0f)) / length);
        peak = fmaxf(peak, fabsf(x));
        whole &= rintf(x) == x && x <= 127.0f && x >= -128.0f;
    }
    peak = warp_max(peak);
    whole = __all_sync(ALL, whole);
    float unit = 1.0f;
    if (code == INT8 && !whole && peak > TINY) unit = peak / 127.0f;
    if (code >= FLOAT16 && peak > TINY)  // the next power of 2: what is scaled stays exact
        unit = bits_to_float((__float_as_uint(peak) >> 23) + 1 << 23);

    double square = 0.0, lost = 0.0;
    for (i64 c = lane; c < dim; c += 32) {
        float x = (float)((double)(widen(own[c]) - (origin ? origin[c] : 0.0f)) / length);
        float near = x;
        if (code == INT8) {
            float level = fminf(fmaxf(rintf(x / unit), -128.0f), 127.0f);
            ((signed char*)codes)[number * width + c] = (signed char)level;
            near = level * unit;
        } else if (code == FLOAT16) {
            f16 half = to_f16(x / unit);
            ((f16*)(codes + number * width))[c] = half;
            near = widen(half) * unit;
        } else if (code == BFLOAT16) {
            bf16 half = to_bf16(x / unit);
            ((bf16*)(codes + number * width))[c] = half;
            near = widen(half) * unit;
        }
        square += (double)x * x;
        lost += ((double)x - near) * ((double)x - near);
    }
    found.unit = unit;
    found.peak = peak;
    found.square = warp_sum(square);
    found.lost = warp_sum(lost);
    if (lane == 0) ((Stats*)stats)[number] = found;
}

#define ENCODE(T, SUFFIX)                                                                         \
    extern "C" __global__ void __launch_bounds__(256) encode_##SUFFIX(                            \
        const T* vectors, const float* origin, i64 count, i64 dim, int code, int to_length_1,      \
        u8* codes, i64 width, double* stats) {                                                     \
        encode<T>(vectors, origin, count, dim, code, to_length_1, codes, width, stats);            \
    }

ENCODE(float, float32)
ENCODE(f16, float16)
ENCODE(bf16, bfloat16)
ENCODE(signed char, int8)
ENCODE(u8, uint8)
