// Runs CUDA sources on a CPU: a block's threads are fibers that switch at barriers and shuffles.
//
// A barrier opens when every fiber that has not ended waits at it; fibers then go on in a shuffled
// order, all together or (odd orders) each warp as far as it can, so a missing barrier shows. Shuffles and votes join the lanes of their mask; a mask that
// names a lane which has ended, or lacks the caller's own, is an error, as is a block in which no
// fiber can go on. Shared memory, static and dynamic, holds 0xAB bytes when a block starts.
// An error ends the launch; its text goes to the caller. Numbers below 2^-126 are taken for 0 (those
// below 2^-1022 in float64), as CuPy has NVRTC compile, unless a source says DOUBLES_MAY_BE_TINY.
//
// It cannot show races inside a warp, nor what only the hardware rounds or orders.

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <functional>
#include <vector>

#if !defined(__x86_64__) && !defined(SHIM_UCONTEXT)
#define SHIM_UCONTEXT
#endif
#ifdef SHIM_UCONTEXT
#include <ucontext.h>
#endif
#ifdef __SSE__
#include <xmmintrin.h>
#endif

#define __device__
#define __global__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __align__(bytes) __attribute__((aligned(bytes)))
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("shim_shared")))
#define DYNAMIC_SHARED(name) unsigned char* const name = shim::dynamic

struct Place { unsigned x, y, z; };
static Place threadIdx, blockIdx, blockDim, gridDim;
static const int warpSize = 32;

namespace shim {

enum State { READY, AT_BARRIER, IN_WARP, ENDED };

struct Fiber {
#ifdef SHIM_UCONTEXT
    ucontext_t context;
#else
    void* top;
#endif
    Place place;
    State state;
    unsigned mask;               // of the shuffle that it waits in
    unsigned char published[8];  // its own value there
    unsigned char visible[8];    // what other lanes may read: `published` when the mask was complete
};

static Fiber* fibers;
static char* stacks;
static unsigned made;  // fibers that there is room for
static Fiber scheduler;
static unsigned current, count;
static unsigned char* dynamic;
static char error[256];
static const std::function<void()>* body;
const size_t STACK = 1 << 16;
const size_t GUARD = 256;  // bytes behind dynamic shared memory that nobody may write

#ifdef SHIM_UCONTEXT
static void change(Fiber* from, Fiber* to) { swapcontext(&from->context, &to->context); }
#else
extern "C" __attribute__((visibility("hidden"))) void shim_change(void** from, void* to);
asm(R"(
    .text
    .type shim_change, @function
shim_change:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size shim_change, .-shim_change
)");
static void change(Fiber* from, Fiber* to) { shim_change(&from->top, to->top); }
#endif

// Whether tiny numbers are taken for 0 for as long as it lives; where the processor can.
struct Tiny {
#ifdef __SSE__
    unsigned before = _mm_getcsr();
    explicit Tiny(bool zero) { _mm_setcsr(zero ? before | 0x8040 : before & ~0x8040u); }
    ~Tiny() { _mm_setcsr(before); }
#else
    explicit Tiny(bool) {}
#endif
};

static void wait(State state) {
    unsigned own = current;
    fibers[own].state = state;
    change(&fibers[own], &scheduler);
}

static void fail(const char* text) {
    if (!error[0])
        snprintf(error, sizeof error, "block (%u, %u, %u): %s", blockIdx.x, blockIdx.y, blockIdx.z, text);
    for (;;) change(&fibers[current], &scheduler);
}

static void enter() {
    (*body)();
    for (;;) wait(ENDED);
}

static void prepare(Fiber& fiber, char* stack) {
#ifdef SHIM_UCONTEXT
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = stack;
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = 0;
    makecontext(&fiber.context, enter, 0);
#else
    void** top = (void**)(((uintptr_t)stack + STACK) & ~(uintptr_t)15);
    *--top = 0;
    *--top = (void*)enter;
    for (int saved = 0; saved < 6; saved++) *--top = 0;
    fiber.top = top;
#endif
}

static bool open_barrier() {
    bool any = false;
    for (unsigned f = 0; f < count; f++) {
        if (fibers[f].state == ENDED) continue;
        if (fibers[f].state != AT_BARRIER) return false;
        any = true;
    }
    for (unsigned f = 0; f < count; f++)
        if (fibers[f].state == AT_BARRIER) fibers[f].state = READY;
    return any;
}

static bool join_lanes(unsigned first) {
    unsigned lanes = std::min(32u, count - first);
    bool any = false;
    for (unsigned lane = 0; lane < lanes; lane++) {
        Fiber& own = fibers[first + lane];
        if (own.state != IN_WARP) continue;
        unsigned mask = own.mask;
        bool complete = true;
        for (unsigned other = 0; other < lanes && complete; other++) {
            const Fiber& fiber = fibers[first + other];
            if (!(mask >> other & 1)) continue;
            if (fiber.state == ENDED && !error[0])
                snprintf(error, sizeof error, "block (%u, %u, %u): a shuffle's mask names lane %u, which has ended",
                         blockIdx.x, blockIdx.y, blockIdx.z, other);
            complete = fiber.state == IN_WARP && fiber.mask == mask;
        }
        if (!complete) continue;
        for (unsigned other = 0; other < lanes; other++) {
            if (!(mask >> other & 1)) continue;
            Fiber& fiber = fibers[first + other];
            memcpy(fiber.visible, fiber.published, sizeof fiber.visible);
            fiber.state = READY;
        }
        any = true;
    }
    return any;
}

extern "C" char __start_shim_shared[] __attribute__((weak));
extern "C" char __stop_shim_shared[] __attribute__((weak));

static void shuffle(std::vector<unsigned>& order, unsigned first, unsigned last, uint64_t& random) {
    for (unsigned f = last - 1; f > first; f--) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        std::swap(order[f], order[first + (random >> 32) % (f - first + 1)]);
    }
}

