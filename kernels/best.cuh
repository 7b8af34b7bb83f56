// The best few of many, kept by one warp: what `best_k.cu`, `bits_topk.cu` share.
//
// A list lies in shared memory: `keep` places with the best found so far, in order, and behind them
// places where entries wait. An entry waits only if it comes before the last that is kept; when the
// places run out, all are sorted. So few entries are ever touched twice: about keep * log(n / keep).

const int LANES = 32;
const u32 ALL = 0xffffffffu;

struct Entry {
    u64 rank;   // order at equal keys
    u32 key;    // of the distance
    u32 place;  // order at equal ranks
};

__device__ inline bool before(const Entry& a, const Entry& b) {
    if (a.key != b.key) return a.key < b.key;
    return a.rank != b.rank ? a.rank < b.rank : a.place < b.place;
}

__device__ inline Entry nothing() {
    Entry none = {~(u64)0, ALL, ALL};
    return none;
}

__device__ inline bool is_nothing(const Entry& entry) { return entry.key == ALL; }

// Distances as unsigned numbers of the same order; -0 is equal to 0. Never ALL: that is a NaN.
__device__ inline u32 key_of(float distance) {
    u32 bits = __float_as_uint(distance);
    if (bits == 0x80000000u) bits = 0;
    return (bits & 0x80000000u) ? ~bits : bits | 0x80000000u;
}

__device__ inline float distance_of(u32 key) {
    return bits_to_float((key & 0x80000000u) ? key ^ 0x80000000u : ~key);
}

// Ranks are signed; so are their places in the order.
__device__ inline u64 rank_of(i64 rank) { return (u64)rank ^ ((u64)1 << 63); }

struct Best {
    Entry* entries;  // room for `room` of them, in shared memory
    int keep;        // a power of two
    int room;        // a power of two, at least keep + 2 * LANES
    int waiting;     // the same in every lane
    Entry worst;     // the last that is kept

    __device__ void start(Entry* memory, int kept, int all) {
        entries = memory;
        keep = kept;
        room = all;
        waiting = 0;
        worst = nothing();
        for (int at = threadIdx.x % LANES; at < keep; at += LANES) entries[at] = nothing();
        __syncwarp();
    }

    // Every lane of the warp calls it, with an entry or with `nothing()`.
    __device__ void offer(const Entry& entry) {
        bool wanted = before(entry, worst);
        u32 votes = __ballot_sync(ALL, wanted);
        if (!votes) return;
        u32 lower = votes & ((1u << (threadIdx.x % LANES)) - 1);
        if (wanted) entries[keep + waiting + __popc(lower)] = entry;
        waiting += __popc(votes);
        if (keep + waiting + LANES > room) settle();
    }

    // Sorts what is kept and what waits.
    __device__ void settle() {
        int lane = threadIdx.x % LANES;
        int size = keep;
        while (size < keep + waiting) size *= 2;
        for (int at = keep + waiting + lane; at < size; at += LANES) entries[at] = nothing();
        __syncwarp();
        for (int run = 2; run <= size; run *= 2) {
            for (int step = run / 2; step > 0; step /= 2) {
                for (int pair = lane; pair < size / 2; pair += LANES) {
                    int low = pair / step * 2 * step + pair % step;
                    int high = low + step;
                    bool rising = (low & run) == 0;
                    Entry a = entries[low], b = entries[high];
                    if (before(b, a) == rising) {
                        entries[low] = b;
                        entries[high] = a;
                    }
                }
                __syncwarp();
            }
        }
        waiting = 0;
        worst = entries[keep - 1];
        __syncwarp();
    }
};
