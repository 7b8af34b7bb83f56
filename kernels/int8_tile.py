"""Integer products of a tile of rows with a group of queries: the batch scan's innermost loops.

A tile holds `TILE_ROWS` rows as unsigned codes, four dimensions of every row side by side:
(steps, TILE_ROWS, 4) uint8. Queries are signed codes, (queries, 4 * steps) int8. One `vpdpbusd`
multiplies four dimensions of 16 rows (8 without AVX-512) by four dimensions of one query. All sums
of a tile and a group stay in registers until they are compared with their queries' thresholds.

Addresses are int64: Numba arrays give theirs by `.ctypes.data`, and callers keep the arrays alive.
"""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from gpuvec.kernels import compiled as compiled  # its cache guard
from gpuvec.kernels.int8_ir import I32, I64, dot, load, loop, splat, store, vector
from gpuvec.kernels.int8_ir import WORD as WORD
from gpuvec.kernels.int8_ir import int8_lanes as int8_lanes

TILE_ROWS = 48
GROUP = 8  # queries per call
FAR = 2.0**30  # no integer product is that large
MARGIN = 3  # of integer thresholds, for their own rounding
_UNROLL = 4
_QUERIES_IN_REGISTERS = {16: 8, 8: 2}  # x TILE_ROWS / lanes sums, of 32 and 16 registers


