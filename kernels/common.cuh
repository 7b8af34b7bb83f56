// What every kernel shares. `launch.py` puts this text in front of each .cu file, so that neither
// needs an include path: types of known size, and stored values widened without loss.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;

// Dynamic shared memory, of as many bytes as the launch says: `DYNAMIC_SHARED(bytes);`
#ifndef DYNAMIC_SHARED
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) u8 name[]
#endif

#ifndef INFINITY
#define INFINITY __int_as_float(0x7f800000)
#endif

enum Metric { COSINE, L2, SQEUCLIDEAN, IP, HAMMING, JACCARD };  // METRIC_CODES in pairwise.py

struct f16 { u16 bits; };
struct bf16 { u16 bits; };

__device__ inline float bits_to_float(u32 bits) { return __uint_as_float(bits); }

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(signed char x) { return (float)x; }
__device__ inline float widen(u8 x) { return (float)x; }
__device__ inline float widen(bf16 x) { return bits_to_float((u32)x.bits << 16); }

// Finite values only. No step meets a float below 2^-126, which this code would take for 0.
__device__ inline float widen(f16 x) {
    u32 bits = x.bits & 0x7fff;
    float size = bits < 0x400 ? (float)bits * bits_to_float(0x33800000u)  // in steps of 2^-24
                              : bits_to_float((bits << 13) + (112u << 23));
    return (x.bits & 0x8000) ? -size : size;
}

// CuPy compiles with -ftz=true: arithmetic takes float32 below 2^-126 for 0, also in conversions.
// These do not; the shim has twins of them.
#ifdef __CUDACC__
__device__ inline double to_double(float x) {
    double wide;
    asm("cvt.f64.f32 %0, %1;" : "=d"(wide) : "f"(x));
    return wide;
}
__device__ inline float to_float(double x) {
    float narrow;
    asm("cvt.rn.f32.f64 %0, %1;" : "=f"(narrow) : "d"(x));
    return narrow;
}
#endif
