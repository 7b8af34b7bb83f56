"""LLVM IR of what the sweep of lists does with a query's center scores, 16 at a time.

Addresses are int64, as in `kernels.int8_tile`. Scores are float32, `STRIDE` of them at a time.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuvec.kernels.int8_ir import I32, I64, load, loop, splat, store, vector
from gpuvec.kernels.int8_tile import TILE_ROWS, int8_lanes

LANES = 16
STRIDE = TILE_ROWS  # scores come in whole tiles
_F32, _F64 = ir.FloatType(), ir.DoubleType()
_REALS = ir.VectorType(_F32, LANES)
_FLAGS = ir.VectorType(ir.IntType(1), LANES)
_LEAST = float("-inf")
_SQUEEZE = "llvm.x86.avx512.mask.compress.v16i32"


def _spread_real(builder: Any, value: Any) -> Any:
    """Emit a register that holds a float64, rounded to float32, in every lane."""
    blank = ir.Constant(_REALS, ir.Undefined)
    first = builder.insert_element(blank, builder.fptrunc(value, _F32), I32(0))
    return builder.shuffle_vector(first, blank, ir.Constant(vector(LANES), [0] * LANES))


def _call(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


@intrinsic  # type: ignore[untyped-decorator]
def scale_sums(
    typingctx: Any, sums: Any, added: Any, unit: Any, units: Any, half: Any, out: Any
) -> Any:
    """Turn the integer sums of a tile of centers and one query into scores.

    Args:
        typingctx: of Numba.
        sums: address of (TILE_ROWS,) int32.
        added: int64, what to take off each.
        unit: float64, the query's step.
        units: address of (TILE_ROWS,) float32, the centers' steps.
        half: address of (TILE_ROWS,) float32, what scores are less by.
        out: address of (TILE_ROWS,) float32, written.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sums, added, unit, units, half, out = args
        less = splat(builder, builder.trunc(added, I32), LANES)
        step = _spread_real(builder, unit)
        for at in range(0, 4 * TILE_ROWS, 4 * LANES):
            total = builder.sub(load(builder, sums, vector(LANES), at), less)
            real = builder.fmul(builder.sitofp(total, _REALS), step)
            real = builder.fmul(real, load(builder, units, _REALS, at))
            store(builder, builder.fsub(real, load(builder, half, _REALS, at)), out, at)
        return context.get_dummy_value()

    return types.void(
        types.int64, types.int64, types.float64, types.int64, types.int64, types.int64
    ), codegen


