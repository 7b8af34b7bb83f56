"""Sums over the columns of two vectors, in a fixed number of lanes, as compiled building blocks.

`sums(queries, i, rows, j)` adds up one pair lane by lane: column c goes to lane c % LANES, missing
columns of the last step count as zero, and the lanes are added halves upon halves. The order is
part of the meaning, so the float64 sums are the same on every machine and thread count. The float32
sums may fuse multiply and add; their callers allow for the error (`kernels.float_scan`).

Numba knows neither float16 nor bfloat16: float16 comes as its uint16 bits, bfloat16 as int16
(`kernel_view`), and both are widened in registers.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuvec.device.arrays import is_bfloat16

WIDE_LANES = 16  # of the float64 sums: part of what a distance is
_CACHE_LINE = 64
FAST_LANES = 32  # of the float32 sums: two AVX-512 registers


def kernel_view(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a read-only C-contiguous view of `x` in a dtype that Numba knows."""
    plain = np.ascontiguousarray(x).view(np.ndarray)
    if plain.dtype.itemsize == 2:
        if is_bfloat16(plain):
            plain = plain.view(np.int16)
        elif plain.dtype == np.float16:
            plain = plain.view(np.uint16)
    plain.setflags(write=False)
    return plain


def numbers_view(x: np.ndarray[Any, Any] | None) -> np.ndarray[Any, Any]:
    """Return a `kernel_view` of int64 numbers; an empty one is how kernels know of none."""
    return _NO_NUMBERS if x is None else kernel_view(x)


_NO_NUMBERS = kernel_view(np.zeros(0, np.int64))


def _widen(builder: Any, chunk: Any, item: Any, lanes: int, real: Any) -> Any:
    """Convert a vector of stored values to a vector of float32 or float64, without loss."""
    target = ir.VectorType(real, lanes)
    if item == types.float32:
        found = chunk
    elif item == types.uint16:
        half = builder.bitcast(chunk, ir.VectorType(ir.HalfType(), lanes))
        found = builder.fpext(half, ir.VectorType(ir.FloatType(), lanes))
    elif item == types.int16:
        word = ir.VectorType(ir.IntType(32), lanes)
        bits = builder.shl(builder.zext(chunk, word), ir.Constant(word, [16] * lanes))
        found = builder.bitcast(bits, ir.VectorType(ir.FloatType(), lanes))
    elif item == types.int8:
        return builder.sitofp(chunk, target)
    elif item == types.uint8:
        return builder.uitofp(chunk, target)
    else:
        raise AssertionError(f"no widening of {item}")
    return found if isinstance(real, ir.FloatType) else builder.fpext(found, target)


_STORED = {
    types.float32: ir.FloatType(),
    types.uint16: ir.IntType(16),
    types.int16: ir.IntType(16),
    types.int8: ir.IntType(8),
    types.uint8: ir.IntType(8),
}


def _load(builder: Any, base: Any, at: Any, item: Any, lanes: int) -> Any:
    """Load `lanes` stored values from column `at` on."""
    pointer = builder.gep(base, [at])
    wide = ir.VectorType(_STORED[item], lanes)
    found = builder.load(builder.bitcast(pointer, wide.as_pointer()), typ=wide)
    found.align = item.bitwidth // 8
    return found


