// Floats as unsigned numbers of the same order, and back.

__device__ inline u32 order_of(float x) {
    u32 bits = __float_as_uint(x);
    return (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
}

__device__ inline float number_of(u32 order) {
    return bits_to_float((order & 0x80000000u) ? order ^ 0x80000000u : ~order);
}
