"""Integer products of single queries with parts of a tile: what the batch scan does with its hits.

A part is `PART` rows of a tile. Addresses are int64, as in `kernels.int8_tile`.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuvec.kernels.int8_ir import I16, I32, I64, dot, load, loop, splat, store, vector
from gpuvec.kernels.int8_tile import TILE_ROWS, WORD, int8_lanes

PART = 16  # rows
PARTS = TILE_ROWS // PART


def make_list_parts(lanes: int) -> Any:
    """Make `list_parts` for registers of 16 or 8 sums; see there."""
    width = 8 if lanes == 16 else 1

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        masks, count, out = args
        wide, flags = ir.VectorType(I32, width), ir.VectorType(ir.IntType(1), width)

        def step(index: Any, carried: list[Any]) -> list[Any]:
            (found,) = carried
            place = builder.add(masks, builder.mul(index, I64(2)))
            to = builder.add(out, builder.mul(found, I64(4)))
            first = builder.trunc(index, I32)
            if width == 1:
                some = builder.icmp_unsigned("!=", load(builder, place, I16), I16(0))
                store(builder, first, to)
                return [builder.add(found, builder.zext(some, I64))]
            words = load(builder, place, ir.VectorType(I16, width))
            zero = ir.Constant(words.type, [0] * width)
            some = builder.icmp_unsigned("!=", words, zero)
            names = builder.add(splat(builder, first, width), ir.Constant(wide, list(range(width))))
            kind = ir.FunctionType(wide, [wide, wide, flags])
            squeeze = cgutils.get_or_insert_function(
                builder.module, kind, "llvm.x86.avx512.mask.compress.v8i32"
            )
            store(builder, builder.call(squeeze, [names, names, some]), to)
            byte = ir.IntType(8)
            ones = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(byte, [byte]), "llvm.ctpop.i8"
            )
            more = builder.call(ones, [builder.bitcast(some, byte)])
            return [builder.add(found, builder.zext(more, I64))]

        return loop(builder, I64(0), count, width, [I64(0)], step)[0]

    @intrinsic  # type: ignore[untyped-decorator]
    def list_parts(typingctx: Any, masks: Any, count: Any, out: Any) -> Any:
        """List the places of all masks that are not zero, without a branch for each.

        Args:
            typingctx: of Numba.
            masks: address of (count,) uint16.
            count: a multiple of 8.
            out: address of (count + 8,) int32, written.

        Returns:
            how many places were listed.
        """
        return types.int64(*[types.int64] * 3), codegen

    return list_parts


@intrinsic  # type: ignore[untyped-decorator]
def lowest_bit(typingctx: Any, bits: Any) -> Any:
    """Return the place of the lowest bit that is set; `bits` is not zero."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(I64, [I64, ir.IntType(1)])
        count = cgutils.get_or_insert_function(builder.module, kind, "llvm.cttz.i64")
        return builder.call(count, [args[0], ir.IntType(1)(1)])

    return types.int64(types.int64), codegen


def make_finish_part(lanes: int) -> Any:
    """Make `finish_part` for registers of 16 or 8 sums; see there."""
    vectors, chains = PART // lanes, 4

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        part, codes, start, stop, totals, threshold = args

        def step(index: Any, sums: list[Any]) -> list[Any]:
            column = builder.add(part, builder.mul(index, I64(TILE_ROWS * WORD)))
            words = builder.add(codes, builder.mul(index, I64(WORD)))
            for chain in range(chains):
                query = splat(builder, load(builder, words, I32, WORD * chain), lanes)
                for v in range(vectors):
                    at = v * chains + chain
                    place = chain * TILE_ROWS * WORD + 4 * lanes * v
                    rows = load(builder, column, vector(lanes), place)
                    sums[at] = dot(builder, lanes, sums[at], rows, query)
            return sums

        zero = ir.Constant(vector(lanes), [0] * lanes)
        sums = loop(builder, start, stop, chains, [zero] * (vectors * chains), step)
        limit = splat(builder, builder.trunc(threshold, I32), lanes)
        mask = I64(0)
        for v in range(vectors):
            total = load(builder, totals, vector(lanes), 4 * lanes * v)
            for chain in range(chains):
                total = builder.add(total, sums[v * chains + chain])
            store(builder, total, totals, 4 * lanes * v)
            above = builder.bitcast(builder.icmp_signed(">", total, limit), ir.IntType(lanes))
            mask = builder.or_(mask, builder.shl(builder.zext(above, I64), I64(lanes * v)))
        return mask

    @intrinsic  # type: ignore[untyped-decorator]
    def finish_part(
        typingctx: Any, part: Any, codes: Any, start: Any, stop: Any, totals: Any, threshold: Any
    ) -> Any:
        """Add the products over steps [start, stop) to the sums of 16 rows and one query.

        Args:
            typingctx: of Numba.
            part: address of the 16 rows within step 0 of their tile.
            codes: address of the query's codes.
            start: first step; stop - start is a multiple of 4.
            stop: end of the steps.
            totals: address of (16,) int32, read and written.
            threshold: a row passes when its sum is greater.

        Returns:
            the rows that pass, one bit each.
        """
        return types.int64(*[types.int64] * 6), codegen

    return finish_part


finish_part = make_finish_part(int8_lanes() or 8)
list_parts = make_list_parts(int8_lanes() or 8)