static bool run(unsigned f) {
    if (fibers[f].state != READY || error[0]) return false;
    current = f;
    threadIdx = fibers[f].place;
    change(&scheduler, &fibers[f]);
    return true;
}

static bool run_warp(unsigned first, unsigned last, uint64_t& random) {
    static std::vector<unsigned> lanes;
    lanes.resize(last - first);
    for (unsigned lane = 0; lane < last - first; lane++) lanes[lane] = first + lane;
    shuffle(lanes, 0, last - first, random);
    bool moved = false;
    for (unsigned f : lanes) moved |= run(f);
    return moved | join_lanes(first);
}

static void run_block(uint64_t& random, bool run_ahead, size_t dynamic_bytes) {
    static std::vector<unsigned> order;
    if (__start_shim_shared) memset(__start_shim_shared, 0xAB, __stop_shim_shared - __start_shim_shared);
    if (dynamic_bytes) memset(dynamic, 0xAB, dynamic_bytes + GUARD);
    order.resize(count);
    for (unsigned f = 0; f < count; f++) {
        order[f] = f;
        fibers[f].place = {f % blockDim.x, f / blockDim.x % blockDim.y, f / blockDim.x / blockDim.y};
        fibers[f].state = READY;
        prepare(fibers[f], stacks + f * STACK);
    }
    for (;;) {
        bool moved = false;
        if (run_ahead) {  // a warp goes as far as it can before another goes on
            shuffle(order, 0, count, random);
            for (unsigned f : order) {
                if (f % 32) continue;
                while (run_warp(f, std::min(count, f + 32), random)) moved = true;
                if (error[0]) return;
            }
        } else {  // all go on together, in any order
            shuffle(order, 0, count, random);
            for (unsigned f : order) moved |= run(f);
            for (unsigned warp = 0; warp < count; warp += 32) moved |= join_lanes(warp);
        }
        if (error[0]) return;
        moved |= open_barrier();
        if (moved) continue;
        for (size_t at = 0; dynamic_bytes && at < GUARD; at++)
            if (dynamic[dynamic_bytes + at] != 0xAB) {
                snprintf(error, sizeof error, "block (%u, %u, %u) writes behind its dynamic shared memory",
                         blockIdx.x, blockIdx.y, blockIdx.z);
                return;
            }
        for (unsigned f = 0; f < count; f++)
            if (fibers[f].state != ENDED) {
                snprintf(error, sizeof error, "block (%u, %u, %u) hangs: threads wait for each other",
                         blockIdx.x, blockIdx.y, blockIdx.z);
                return;
            }
        return;
    }
}

// `sizes`: grid x y z, block x y z. Returns what went wrong, or null.
static const char* launch(const unsigned* sizes, unsigned seed, size_t dynamic_bytes, bool tiny_is_zero,
                          const std::function<void()>& kernel) {
    Tiny tiny(tiny_is_zero);
    uint64_t random = 0x9E3779B97F4A7C15ull * (seed + 1);
    body = &kernel;
    error[0] = 0;
    gridDim = {sizes[0], sizes[1], sizes[2]};
    blockDim = {sizes[3], sizes[4], sizes[5]};
    count = blockDim.x * blockDim.y * blockDim.z;
    if (count > made) {
        delete[] fibers;
        free(stacks);
        fibers = new Fiber[count];
        stacks = (char*)malloc(count * STACK);
        made = count;
    }
    dynamic = dynamic_bytes ? (unsigned char*)aligned_alloc(128, (dynamic_bytes + GUARD + 127) / 128 * 128) : 0;
    for (unsigned z = 0; z < gridDim.z && !error[0]; z++)
        for (unsigned y = 0; y < gridDim.y && !error[0]; y++)
            for (unsigned x = 0; x < gridDim.x && !error[0]; x++) {
                blockIdx = {x, y, z};
                run_block(random, seed % 2, dynamic_bytes);
            }
    free(dynamic);
    return error[0] ? error : 0;
}

// Gives a value to the lanes of a mask and waits until each of them has given its own.
template <typename T>
static void give(unsigned mask, T value) {
    static_assert(sizeof(T) <= 8, "shuffles carry 8 bytes at most");
    Fiber& own = fibers[current];
    if (!(mask >> (current % 32) & 1)) fail("a shuffle's mask lacks the caller's own lane");
    memset(own.published, 0, sizeof own.published);
    memcpy(own.published, &value, sizeof(T));
    own.mask = mask;
    wait(IN_WARP);
}

template <typename T>
static T given(unsigned lane, T otherwise) {
    unsigned at = current / 32 * 32 + lane;
    if (lane >= 32 || at >= count || !(fibers[current].mask >> lane & 1)) return otherwise;
    T found;
    memcpy(&found, fibers[at].visible, sizeof(T));
    return found;
}

template <typename T, typename F>
static T over_lanes(unsigned mask, T value, F join) {
    give(mask, value);
    bool first = true;
    T found = value;
    for (unsigned lane = 0; lane < 32; lane++) {
        if (!(mask >> lane & 1) || current / 32 * 32 + lane >= count) continue;
        T other = given(lane, value);
        found = first ? other : join(found, other);
        first = false;
    }
    return found;
}

}  // namespace shim

// ---- barriers, shuffles, votes --------------------------------------------------------------

static void __syncthreads() { shim::wait(shim::AT_BARRIER); }
static void __syncwarp(unsigned mask = 0xffffffffu) { shim::give(mask, 0); }
static void __threadfence() {}
static void __threadfence_block() {}

template <typename T>
static T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
    shim::give(mask, value);
    unsigned lane = shim::current % 32;
    return shim::given(lane / width * width + (unsigned)from % width, value);
}

template <typename T>
static T __shfl_down_sync(unsigned mask, T value, unsigned step, int width = 32) {
    shim::give(mask, value);
    unsigned lane = shim::current % 32;
    return lane % width + step < (unsigned)width ? shim::given(lane + step, value) : value;
}

template <typename T>
static T __shfl_up_sync(unsigned mask, T value, unsigned step, int width = 32) {
    shim::give(mask, value);
    unsigned lane = shim::current % 32;
    return lane % width >= step ? shim::given(lane - step, value) : value;
}

template <typename T>
static T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
    shim::give(mask, value);
    unsigned lane = shim::current % 32, other = lane ^ bits;
    return other / width == lane / width ? shim::given(other, value) : value;
}

static unsigned __ballot_sync(unsigned mask, int predicate) {
    unsigned own = predicate ? 1u << (shim::current % 32) : 0;
    return shim::over_lanes(mask, own, [](unsigned a, unsigned b) { return a | b; });
}
static int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
template <typename T>
static T __reduce_add_sync(unsigned mask, T value) { return shim::over_lanes(mask, value, [](T a, T b) { return T(a + b); }); }
template <typename T>
static T __reduce_min_sync(unsigned mask, T value) { return shim::over_lanes(mask, value, [](T a, T b) { return std::min(a, b); }); }
template <typename T>
static T __reduce_max_sync(unsigned mask, T value) { return shim::over_lanes(mask, value, [](T a, T b) { return std::max(a, b); }); }
static unsigned __reduce_or_sync(unsigned mask, unsigned value) { return shim::over_lanes(mask, value, [](unsigned a, unsigned b) { return a | b; }); }
static unsigned __reduce_and_sync(unsigned mask, unsigned value) { return shim::over_lanes(mask, value, [](unsigned a, unsigned b) { return a & b; }); }
template <typename T>
static unsigned __match_any_sync(unsigned mask, T value) {
    shim::give(mask, value);
    unsigned same = 0;
    for (unsigned lane = 0; lane < 32; lane++)
        if (mask >> lane & 1 && shim::current / 32 * 32 + lane < shim::count && shim::given(lane, value) == value)
            same |= 1u << lane;
    return same;
}

// ---- atomics: fibers switch only where they wait --------------------------------------------

template <typename T>
static T atomicAdd(T* at, T value) { T old = *at; *at += value; return old; }
template <typename T>
static T atomicMin(T* at, T value) { T old = *at; *at = std::min(old, value); return old; }
template <typename T>
static T atomicMax(T* at, T value) { T old = *at; *at = std::max(old, value); return old; }
template <typename T>
static T atomicOr(T* at, T value) { T old = *at; *at |= value; return old; }
template <typename T>
static T atomicAnd(T* at, T value) { T old = *at; *at &= value; return old; }
template <typename T>
static T atomicExch(T* at, T value) { T old = *at; *at = value; return old; }
template <typename T>
static T atomicCAS(T* at, T wanted, T value) { T old = *at; if (old == wanted) *at = value; return old; }

// ---- numbers --------------------------------------------------------------------------------

static float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
static unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
static float __int_as_float(int bits) { float x; memcpy(&x, &bits, 4); return x; }
static int __float_as_int(float x) { int bits; memcpy(&bits, &x, 4); return bits; }
static double __longlong_as_double(long long bits) { double x; memcpy(&x, &bits, 8); return x; }
static long long __double_as_longlong(double x) { long long bits; memcpy(&bits, &x, 8); return bits; }
static double to_double(float x) {
    shim::Tiny tiny(false);
    volatile float own = x;
    volatile double wide = own;
    return wide;
}
static float to_float(double x) {
    shim::Tiny tiny(false);
    volatile double own = x;
    volatile float narrow = own;
    return narrow;
}
static int __popc(unsigned bits) { return __builtin_popcount(bits); }
static int __popcll(unsigned long long bits) { return __builtin_popcountll(bits); }
static int __ffs(int bits) { return __builtin_ffs(bits); }
static int __ffsll(long long bits) { return __builtin_ffsll(bits); }
static int __clz(int bits) { return bits ? __builtin_clz(bits) : 32; }
static int __clzll(long long bits) { return bits ? __builtin_clzll(bits) : 64; }
static double __dadd_rn(double a, double b) { return a + b; }
static double __dmul_rn(double a, double b) { return a * b; }
static float __fadd_rn(float a, float b) { return a + b; }
static float __fmul_rn(float a, float b) { return a * b; }
static float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static float __fsqrt_rn(float a) { return sqrtf(a); }
static float __fdiv_rn(float a, float b) { return a / b; }
static int __float2int_rn(float a) { return (int)nearbyintf(a); }
template <typename T>
static T __ldg(const T* at) { return *at; }
using std::max;
using std::min;

struct alignas(8) int2 { int x, y; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
static uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

static int __dp4a(int a, int b, int sum) {
    for (int byte = 0; byte < 4; byte++) sum += (int)(int8_t)(a >> 8 * byte) * (int)(int8_t)(b >> 8 * byte);
    return sum;
}
