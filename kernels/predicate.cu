// Device body of `kernels.predicate`: a condition over columns, one row a thread, 32 rows a word.
//
// A program is postfix: each step takes values from a stack of 64 bits and puts one there. The stack
// lies in shared memory, a lane beside a lane; which slots are null is a register of bits.

#define DOUBLES_MAY_BE_TINY  // to the shim, which cannot take float32 for 0 and leave float64

enum Step {
    LOAD_BIT, LOAD_I8, LOAD_I16, LOAD_I32, LOAD_I64, LOAD_F32, LOAD_F64,  // of a column
    STATE, COUNT,                // of a text's number: true, false or null; a whole number
    CONSTANT, NOTHING,           // a value; null
    EQ_I, NE_I, LT_I, LE_I, GT_I, GE_I, EQ_F, NE_F, LT_F, LE_F, GT_F, GE_F,
    AND, OR, NOT, IS_NULL, PICK, EITHER,
    XOR, BIT_AND, INVERT, ADD_I, SUB_I, MUL_I, MOD_I, ABS_I,
    ADD_F, SUB_F, MUL_F, DIV_F, MOD_F, ABS_F, FLOOR_F, CEIL_F, RINT_F, TO_FLOAT,
    AMONG_I, AMONG_F,            // whether a value is in a rising list of `imm` numbers
};

__device__ inline double as_double(i64 bits) { return __longlong_as_double(bits); }
__device__ inline i64 as_bits(double value) { return __double_as_longlong(value); }

template <typename T>
__device__ inline bool is_among(T value, const T* list, i64 count) {
    i64 low = 0, high = count;
    while (low < high) {
        i64 middle = (low + high) / 2;
        if (list[middle] < value) low = middle + 1;
        else high = middle;
    }
    return low < count && list[low] == value;
}

__device__ inline bool compares(int how, bool less, bool equal, bool ordered) {
    switch (how) {
        case 0: return equal;
        case 1: return !equal;
        case 2: return less;
        case 3: return less || equal;
        case 4: return ordered && !less && !equal;
        default: return ordered && !less;
    }
}

__device__ inline i64 whole(int op, i64 a, i64 b) {
    switch (op) {
        case XOR: return a ^ b;
        case BIT_AND: return a & b;
        case ADD_I: return (i64)((u64)a + (u64)b);
        case SUB_I: return (i64)((u64)a - (u64)b);
        case MUL_I: return (i64)((u64)a * (u64)b);
        default: return a % b;
    }
}

__device__ inline double number(int op, double a, double b) {
    switch (op) {
        case ADD_F: return a + b;
        case SUB_F: return a - b;
        case MUL_F: return a * b;
        case DIV_F: return a / b;
        default: return fmod(a, b);
    }
}

__device__ inline i64 loaded(int op, const void* values, i64 row) {
    switch (op) {
        case LOAD_BIT: return ((const u8*)values)[row >> 3] >> (row & 7) & 1;
        case LOAD_I8: return ((const signed char*)values)[row];
        case LOAD_I16: return ((const short*)values)[row];
        case LOAD_I32: return ((const int*)values)[row];
        case LOAD_F32: return as_bits(to_double(((const float*)values)[row]));
        default: return ((const i64*)values)[row];  // whole numbers and float64 alike
    }
}

__device__ inline i64 single(int op, i64 value) {
    double x = as_double(value);
    switch (op) {
        case INVERT: return ~value;
        case ABS_I: return value < 0 ? (i64)(0 - (u64)value) : value;
        case ABS_F: return as_bits(fabs(x));
        case FLOOR_F: return as_bits(floor(x));
        case CEIL_F: return as_bits(ceil(x));
        case RINT_F: return as_bits(rint(x));
        default: return as_bits((double)value);  // TO_FLOAT
    }
}

// code: (steps, 2): operation + 256 * place in `pointers`, and a value that goes with it.
// pointers: (places, 2): values, and bits of those that are not null or 0. words: a bit a row.
extern "C" __global__ void predicate_bits(
    const i64* code, int steps, const u64* pointers, i64 rows, u32* words
) {
    DYNAMIC_SHARED(memory);
    i64* stack = (i64*)memory + threadIdx.x;
    const int next = blockDim.x;
    const i64 own = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    const i64 row = own < rows ? own : rows - 1;  // lanes behind the last row vote too
    u32 nulls = 0;                                // bit s: slot s is null
    int top = -1;
    for (int s = 0; s < steps; s++) {
        const int op = (int)(code[2 * s] & 255);
        const i64 imm = code[2 * s + 1];
        const u64* place = pointers + 2 * (code[2 * s] >> 8);
        i64 value = imm;
        bool null = op == NOTHING;
        if (op <= LOAD_F64) {
            const u8* valid = (const u8*)place[1];
            null = valid && !(valid[row >> 3] >> (row & 7) & 1);
            value = loaded(op, (const void*)place[0], row);
            top++;
        } else if (op <= NOTHING) {
            top++;
            if (op == STATE || op == COUNT) {
                const int at = ((const int*)place[0])[row];
                value = op == STATE ? ((const u8*)place[1])[at] : ((const i64*)place[1])[at];
                null = op == STATE ? value == 2 : at == imm;
            }
        } else if (op >= AMONG_I || op == NOT || op == IS_NULL || op == INVERT || op == ABS_I ||
                   op >= ABS_F) {  // of one value
            value = stack[top * next];
            null = nulls >> top & 1;
            if (op == AMONG_I) value = is_among(value, (const i64*)place[0], imm);
            else if (op == AMONG_F)
                value = is_among(as_double(value), (const double*)place[0], imm);
            else if (op == NOT) value = !value;
            else if (op == IS_NULL) { value = null; null = false; }
            else value = single(op, value);
        } else if (op == PICK) {
            top -= 2;
            const bool yes = stack[top * next] && !(nulls >> top & 1);
            const int from = yes ? top + 1 : top + 2;
            value = stack[from * next];
            null = nulls >> from & 1;
        } else {  // of two values
            top--;
            const i64 a = stack[top * next], b = stack[(top + 1) * next];
            const bool no_a = nulls >> top & 1, no_b = nulls >> (top + 1) & 1;
            null = no_a || no_b;
            if (op == EITHER) {
                value = no_a ? b : a;
                null = no_a && no_b;
            } else if (op == AND || op == OR) {
                const bool decisive = op == OR;
                const bool decided =
                    (!no_a && (a != 0) == decisive) || (!no_b && (b != 0) == decisive);
                value = decided ? decisive : !decisive;
                null = null && !decided;
            } else if (null) {
                value = 0;
            } else if (op <= GE_I) {
                value = compares(op - EQ_I, a < b, a == b, true);
            } else if (op <= GE_F) {
                const double x = as_double(a), y = as_double(b);
                value = compares(op - EQ_F, x < y, x == y, x == x && y == y);
            } else if (op <= MOD_I) {
                value = whole(op, a, b);
            } else {
                value = as_bits(number(op, as_double(a), as_double(b)));
            }
        }
        stack[top * next] = value;
        nulls = null ? nulls | 1u << top : nulls & ~(1u << top);
    }
    const bool passes = own < rows && !(nulls & 1) && stack[0] != 0;
    const u32 word = __ballot_sync(0xffffffffu, passes);
    if ((threadIdx.x & 31) == 0 && own < rows) words[own >> 5] = word;
}
