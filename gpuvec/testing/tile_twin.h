// Twins of what tensor-core scans ask of the hardware: copies that go on by themselves, and products
// of fragments that lie spread over a warp. They follow the PTX manual, not the kernels: a lane that
// holds another word than the manual says gets another product. Read after shim.h.

namespace shim {

struct Copy { void* to; const void* from; int bytes; };

// Copies that a thread has started and not waited for, by groups; the last group is still open.
static std::vector<std::vector<std::vector<Copy>>> copies;

static std::vector<std::vector<Copy>>& own_copies() {
    if (copies.size() <= current) copies.resize(current + 1);
    if (copies[current].empty()) copies[current].emplace_back();
    return copies[current];
}

// What a lane holds of one product.
struct Fragments { unsigned a[4], b[2]; };

// Byte `k` of row (or query) `line`: eight lines a register, four lanes a line, four bytes a lane.
static int lane_of(int line, int k) { return line % 8 * 4 + k % 16 / 4; }
static unsigned word_a(Fragments* const* lanes, int row, int k) { return lanes[lane_of(row, k)]->a[row / 8 + k / 16 * 2]; }
static unsigned word_b(Fragments* const* lanes, int query, int k) { return lanes[lane_of(query, k)]->b[k / 16]; }

static float half_value(unsigned bits) {
    int exponent = bits >> 10 & 31, fraction = bits & 1023;
    float size = exponent ? ldexpf(1024 + fraction, exponent - 25) : ldexpf(fraction, -24);
    return bits & 0x8000 ? -size : size;
}
static float bfloat_value(unsigned bits) { unsigned wide = bits << 16; float x; memcpy(&x, &wide, 4); return x; }

// Integers are exact; numbers are rounded as tensor cores do, towards zero.
static void put(int& to, double x) { to = (int)x; }
static void put(float& to, double x) {
    to = (float)x;
    if (fabs((double)to) > fabs(x)) to = nextafterf(to, 0.0f);
}

template <typename Sum, typename Product>
static void multiply(Sum (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2], int step, Product product) {
    Fragments own;
    memcpy(own.a, a, sizeof own.a);
    memcpy(own.b, b, sizeof own.b);
    give(0xffffffffu, &own);
    Fragments* lanes[32];
    for (unsigned lane = 0; lane < 32; lane++) lanes[lane] = given(lane, &own);
    int at = current % 32;
    for (int r = 0; r < 4; r++) {
        int row = at / 4 + r / 2 * 8, query = at % 4 * 2 + r % 2;
        double sum = sums[r];
        for (int k = 0; k < 32; k += step)
            sum += product(word_a(lanes, row, k) >> 8 * (k % 4), word_b(lanes, query, k) >> 8 * (k % 4));
        put(sums[r], sum);
    }
    give(0xffffffffu, 0);  // until all have read
}

}  // namespace shim

static void tile_copy(void* to, const void* from, int bytes) {
    if ((uintptr_t)to % 16 || (uintptr_t)from % 16) shim::fail("a copy of 16 bytes that is not aligned to 16 bytes");
    if (bytes != 0 && bytes != 16) shim::fail("a copy of neither 0 nor 16 bytes");
    shim::own_copies().back().push_back({to, from, bytes});
}

static void tile_commit() { shim::own_copies().emplace_back(); }

template <int LEFT>
static void tile_wait() {
    auto& groups = shim::own_copies();
    while (groups.size() > LEFT + 1) {
        for (const shim::Copy& copy : groups.front()) {
            memset(copy.to, 0, 16);
            memcpy(copy.to, copy.from, copy.bytes);
        }
        groups.erase(groups.begin());
    }
}

static void tile_mma(int (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    shim::multiply(sums, a, b, 1, [](unsigned x, unsigned y) { return (double)(int8_t)x * (double)(int8_t)y; });
}
static void tile_mma_f16(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    shim::multiply(sums, a, b, 2, [](unsigned x, unsigned y) { return (double)shim::half_value(x & 0xffff) * shim::half_value(y & 0xffff); });
}
static void tile_mma_bf16(float (&sums)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    shim::multiply(sums, a, b, 2, [](unsigned x, unsigned y) { return (double)shim::bfloat_value(x & 0xffff) * shim::bfloat_value(y & 0xffff); });
}