def aligned_zeros(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return zeros that start at a cache line: a register that spans two lines costs double."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    out: NDArray[Any] = raw[skip : skip + size].view(dtype).reshape(shape)
    return out


def _limits(builder: Any, starts: Any, slopes: Any, raised: Any, tail: Any) -> Any:
    """Return what the integer sums of `GROUP` queries must be above; see `tile_product`."""
    wide = ir.VectorType(ir.DoubleType(), GROUP)

    def spread(value: Any) -> Any:
        blank = ir.Constant(wide, ir.Undefined)
        first = builder.insert_element(blank, value, I32(0))
        return builder.shuffle_vector(first, blank, ir.Constant(vector(GROUP), [0] * GROUP))

    needed = builder.fadd(load(builder, starts, wide), spread(raised))
    needed = builder.fsub(needed, builder.fmul(load(builder, slopes, wide), spread(tail)))
    far = ir.Constant(wide, [FAR] * GROUP)
    needed = builder.select(builder.fcmp_ordered("<", needed, far), needed, far)
    near = ir.Constant(wide, [-FAR] * GROUP)
    needed = builder.select(builder.fcmp_ordered(">", needed, near), needed, near)
    whole = builder.fptosi(needed, vector(GROUP))
    return builder.sub(whole, ir.Constant(vector(GROUP), [MARGIN] * GROUP))


def registers_for(lanes: int) -> int:
    """Return for how many queries the registers hold all sums of a tile."""
    return _QUERIES_IN_REGISTERS[lanes]


def product_sums(
    builder: Any, lanes: int, queries: Sequence[Any], tile: Sequence[Any], steps: Sequence[Any]
) -> list[Any]:
    """Emit the products of a tile with some queries, see `tile_product`; return them by query.

    Args:
        builder: of LLVM IR.
        lanes: 16 or 8 sums a register.
        queries: places in the codes.
        tile: address of the tile, of the bias and of the codes, and bytes per query.
        steps: end of the head, end, places by which the head is shifted.
    """
    vectors, block = TILE_ROWS // lanes, len(queries)
    begin, bias, codes, stride = tile
    head, stop, shift = steps
    places = [builder.add(codes, builder.mul(query, stride)) for query in queries]

    def step(index: Any, totals: list[Any]) -> list[Any]:
        for ahead in range(_UNROLL):
            at_step = builder.add(index, I64(ahead))
            column = builder.add(begin, builder.mul(at_step, I64(TILE_ROWS * WORD)))
            rows = [load(builder, column, vector(lanes), 4 * lanes * v) for v in range(vectors)]
            offset = builder.mul(at_step, I64(WORD))
            for j in range(block):
                word = load(builder, builder.add(places[j], offset), I32)
                query = splat(builder, word, lanes)
                for v in range(vectors):
                    at = j * vectors + v
                    totals[at] = dot(builder, lanes, totals[at], rows[v], query)
        return totals

    zero = ir.Constant(vector(lanes), [0] * lanes)
    totals = loop(builder, I64(0), head, _UNROLL, [zero] * (block * vectors), step)
    places_up = splat(builder, builder.trunc(shift, I32), lanes)
    totals = [builder.shl(total, places_up) for total in totals]
    begin = builder.add(begin, builder.mul(head, I64(TILE_ROWS * WORD)))
    places = [builder.add(place, builder.mul(head, I64(WORD))) for place in places]
    totals = loop(builder, I64(0), builder.sub(stop, head), _UNROLL, totals, step)
    start = [load(builder, bias, vector(lanes), 4 * lanes * v) for v in range(vectors)]
    return [builder.add(total, start[at % vectors]) for at, total in enumerate(totals)]


def make_tile_body(lanes: int) -> Any:
    """Make what `tile_product` calls, for registers of 16 or 8 sums."""
    vectors = TILE_ROWS // lanes
    block = registers_for(lanes)

    def sums(builder: Any, args: Sequence[Any], first: int) -> list[Any]:
        """Return the sums of `block` queries from `first` on, query by query."""
        places = [load(builder, args[4], I64, 8 * (first + j)) for j in range(block)]
        return product_sums(builder, lanes, places, args[:4], args[5:8])

    def body(builder: Any, args: Sequence[Any]) -> None:
        starts, slopes, raised, tail, keep, out_rows, out_sums = args[8:]
        limits = _limits(builder, starts, slopes, raised, tail)
        few = ir.IntType(lanes)
        kept = [
            builder.bitcast(
                builder.trunc(builder.lshr(keep, I64(lanes * v)), few),
                ir.VectorType(ir.IntType(1), lanes),
            )
            for v in range(vectors)
        ]
        for first in range(0, GROUP, block):
            totals = sums(builder, args, first)
            for j in range(first, first + block):
                limit = splat(builder, builder.extract_element(limits, I32(j)), lanes)
                for v in range(vectors):
                    total = totals[(j - first) * vectors + v]
                    above = builder.and_(builder.icmp_signed(">", total, limit), kept[v])
                    at = (j * vectors + v) * lanes
                    store(builder, builder.bitcast(above, few), out_rows, at // 8)
                    store(builder, total, out_sums, 4 * at)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        body(builder, args)
        return context.get_dummy_value()

    @intrinsic  # type: ignore[untyped-decorator]
    def tile_product(
        typingctx: Any,
        tile: Any,
        bias: Any,
        codes: Any,
        stride: Any,
        slots: Any,
        head: Any,
        stop: Any,
        shift: Any,
        starts: Any,
        slopes: Any,
        raised: Any,
        tail: Any,
        keep: Any,
        out_rows: Any,
        out_sums: Any,
    ) -> Any:
        return _TILE_ARGUMENTS, codegen

    return tile_product


_TILE_ARGUMENTS = types.void(*[types.int64] * 10, types.float64, types.float64, *[types.int64] * 3)


_tile_body = make_tile_body(int8_lanes() or 8)


@cache
def tile_address() -> int:
    """Return the address of the machine code that `tile_product` calls, compiled on first use.

    It is a function of its own: among other code LLVM does not keep all sums in registers.
    """

    @cfunc(_TILE_ARGUMENTS, cache=True, nopython=True)  # type: ignore[untyped-decorator]
    def tile_code(
        tile: int, bias: int, codes: int, stride: int, slots: int, head: int, stop: int,
        shift: int, starts: int, slopes: int, raised: float, tail: float, keep: int, out_rows: int,
        out_sums: int,
    ) -> None:  # fmt: skip
        _tile_body(
            tile, bias, codes, stride, slots, head, stop, shift, starts, slopes, raised, tail, keep,
            out_rows, out_sums,
        )  # fmt: skip

    return int(tile_code.address)


@intrinsic  # type: ignore[untyped-decorator]
def tile_product(
    typingctx: Any,
    address: Any,
    tile: Any,
    bias: Any,
    codes: Any,
    stride: Any,
    slots: Any,
    head: Any,
    stop: Any,
    shift: Any,
    starts: Any,
    slopes: Any,
    raised: Any,
    tail: Any,
    keep: Any,
    out_rows: Any,
    out_sums: Any,
) -> Any:
    """Multiply a tile by `GROUP` queries and say which sums are above the thresholds.

    A sum is `bias + (product over steps [0, head) << shift) + product over [head, stop)`.

    Args:
        typingctx: of Numba.
        address: see `tile_address`.
        tile: address of (steps, TILE_ROWS, 4) uint8.
        bias: address of (TILE_ROWS,) int32.
        codes: address of (queries, stride) int8.
        stride: bytes per query.
        slots: address of (GROUP,) int64, the queries' places in `codes`.
        head: steps whose products are shifted, a multiple of 4.
        stop: steps to take, at least `head`, a multiple of 4.
        shift: places.
        starts: address of (GROUP,) float64.
        slopes: address of (GROUP,) float64.
        raised: float64.
        tail: float64; a row passes if its sum reaches `starts + raised - slopes * tail`, and may
            if it falls short by `MARGIN`.
        keep: rows that may pass, one bit each.
        out_rows: address of (GROUP, TILE_ROWS / 16) uint16, written: rows that pass.
        out_sums: address of (GROUP, TILE_ROWS) int32, written: all sums.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in args[1:]])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, *_TILE_ARGUMENTS.args), codegen