def _load_tail(builder: Any, base: Any, at: Any, left: Any, item: Any, lanes: int) -> Any:
    """Load the last `left` < `lanes` values; the missing ones are zero and are not touched."""
    wide = ir.VectorType(_STORED[item], lanes)
    index = ir.VectorType(ir.IntType(64), lanes)
    first = builder.insert_element(ir.Constant(index, ir.Undefined), left, ir.IntType(32)(0))
    spread = builder.shuffle_vector(
        first, first, ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    )
    mask = builder.icmp_signed("<", ir.Constant(index, list(range(lanes))), spread)
    pointer = builder.bitcast(builder.gep(base, [at]), wide.as_pointer())
    kind = {"float": "f32"}.get(str(_STORED[item]), str(_STORED[item]))
    signature = ir.FunctionType(wide, [wide.as_pointer(), ir.IntType(32), mask.type, wide])
    load = cgutils.get_or_insert_function(
        builder.module, signature, f"llvm.masked.load.v{lanes}{kind}.p0"
    )
    align = ir.Constant(ir.IntType(32), item.bitwidth // 8)
    return builder.call(load, [pointer, align, mask, ir.Constant(wide, None)])


def _add_lanes(builder: Any, lanes_sum: Any, lanes: int) -> Any:
    """Add the lanes: upper half onto lower half, until one is left."""
    while lanes > 1:
        lanes //= 2
        pick = ir.VectorType(ir.IntType(32), lanes)
        low = builder.shuffle_vector(lanes_sum, lanes_sum, ir.Constant(pick, list(range(lanes))))
        high = builder.shuffle_vector(
            lanes_sum, lanes_sum, ir.Constant(pick, list(range(lanes, 2 * lanes)))
        )
        lanes_sum = builder.fadd(low, high)
    return builder.extract_element(lanes_sum, ir.IntType(32)(0))


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typingctx: Any, rows: Any, j: Any) -> Any:
    """Ask the memory for row j, which will be read soon."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        width = builder.mul(builder.extract_value(array.shape, 1), array.itemsize)
        byte, word = ir.IntType(8), ir.IntType(32)
        base = builder.bitcast(array.data, byte.as_pointer())
        base = builder.gep(base, [builder.mul(args[1], width)])
        kind = ir.FunctionType(ir.VoidType(), [byte.as_pointer(), word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        line = ir.IntType(64)(_CACHE_LINE)
        with cgutils.for_range_slice(builder, ir.IntType(64)(0), width, line) as (at, _):
            builder.call(function, [builder.gep(base, [at]), word(0), word(3), word(1)])
        return context.get_dummy_value()

    return types.void(rows, types.int64), codegen


def _rows_of(context: Any, builder: Any, signature: Any, args: Any) -> tuple[Any, Any, Any]:
    """Return the pointers to row i of the queries and row j of the rows, and their width."""
    queries, i, rows, j = args
    q_array = context.make_array(signature.args[0])(context, builder, queries)
    r_array = context.make_array(signature.args[2])(context, builder, rows)
    width = builder.extract_value(q_array.shape, 1)
    q_base = builder.gep(q_array.data, [builder.mul(i, width)])
    r_base = builder.gep(r_array.data, [builder.mul(j, width)])
    return q_base, r_base, width


def _pair_sums(real: Any, lanes: int, mode: str) -> Any:
    """Make the intrinsic `sums(queries, i, rows, j)` of one accumulator type and mode.

    Modes: "dot" gives `q·r`; "dot_norm" gives the pair `(q·r, r·r)`; "square" gives `|q - r|²`.
    """
    number = types.float64 if isinstance(real, ir.DoubleType) else types.float32
    flags = () if number == types.float64 else ("contract",)  # float32 sums may use FMA

    def step(builder: Any, totals: list[Any], q: Any, r: Any) -> None:
        """Add one chunk of both vectors to the accumulators."""
        if mode == "square":
            q = r = builder.fsub(q, r)
        for total, (a, b) in zip(totals, ((q, r), (r, r)), strict=False):
            product = builder.fmul(a, b, flags=flags)
            builder.store(builder.fadd(builder.load(total), product, flags=flags), total)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        q_item, r_item = signature.args[0].dtype, signature.args[2].dtype
        q_base, r_base, width = _rows_of(context, builder, signature, args)
        nothing = ir.Constant(ir.VectorType(real, lanes), None)
        count = 2 if mode == "dot_norm" else 1
        totals = [cgutils.alloca_once_value(builder, nothing) for _ in range(count)]
        for total in totals:
            builder.store(nothing, total)
        step_size = ir.IntType(64)(lanes)
        whole = builder.sub(width, builder.srem(width, step_size))
        with cgutils.for_range_slice(builder, ir.IntType(64)(0), whole, step_size) as (at, _):
            q = _load(builder, q_base, at, q_item, lanes)
            r = _load(builder, r_base, at, r_item, lanes)
            q, r = _widen(builder, q, q_item, lanes, real), _widen(builder, r, r_item, lanes, real)
            step(builder, totals, q, r)
        left = builder.sub(width, whole)
        with builder.if_then(builder.icmp_signed(">", left, ir.IntType(64)(0)), likely=False):
            q = _load_tail(builder, q_base, whole, left, q_item, lanes)
            r = _load_tail(builder, r_base, whole, left, r_item, lanes)
            q, r = _widen(builder, q, q_item, lanes, real), _widen(builder, r, r_item, lanes, real)
            step(builder, totals, q, r)
        sums = [_add_lanes(builder, builder.load(total), lanes) for total in totals]
        if len(sums) == 1:
            return sums[0]
        return context.make_tuple(builder, signature.return_type, sums)

    @intrinsic  # type: ignore[untyped-decorator]
    def sums(typingctx: Any, queries: Any, i: Any, rows: Any, j: Any) -> Any:
        found = types.UniTuple(number, 2) if mode == "dot_norm" else number
        return found(queries, types.int64, rows, types.int64), codegen

    return sums


wide_dot = _pair_sums(ir.DoubleType(), WIDE_LANES, "dot")
wide_dot_norm = _pair_sums(ir.DoubleType(), WIDE_LANES, "dot_norm")
wide_square = _pair_sums(ir.DoubleType(), WIDE_LANES, "square")
fast_dot = _pair_sums(ir.FloatType(), FAST_LANES, "dot")
fast_dot_norm = _pair_sums(ir.FloatType(), FAST_LANES, "dot_norm")
fast_square = _pair_sums(ir.FloatType(), FAST_LANES, "square")
