"""Integer products of a tile with any number of queries, in groups that fit the registers.

Groups of 8 queries make full use of the processor; of 4, 2 and 1 they make the best of the rest.
See `kernels.int8_tile` for tiles and codes.
"""

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from gpuvec.kernels.compiled import njit
from gpuvec.kernels.int8_ir import I32, I64, load, splat, store
from gpuvec.kernels.int8_parts import PARTS
from gpuvec.kernels.int8_tile import TILE_ROWS, int8_lanes, product_sums, registers_for
from gpuvec.kernels.ivf_memory import get_i64

SIZES = (8, 4, 2, 1)  # of groups
_ARGUMENTS = types.void(*[types.int64] * 12)


def make_group(lanes: int, size: int) -> Any:
    """Make what `multiply` calls for groups of a size, with registers of 16 or 8 sums."""
    vectors = TILE_ROWS // lanes
    block = min(size, registers_for(lanes))

    def body(builder: Any, args: Any) -> None:
        limits, keep, out_rows, out_sums = args[8:]
        few = ir.IntType(lanes)
        kept = [
            builder.bitcast(
                builder.trunc(builder.lshr(keep, I64(lanes * v)), few),
                ir.VectorType(ir.IntType(1), lanes),
            )
            for v in range(vectors)
        ]
        for first in range(0, size, block):
            places = [
                builder.zext(load(builder, args[4], I32, 4 * (first + j)), I64)
                for j in range(block)
            ]
            totals = product_sums(builder, lanes, places, args[:4], args[5:8])
            for j in range(block):
                limit = splat(builder, load(builder, limits, I32, 4 * (first + j)), lanes)
                for v in range(vectors):
                    total = totals[j * vectors + v]
                    above = builder.and_(builder.icmp_signed(">", total, limit), kept[v])
                    at = ((first + j) * vectors + v) * lanes
                    flags = builder.bitcast(above, few)
                    store(builder, flags, out_rows, at // 8)
                    store(builder, total, out_sums, 4 * at)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        body(builder, args)
        return context.get_dummy_value()

    @intrinsic  # type: ignore[untyped-decorator]
    def group(
        typingctx: Any, tile: Any, bias: Any, codes: Any, stride: Any, slots: Any, head: Any,
        stop: Any, shift: Any, limits: Any, keep: Any, rows: Any, sums: Any,
    ) -> Any:  # fmt: skip
        return _ARGUMENTS, codegen

    return group


_group8, _group4, _group2, _group1 = (make_group(int8_lanes() or 8, size) for size in SIZES)


@cache
def group_addresses() -> NDArray[np.int64]:
    """Return the addresses of the machine code for groups of `SIZES`, compiled on first use.

    Each is a function of its own: among other code LLVM does not keep all sums in registers.
    """

    @cfunc(_ARGUMENTS, cache=True, nopython=True)  # type: ignore[untyped-decorator]
    def eight(
        tile: int, bias: int, codes: int, stride: int, slots: int, head: int, stop: int, shift: int,
        limits: int, keep: int, rows: int, sums: int,
    ) -> None:  # fmt: skip
        _group8(
            tile, bias, codes, stride, slots, head, stop, shift, limits, keep, rows, sums
        )  # fmt: skip

    @cfunc(_ARGUMENTS, cache=True, nopython=True)  # type: ignore[untyped-decorator]
    def four(
        tile: int, bias: int, codes: int, stride: int, slots: int, head: int, stop: int, shift: int,
        limits: int, keep: int, rows: int, sums: int,
    ) -> None:  # fmt: skip
        _group4(
            tile, bias, codes, stride, slots, head, stop, shift, limits, keep, rows, sums
        )  # fmt: skip

    @cfunc(_ARGUMENTS, cache=True, nopython=True)  # type: ignore[untyped-decorator]
    def two(
        tile: int, bias: int, codes: int, stride: int, slots: int, head: int, stop: int, shift: int,
        limits: int, keep: int, rows: int, sums: int,
    ) -> None:  # fmt: skip
        _group2(
            tile, bias, codes, stride, slots, head, stop, shift, limits, keep, rows, sums
        )  # fmt: skip

    @cfunc(_ARGUMENTS, cache=True, nopython=True)  # type: ignore[untyped-decorator]
    def one(
        tile: int, bias: int, codes: int, stride: int, slots: int, head: int, stop: int, shift: int,
        limits: int, keep: int, rows: int, sums: int,
    ) -> None:  # fmt: skip
        _group1(
            tile, bias, codes, stride, slots, head, stop, shift, limits, keep, rows, sums
        )  # fmt: skip

    found = np.array([code.address for code in (eight, four, two, one)], np.int64)
    found.flags.writeable = False
    return found


@intrinsic  # type: ignore[untyped-decorator]
def _call_group(
    typingctx: Any, address: Any, tile: Any, bias: Any, codes: Any, stride: Any, slots: Any,
    head: Any, stop: Any, shift: Any, limits: Any, keep: Any, rows: Any, sums: Any,
) -> Any:  # fmt: skip
    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in args[1:]])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(types.int64, *_ARGUMENTS.args), codegen


@njit(nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def multiply(
    groups: int, tile: int, bias: int, codes: int, stride: int, slots: int, count: int, head: int,
    stop: int, shift: int, limits: int, keep: int, rows: int, sums: int,
) -> None:  # fmt: skip
    """Multiply a tile by queries and say which sums are above the limits.

    A sum is `bias + (product over steps [0, head) << shift) + product over [head, stop)`.

    Args:
        groups: address of `group_addresses()`.
        tile: address of (steps, TILE_ROWS, 4) uint8.
        bias: address of (TILE_ROWS,) int32.
        codes: address of (queries, stride) int8.
        stride: bytes per query.
        slots: address of (count,) int32, the queries' places in `codes`.
        count: of queries.
        head: steps whose products are shifted, a multiple of 4.
        stop: steps to take, at least `head`, a multiple of 4.
        shift: places.
        limits: address of (count,) int32; a row passes if its sum is greater.
        keep: rows that may pass, one bit each.
        rows: address of (count, PARTS) uint16, written: rows that pass.
        sums: address of (count, TILE_ROWS) int32, written: all sums.
    """
    done = 0
    for place in range(4):
        size = 8 >> place
        code = get_i64(groups, place)
        while count - done >= size:
            _call_group(
                code, tile, bias, codes, stride, slots + 4 * done, head, stop, shift,
                limits + 4 * done, keep, rows + 2 * PARTS * done, sums + 4 * TILE_ROWS * done,
            )  # fmt: skip
            done += size