@intrinsic  # type: ignore[untyped-decorator]
def top_level(typingctx: Any, scores: Any, count: Any, nth: Any) -> Any:
    """Return a level that at least `nth` scores reach, and not many more.

    It is the nth greatest of the maxima of STRIDE buckets.

    Args:
        typingctx: of Numba.
        scores: address of (count,) float32.
        count: a multiple of STRIDE.
        nth: from 1 to STRIDE.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scores, count, nth = args
        least = ir.Constant(_REALS, [_LEAST] * LANES)
        vectors = STRIDE // LANES

        def widen(index: Any, tops: list[Any]) -> list[Any]:
            begin = builder.add(scores, builder.mul(index, I64(4)))
            found = [load(builder, begin, _REALS, 4 * LANES * v) for v in range(vectors)]
            higher = [builder.fcmp_ordered(">", f, t) for f, t in zip(found, tops, strict=True)]
            return [builder.select(h, f, t) for h, f, t in zip(higher, found, tops, strict=True)]

        tops = loop(builder, I64(0), count, STRIDE, [least] * vectors, widen)

        def drop(index: Any, carried: list[Any]) -> list[Any]:
            *tops, _ = carried
            peaks = [_call(builder, "llvm.vector.reduce.fmax.v16f32", _F32, [top]) for top in tops]
            peak = peaks[0]
            for other in peaks[1:]:
                peak = builder.select(builder.fcmp_ordered(">", other, peak), other, peak)
            wide = _spread_real(builder, builder.fpext(peak, _F64))
            left = [
                builder.select(builder.fcmp_ordered("==", top, wide), least, top) for top in tops
            ]
            return [*left, peak]

        level = loop(builder, I64(0), nth, 1, [*tops, ir.Constant(_F32, _LEAST)], drop)[-1]
        return builder.fpext(level, _F64)

    return types.float64(types.int64, types.int64, types.int64), codegen


def _append(
    builder: Any, flags: Any, names: Any, scores: Any, lists: Any, bases: Any, total: Any
) -> Any:
    """Emit the append of flagged names and scores; return the new total."""
    bits = builder.bitcast(scores, vector(LANES))
    place = builder.mul(total, I64(4))
    to = builder.add(lists, place), builder.add(bases, place)
    if int8_lanes() == LANES:
        for words, address in ((names, to[0]), (bits, to[1])):
            squeezed = _call(builder, _SQUEEZE, vector(LANES), [words, words, flags])
            store(builder, squeezed, address)
        few = builder.bitcast(flags, ir.IntType(LANES))
        more = _call(builder, "llvm.ctpop.i16", ir.IntType(LANES), [few])
        return builder.add(total, builder.zext(more, I64))
    for lane in range(LANES):
        place = builder.mul(total, I64(4))
        for words, begin in ((names, lists), (bits, bases)):
            word = builder.extract_element(words, I32(lane))
            store(builder, word, builder.add(begin, place))
        total = builder.add(total, builder.zext(builder.extract_element(flags, I32(lane)), I64))
    return total


def _make_take(flat: bool) -> Any:
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        scores, spreads, count, wide, square, level, lists, bases = args
        reach = _spread_real(builder, wide)
        squares = _spread_real(builder, square)
        floor = _spread_real(builder, level)
        least = ir.Constant(_REALS, [_LEAST] * LANES)
        zero = ir.Constant(_REALS, [0.0] * LANES)
        minus = ir.Constant(_REALS, [-2.0] * LANES)
        steps = ir.Constant(vector(LANES), list(range(LANES)))

        def step(index: Any, carried: list[Any]) -> list[Any]:
            (total,) = carried
            place = builder.mul(index, I64(4))
            own = builder.add(scores, place)
            score = load(builder, own, _REALS)
            gain = builder.fmul(load(builder, builder.add(spreads, place), _REALS), reach)
            if not flat:
                far = builder.fadd(squares, builder.fmul(score, minus))
                far = builder.select(builder.fcmp_ordered(">", far, zero), far, zero)
                gain = builder.fmul(gain, _call(builder, "llvm.sqrt.v16f32", _REALS, [far]))
            flags = builder.and_(
                builder.fcmp_ordered(">=", builder.fadd(score, gain), floor),
                builder.fcmp_ordered(">", score, least),
            )
            store(builder, builder.select(flags, least, score), own)
            names = builder.add(splat(builder, builder.trunc(index, I32), LANES), steps)
            return [_append(builder, flags, names, score, lists, bases, total)]

        return loop(builder, I64(0), count, LANES, [I64(0)], step)[0]

    @intrinsic  # type: ignore[untyped-decorator]
    def take_lists(
        typingctx: Any, scores: Any, spreads: Any, count: Any, wide: Any, square: Any, level: Any,
        lists: Any, bases: Any,
    ) -> Any:  # fmt: skip
        """Take the lists whose score, widened by their spread, reaches a level.

        Args:
            typingctx: of Numba.
            scores: address of (count,) float32; -inf is written where a list is taken, and such
                are not taken again.
            spreads: address of (count,) float32.
            count: a multiple of LANES.
            wide: float64, what a score is widened by, times the list's spread and, but for flat
                scores, times the distance from the center.
            square: float64, squared norm of the query; the distance follows from it.
            level: float64.
            lists: address of int32, written: names of those taken, and LANES beyond.
            bases: address of float32, written: their scores, likewise.

        Returns:
            how many were taken.
        """
        return types.int64(
            types.int64, types.int64, types.int64, types.float64, types.float64, types.float64,
            types.int64, types.int64,
        ), codegen  # fmt: skip

    return take_lists


take_flat = _make_take(flat=True)
take_round = _make_take(flat=False)


@intrinsic  # type: ignore[untyped-decorator]
def fetch_ahead(typingctx: Any, address: Any, size: Any) -> Any:
    """Ask the memory for `size` bytes that will be read soon."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address, size = args
        byte = ir.IntType(8).as_pointer()

        def step(index: Any, carried: list[Any]) -> list[Any]:
            place = builder.inttoptr(builder.add(address, index), byte)
            kind = ir.FunctionType(ir.VoidType(), [byte, I32, I32, I32])
            fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
            builder.call(fetch, [place, I32(0), I32(2), I32(1)])
            return []

        loop(builder, I64(0), size, 64, [], step)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen
