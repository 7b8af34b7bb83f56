// Device body of `kernels.bitset.count`.

extern "C" __global__ void count_bits(const u32* words, i64 count, u64* total) {
    i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at < count) atomicAdd(total, (u64)__popc(words[at]));
}
