"""LLVM IR of centers' scores: from integer sums to scores, list by list, and the best of them.

Scores lie list by list, 16 queries side by side, so that what asks them works on 16 queries at a
time. Addresses are int64, as in `kernels.int8_tile`.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuvec.kernels.int8_ir import I32, I64, load, loop, splat, store, vector
from gpuvec.kernels.int8_tile import TILE_ROWS

LANES = 16
F32, F64 = ir.FloatType(), ir.DoubleType()
REALS = ir.VectorType(F32, LANES)
LEAST = ir.Constant(REALS, [float("-inf")] * LANES)
LOWEST = -3.0e38  # a level that everything reaches which has a score
_ROW_BYTES = 4 * TILE_ROWS  # of sums
_VECTOR_BYTES = 4 * LANES


def call(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    """Emit a call of one of LLVM's intrinsics."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def spread(builder: Any, value: Any) -> Any:
    """Emit a register that holds a float32, or a float64 rounded to it, in every lane."""
    value = builder.fptrunc(value, F32) if value.type == F64 else value
    blank = ir.Constant(REALS, ir.Undefined)
    first = builder.insert_element(blank, value, I32(0))
    return builder.shuffle_vector(first, blank, ir.Constant(vector(LANES), [0] * LANES))


def higher(builder: Any, a: Any, b: Any) -> Any:
    """Emit the lane-wise maximum; where either is no number, that is `b`."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


@intrinsic  # type: ignore[untyped-decorator]
def scale_sums(
    typingctx: Any, sums: Any, added: Any, unit: Any, units: Any, half: Any, out: Any
) -> Any:
    """Turn the integer sums of a tile of vectors and one query into scores.

    Args:
        typingctx: of Numba.
        sums: address of (TILE_ROWS,) int32.
        added: int64, what to take off each.
        unit: float64, the query's step.
        units: address of (TILE_ROWS,) float32, the vectors' steps.
        half: address of (TILE_ROWS,) float32, what scores are less by.
        out: address of (TILE_ROWS,) float32, written.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sums, added, unit, units, half, out = args
        less = splat(builder, builder.trunc(added, I32), LANES)
        step = spread(builder, unit)
        for at in range(0, _ROW_BYTES, _VECTOR_BYTES):
            total = builder.sub(load(builder, sums, vector(LANES), at), less)
            real = builder.fmul(builder.sitofp(total, REALS), step)
            real = builder.fmul(real, load(builder, units, REALS, at))
            store(builder, builder.fsub(real, load(builder, half, REALS, at)), out, at)
        return context.get_dummy_value()

    return types.void(
        types.int64, types.int64, types.float64, types.int64, types.int64, types.int64
    ), codegen


def _transpose(builder: Any, rows: list[Any]) -> list[Any]:
    """Emit the transposition of 16 registers."""
    for distance in (8, 4, 2, 1):
        for i in (i for i in range(LANES) if not i & distance):
            low = [lane + LANES - distance if lane & distance else lane for lane in range(LANES)]
            high = [lane + LANES if lane & distance else lane + distance for lane in range(LANES)]
            a, b = rows[i], rows[i + distance]
            for place, lanes in ((i, low), (i + distance, high)):
                mask = ir.Constant(vector(LANES), lanes)
                rows[place] = builder.shuffle_vector(a, b, mask)
    return rows


@intrinsic  # type: ignore[untyped-decorator]
def spread_scores(
    typingctx: Any, sums: Any, added: Any, query_units: Any, valid: Any, units: Any, half: Any,
    tops: Any, out: Any, stride: Any,
) -> Any:  # fmt: skip
    """Turn the sums of a tile of centers and 16 queries into scores, list by list.

    Args:
        typingctx: of Numba.
        sums: address of (16, TILE_ROWS) int32.
        added: address of (16,) int32, what to take off each query's sums.
        query_units: address of (16,) float32.
        valid: queries that there are; the others score -inf.
        units: address of (TILE_ROWS,) float32, the centers' steps.
        half: address of (TILE_ROWS,) float32, what scores are less by.
        tops: address of (TILE_ROWS, 16) float32: raised to the scores.
        out: address of (16,) float32, written; those of the next list are `stride` bytes on.
        stride: bytes.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sums, added, query_units, valid, units, half, tops, out, stride = args
        less = load(builder, added, vector(LANES))
        steps = load(builder, query_units, REALS)
        places = ir.Constant(vector(LANES), list(range(LANES)))
        there = builder.icmp_signed("<", places, splat(builder, builder.trunc(valid, I32), LANES))

        def part(index: Any, carried: list[Any]) -> list[Any]:
            begin = builder.add(sums, builder.mul(index, I64(4)))
            rows = [load(builder, begin, vector(LANES), _ROW_BYTES * j) for j in range(LANES)]
            for lane, total in enumerate(_transpose(builder, rows)):
                at = builder.add(index, I64(lane))
                word = builder.mul(at, I64(4))
                unit = load(builder, builder.add(units, word), F32)
                off = load(builder, builder.add(half, word), F32)
                real = builder.fmul(builder.sitofp(builder.sub(total, less), REALS), steps)
                real = builder.fmul(real, spread(builder, unit))
                real = builder.select(there, builder.fsub(real, spread(builder, off)), LEAST)
                store(builder, real, builder.add(out, builder.mul(at, stride)))
                top = builder.add(tops, builder.mul(at, I64(_VECTOR_BYTES)))
                store(builder, higher(builder, real, load(builder, top, REALS)), top)
            return []

        loop(builder, I64(0), I64(TILE_ROWS), LANES, [], part)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 9), codegen


@intrinsic  # type: ignore[untyped-decorator]
def pick_level(typingctx: Any, tops: Any, count: Any, out: Any) -> Any:
    """Drop each query's greatest tops and write the least of those dropped.

    Args:
        typingctx: of Numba.
        tops: address of (TILE_ROWS, 16) float32; -inf is written where one is dropped.
        count: how many to drop, at least 1; equal ones go together.
        out: address of (16,) float32, written; at least LOWEST.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        tops, count, out = args

        def peak(index: Any, carried: list[Any]) -> list[Any]:
            at = builder.add(tops, builder.mul(index, I64(_VECTOR_BYTES)))
            return [
                higher(builder, load(builder, at, REALS, _VECTOR_BYTES * j), best)
                for j, best in enumerate(carried)
            ]

        def turn(index: Any, carried: list[Any]) -> list[Any]:
            best = loop(builder, I64(0), I64(TILE_ROWS), 4, [LEAST] * 4, peak)
            level = higher(
                builder, higher(builder, best[0], best[1]), higher(builder, best[2], best[3])
            )

            def drop(index: Any, carried: list[Any]) -> list[Any]:
                for j in range(4):
                    row = builder.add(index, I64(j))
                    at = builder.add(tops, builder.mul(row, I64(_VECTOR_BYTES)))
                    top = load(builder, at, REALS)
                    left = builder.select(builder.fcmp_ordered("==", top, level), LEAST, top)
                    store(builder, left, at)
                return []

            loop(builder, I64(0), I64(TILE_ROWS), 4, [], drop)
            return [level]

        (level,) = loop(builder, I64(0), count, 1, [LEAST], turn)
        store(builder, higher(builder, level, spread(builder, ir.Constant(F32, LOWEST))), out)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), codegen
