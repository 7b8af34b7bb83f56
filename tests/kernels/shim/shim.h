// Runs CUDA sources on a CPU: a block's threads are fibers that switch at barriers and shuffles.
//
// A barrier opens when every fiber that has not ended waits at it; fibers then go on in a shuffled
// order, so a missing barrier shows. Shuffles join the 32 fibers of a warp. A block in which no
// fiber can go on aborts the process. Shared memory holds 0xAB bytes when a block starts.
//
// It cannot show races inside a warp, nor what only the hardware rounds or orders.

#include <math.h>
#include <string.h>
#include <stdio.h>
#include <stdlib.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <random>
#include <vector>

#define __device__
#define __global__
#define __shared__ static __attribute__((section("shim_shared")))

struct Place { unsigned x, y, z; };
static Place threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

enum State { READY, AT_BARRIER, IN_WARP, ENDED };

struct Fiber {
    ucontext_t context;
    Place place;
    State state;
    unsigned char published[8];
};

static std::vector<Fiber> fibers;
static std::vector<char> stacks;
static ucontext_t scheduler;
static unsigned current;
static const std::function<void()>* body;
const size_t STACK = 1 << 16;

static void enter() {
    (*body)();
    fibers[current].state = ENDED;
    swapcontext(&fibers[current].context, &scheduler);
}

static void wait(State state) {
    unsigned own = current;
    fibers[own].state = state;
    swapcontext(&fibers[own].context, &scheduler);
}

static bool release(unsigned first, unsigned last, State state) {
    bool any = false;
    for (unsigned f = first; f < last; f++) {
        if (fibers[f].state == ENDED) continue;
        if (fibers[f].state != state) return false;
        any = true;
    }
    for (unsigned f = first; f < last; f++)
        if (fibers[f].state == state) fibers[f].state = READY;
    return any;
}

extern "C" char __start_shim_shared[] __attribute__((weak));
extern "C" char __stop_shim_shared[] __attribute__((weak));

static void run_block(std::mt19937& random) {
    unsigned count = blockDim.x * blockDim.y;
    if (__start_shim_shared) memset(__start_shim_shared, 0xAB, __stop_shim_shared - __start_shim_shared);
    fibers.resize(count);
    stacks.resize(count * STACK);
    std::vector<unsigned> order(count);
    for (unsigned f = 0; f < count; f++) {
        order[f] = f;
        fibers[f].place = {f % blockDim.x, f / blockDim.x, 0};
        fibers[f].state = READY;
        getcontext(&fibers[f].context);
        fibers[f].context.uc_stack.ss_sp = stacks.data() + f * STACK;
        fibers[f].context.uc_stack.ss_size = STACK;
        fibers[f].context.uc_link = 0;
        makecontext(&fibers[f].context, enter, 0);
    }
    for (;;) {
        std::shuffle(order.begin(), order.end(), random);
        bool moved = false;
        for (unsigned f : order) {
            if (fibers[f].state != READY) continue;
            current = f;
            threadIdx = fibers[f].place;
            swapcontext(&scheduler, &fibers[f].context);
            moved = true;
        }
        for (unsigned warp = 0; warp < count; warp += 32)
            moved |= release(warp, std::min(count, warp + 32), IN_WARP);
        moved |= release(0, count, AT_BARRIER);
        if (moved) continue;
        for (Fiber& fiber : fibers)
            if (fiber.state != ENDED) {
                fprintf(stderr, "block (%u, %u) hangs: threads wait for each other\n", blockIdx.x, blockIdx.y);
                abort();
            }
        return;
    }
}

static void launch(unsigned gx, unsigned gy, unsigned bx, unsigned by, unsigned seed,
                   const std::function<void()>& kernel) {
    std::mt19937 random(seed);
    body = &kernel;
    gridDim = {gx, gy, 1};
    blockDim = {bx, by, 1};
    for (unsigned y = 0; y < gy; y++)
        for (unsigned x = 0; x < gx; x++) {
            blockIdx = {x, y, 0};
            run_block(random);
        }
}

}  // namespace shim

static void __syncthreads() { shim::wait(shim::AT_BARRIER); }

template <typename T>
static T __shfl_down_sync(unsigned, T value, unsigned step, int width) {
    unsigned own = shim::current, lane = own % width;
    memcpy(shim::fibers[own].published, &value, sizeof(T));
    shim::wait(shim::IN_WARP);  // until all have published
    T found = value;
    if (lane + step < (unsigned)width) memcpy(&found, shim::fibers[own + step].published, sizeof(T));
    shim::wait(shim::IN_WARP);  // until all have read
    return found;
}

template <typename T>
static T atomicAdd(T* at, T value) {
    T old = *at;
    *at += value;
    return old;
}

static float __uint_as_float(unsigned bits) { float x; memcpy(&x, &bits, 4); return x; }
static unsigned __float_as_uint(float x) { unsigned bits; memcpy(&bits, &x, 4); return bits; }
static int __popc(unsigned bits) { return __builtin_popcount(bits); }
static double __dadd_rn(double a, double b) { return a + b; }
static double __dmul_rn(double a, double b) { return a * b; }
