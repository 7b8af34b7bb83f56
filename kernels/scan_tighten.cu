// Between two parts of a scan (`scan_tile.cuh`): each query's floor rises to the k-th greatest lower
// bound that was found, and pairs whose upper bound is below it go. One block a query.

#include "order.cuh"

const int THREADS = 256;  // THREADS in launch.py
const u32 ALL = 0xffffffffu;

// Leaves in `floors` the k-th greatest of `lowers`, if that is more: four rounds of a histogram of
// bytes, highest first.
__device__ void raise_floor(const float* lowers, u32 count, u32 k, float* floor) {
    __shared__ u32 bins[256];
    __shared__ u32 shared_known, shared_left;
    u32 known = 0, left = k;
    for (int place = 3; place >= 0; place--) {
        bins[threadIdx.x] = 0;
        __syncthreads();
        u32 mask = place == 3 ? 0 : ALL << (8 * place + 8);
        for (u32 i = threadIdx.x; i < count; i += THREADS) {
            u32 key = order_of(lowers[i]);
            if ((key & mask) == known) atomicAdd(&bins[key >> (8 * place) & 255], 1u);
        }
        __syncthreads();
        if (threadIdx.x == 0) {
            u32 bin = 255;
            while (left > bins[bin]) left -= bins[bin--];
            shared_known = known | bin << (8 * place);
            shared_left = left;
        }
        __syncthreads();
        known = shared_known;
        left = shared_left;
    }
    if (threadIdx.x == 0) *floor = fmaxf(*floor, number_of(known));
    __syncthreads();
}

extern "C" __global__ void __launch_bounds__(256) scan_tighten(u32* counts, u32* places, float* uppers,
                                                             float* lowers, float* floors, i64 room,
                                                             i64 k) {
    __shared__ u32 warp_sums[THREADS / 32];
    i64 first = (i64)blockIdx.x * room;
    places += first;
    uppers += first;
    lowers += first;
    u32 count = counts[blockIdx.x] < room ? counts[blockIdx.x] : (u32)room;
    if (count >= k) raise_floor(lowers, count, (u32)k, floors + blockIdx.x);
    float floor = floors[blockIdx.x];
    u32 kept = 0;  // what is kept moves to the front, in order; never past what is still to be read
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (u32 start = 0; start < count; start += THREADS) {
        u32 i = start + threadIdx.x;
        u32 place = 0;
        float upper = 0.0f, lower = 0.0f;
        bool keep = false;
        if (i < count) {
            place = places[i];
            upper = uppers[i];
            lower = lowers[i];
            keep = upper >= floor;
        }
        u32 votes = __ballot_sync(ALL, keep);
        if (lane == 0) warp_sums[warp] = __popc(votes);
        __syncthreads();  // also: all of this part has been read
        u32 to = kept + __popc(votes & ((1u << lane) - 1));
        for (int w = 0; w < THREADS / 32; w++) {
            if (w < warp) to += warp_sums[w];
            kept += warp_sums[w];
        }
        if (keep) {
            places[to] = place;
            uppers[to] = upper;
            lowers[to] = lower;
        }
        __syncthreads();  // before the sums are written again
    }
    if (threadIdx.x == 0) counts[blockIdx.x] = kept;
}
