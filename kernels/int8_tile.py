"""Integer products of a tile of rows with a group of queries: the batch scan's innermost loops.

A tile holds `TILE_ROWS` rows as unsigned codes, four dimensions of every row side by side:
(steps, TILE_ROWS, 4) uint8. Queries are signed codes, (queries, 4 * steps) int8. One `vpdpbusd`
multiplies four dimensions of 16 rows (8 without AVX-512) by four dimensions of one query. All sums
of a tile and a group stay in registers; only sums above their query's threshold are reported.

The bodies are LLVM IR, since Numba has no word for the instruction. Addresses are int64: Numba
arrays give theirs by `.ctypes.data`, and callers keep the arrays alive.
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic
from numpy.typing import NDArray

TILE_ROWS = 48
GROUP = 6  # queries per call; with 8, LLVM runs out of registers and spills sums
WORD = 4  # dimensions per step
PART = 16  # rows per call of `finish_part`

_I32, _I64 = ir.IntType(32), ir.IntType(64)
_DOT = {16: "llvm.x86.avx512.vpdpbusd.512", 8: "llvm.x86.avx512.vpdpbusd.256"}
_QUERIES_IN_REGISTERS = {16: 6, 8: 2}  # x TILE_ROWS / lanes sums, of 32 and 16 registers


@cache
def int8_lanes() -> int:
    """Return the sums per register that compiled code may use: 16, 8, or 0 without VNNI.

    Asks for what Numba compiles for, so `NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES` count.
    """
    if config.CPU_FEATURES is not None:
        wanted = {part[1:] for part in config.CPU_FEATURES.split(",") if part.startswith("+")}
    else:
        wanted = {name for name, on in llvmlite.binding.get_host_cpu_features().items() if on}
    if {"avx512vnni", "avx512bw", "avx512vl"} <= wanted:
        return 16
    return 8 if "avxvnni" in wanted else 0


def aligned_zeros(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return zeros that start at a cache line: a register that spans two lines costs double."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    skip = -raw.ctypes.data % 64
    out: NDArray[Any] = raw[skip : skip + size].view(dtype).reshape(shape)
    return out


def _vector(lanes: int) -> ir.VectorType:
    return ir.VectorType(_I32, lanes)


def _load(builder: Any, address: Any, kind: Any, offset: int = 0) -> Any:
    place = builder.add(address, _I64(offset)) if offset else address
    found = builder.load(builder.inttoptr(place, kind.as_pointer()))
    found.align = 4
    return found


def _store(builder: Any, value: Any, address: Any, offset: int = 0) -> None:
    place = builder.add(address, _I64(offset)) if offset else address
    builder.store(value, builder.inttoptr(place, value.type.as_pointer())).align = 4


def _splat(builder: Any, word: Any, lanes: int) -> Any:
    blank = ir.Constant(_vector(lanes), ir.Undefined)
    first = builder.insert_element(blank, word, _I32(0))
    return builder.shuffle_vector(first, blank, ir.Constant(_vector(lanes), [0] * lanes))


def _dot(builder: Any, lanes: int, total: Any, row_codes: Any, query_codes: Any) -> Any:
    kind = ir.FunctionType(_vector(lanes), [_vector(lanes)] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, _DOT[lanes])
    return builder.call(function, [total, row_codes, query_codes])


def _loop(
    builder: Any,
    start: Any,
    stop: Any,
    step: int,
    carried: Sequence[Any],
    body: Callable[[Any, list[Any]], list[Any]],
) -> list[Any]:
    """Emit `for i in range(start, stop, step): carried = body(i, carried)`; return the last."""
    before = builder.block
    head, inner, done = (builder.append_basic_block(f"int8.{name}") for name in ("h", "b", "d"))
    builder.branch(head)
    builder.position_at_end(head)
    index = builder.phi(_I64)
    index.add_incoming(start, before)
    values = [builder.phi(value.type) for value in carried]
    for phi, value in zip(values, carried, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", index, stop), inner, done)
    builder.position_at_end(inner)
    updated = body(index, list(values))
    index.add_incoming(builder.add(index, _I64(step)), builder.block)
    for phi, value in zip(values, updated, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(done)
    return values


def make_tile_product(lanes: int) -> Any:
    """Make `tile_product` for registers of 16 or 8 sums; see there."""
    vectors = TILE_ROWS // lanes
    block = _QUERIES_IN_REGISTERS[lanes]

    def sums(builder: Any, args: Sequence[Any], first: int) -> list[Any]:
        """Return the sums of `block` queries from `first` on, query by query."""
        tile, bias, codes, stride, slots, head, stop, shift = args[:8]
        places = [
            builder.add(codes, builder.mul(_load(builder, slots, _I64, 8 * (first + j)), stride))
            for j in range(block)
        ]

        def step(index: Any, totals: list[Any]) -> list[Any]:
            column = builder.add(tile, builder.mul(index, _I64(TILE_ROWS * WORD)))
            rows = [_load(builder, column, _vector(lanes), 4 * lanes * v) for v in range(vectors)]
            offset = builder.mul(index, _I64(WORD))
            for j in range(block):
                word = _load(builder, builder.add(places[j], offset), _I32)
                query = _splat(builder, word, lanes)
                for v in range(vectors):
                    at = j * vectors + v
                    totals[at] = _dot(builder, lanes, totals[at], rows[v], query)
            return totals

        zero = ir.Constant(_vector(lanes), [0] * lanes)
        totals = _loop(builder, _I64(0), head, 1, [zero] * (block * vectors), step)
        places_up = _splat(builder, builder.trunc(shift, _I32), lanes)
        start = [_load(builder, bias, _vector(lanes), 4 * lanes * v) for v in range(vectors)]
        totals = [
            builder.add(builder.shl(total, places_up), start[at % vectors])
            for at, total in enumerate(totals)
        ]
        return _loop(builder, head, stop, 1, totals, step)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        thresholds, keep, name, hit_query, hit_rows, hit_sums = args[8:]
        hits = _I64(0)
        for first in range(0, GROUP, block):
            totals = sums(builder, args, first)
            for j in range(block):
                word = _load(builder, thresholds, _I32, 4 * (first + j))
                threshold = _splat(builder, word, lanes)
                place = builder.add(hit_sums, builder.mul(hits, _I64(4 * TILE_ROWS)))
                mask = _I64(0)
                for v in range(vectors):
                    total = totals[j * vectors + v]
                    above = builder.icmp_signed(">", total, threshold)
                    bits = builder.zext(builder.bitcast(above, ir.IntType(lanes)), _I64)
                    mask = builder.or_(mask, builder.shl(bits, _I64(lanes * v)))
                    _store(builder, total, place, 4 * lanes * v)
                mask = builder.and_(mask, keep)
                record = builder.mul(hits, _I64(8))
                called = builder.add(name, _I64(first + j))
                _store(builder, called, builder.add(hit_query, record))
                _store(builder, mask, builder.add(hit_rows, record))
                found = builder.zext(builder.icmp_unsigned("!=", mask, _I64(0)), _I64)
                hits = builder.add(hits, found)
        return hits

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
        thresholds: Any,
        keep: Any,
        name: Any,
        hit_query: Any,
        hit_rows: Any,
        hit_sums: Any,
    ) -> Any:
        """Multiply a tile by `GROUP` queries and report the sums above the thresholds.

        A sum is `bias + (product over steps [0, head) << shift) + product over [head, stop)`.

        Args:
            typingctx: of Numba.
            tile: address of (steps, TILE_ROWS, 4) uint8.
            bias: address of (TILE_ROWS,) int32.
            codes: address of (queries, stride) int8.
            stride: bytes per query.
            slots: address of (GROUP,) int64, the queries' places in `codes`.
            head: steps whose products are shifted.
            stop: steps to take, at least `head`.
            shift: places.
            thresholds: address of (GROUP,) int32; a row passes when its sum is greater.
            keep: rows that may pass, one bit each.
            name: what the first query of the group is called in `hit_query`; the next, one more.
            hit_query: address of (GROUP + 1,) int64: each query with a hit.
            hit_rows: address of (GROUP + 1,) int64: its passing rows, one bit each.
            hit_sums: address of (GROUP + 1, TILE_ROWS) int32: its sums, passing or not.

        Returns:
            how many records were filled.
        """
        return types.int64(*[types.int64] * 14), codegen

    return tile_product


def make_finish_part(lanes: int) -> Any:
    """Make `finish_part` for registers of 16 or 8 sums; see there."""
    vectors, chains = PART // lanes, 4

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        part, codes, start, stop, totals, threshold = args

        def step(index: Any, sums: list[Any]) -> list[Any]:
            column = builder.add(part, builder.mul(index, _I64(TILE_ROWS * WORD)))
            words = builder.add(codes, builder.mul(index, _I64(WORD)))
            for chain in range(chains):
                query = _splat(builder, _load(builder, words, _I32, WORD * chain), lanes)
                for v in range(vectors):
                    at = v * chains + chain
                    place = chain * TILE_ROWS * WORD + 4 * lanes * v
                    rows = _load(builder, column, _vector(lanes), place)
                    sums[at] = _dot(builder, lanes, sums[at], rows, query)
            return sums

        zero = ir.Constant(_vector(lanes), [0] * lanes)
        sums = _loop(builder, start, stop, chains, [zero] * (vectors * chains), step)
        limit = _splat(builder, builder.trunc(threshold, _I32), lanes)
        mask = _I64(0)
        for v in range(vectors):
            total = _load(builder, totals, _vector(lanes), 4 * lanes * v)
            for chain in range(chains):
                total = builder.add(total, sums[v * chains + chain])
            _store(builder, total, totals, 4 * lanes * v)
            above = builder.bitcast(builder.icmp_signed(">", total, limit), ir.IntType(lanes))
            mask = builder.or_(mask, builder.shl(builder.zext(above, _I64), _I64(lanes * v)))
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


tile_product = make_tile_product(int8_lanes() or 8)
finish_part = make_finish_part(int8_lanes() or 8)
