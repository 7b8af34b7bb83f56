"""Compiled host bodies of `kernels.pairwise`: float64 sums, rounded once to float32."""

import math
from functools import reduce
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpuvec.kernels.compiled import njit
from gpuvec.kernels.lanes import prefetch, wide_dot, wide_dot_norm, wide_square

CHUNK = 32  # bytes of packed bits in one step
AHEAD = 8  # pairs between asking for a row and reading it
COSINE, L2, SQEUCLIDEAN, IP, HAMMING, JACCARD = range(6)


@intrinsic  # type: ignore[untyped-decorator]
def word_at(typingctx: Any, bits: Any, row: Any, byte: Any) -> Any:
    """Read 8 bytes of a row of a (rows, width) uint8 array, from `byte` on, wherever they lie."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, args[0])
        width = builder.extract_value(array.shape, 1)
        at = builder.gep(array.data, [builder.add(builder.mul(args[1], width), args[2])])
        word = ir.IntType(64)
        return builder.load(builder.bitcast(at, word.as_pointer()), align=1, typ=word)

    return types.uint64(bits, types.int64, types.int64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def count_ones(typingctx: Any, word: Any) -> Any:
    """Count the bits that are set in a word."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.IntType(64)
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind]), "llvm.ctpop.i64"
        )
        return builder.call(function, [args[0]])

    return types.int64(types.uint64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def chunk_bits(typingctx: Any, queries: Any, i: Any, rows: Any, j: Any) -> Any:
    """Count differing bits and bits of either, over the whole chunks of CHUNK bytes of a pair."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = ir.IntType(64)
        wide = ir.VectorType(word, CHUNK // 8)
        arrays = [
            context.make_array(kind)(context, builder, value)
            for kind, value in ((signature.args[0], args[0]), (signature.args[2], args[2]))
        ]
        width = builder.extract_value(arrays[0].shape, 1)
        bases = [
            builder.gep(array.data, [builder.mul(row, width)])
            for array, row in zip(arrays, (args[1], args[3]), strict=True)
        ]
        count = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(wide, [wide]), f"llvm.ctpop.v{CHUNK // 8}i64"
        )
        zero = ir.Constant(wide, None)
        totals = [cgutils.alloca_once_value(builder, zero) for _ in range(2)]
        for total in totals:
            builder.store(zero, total)
        size = word(CHUNK)
        whole = builder.sub(width, builder.srem(width, size))
        with cgutils.for_range_slice(builder, word(0), whole, size) as (at, _):
            a, b = (
                builder.load(
                    builder.bitcast(builder.gep(base, [at]), wide.as_pointer()), align=1, typ=wide
                )
                for base in bases
            )
            for total, bits in zip(totals, (builder.xor(a, b), builder.or_(a, b)), strict=True):
                builder.store(builder.add(builder.load(total), builder.call(count, [bits])), total)
        sums = []
        for total in totals:
            lanes = builder.load(total)
            parts = [builder.extract_element(lanes, ir.IntType(32)(n)) for n in range(CHUNK // 8)]
            sums.append(reduce(builder.add, parts))
        return context.make_tuple(builder, signature.return_type, sums)

    found = types.UniTuple(types.int64, 2)
    return found(queries, types.int64, rows, types.int64), codegen


@njit(nogil=True, inline="always", error_model="numpy")  # type: ignore[untyped-decorator]
def bit_distance(queries: Any, i: int, rows: Any, j: int, metric: int) -> float:
    """Return the Hamming or Jaccard distance of two packed vectors."""
    width = queries.shape[1]
    start = width - width % CHUNK
    whole = width - width % 8
    differ, union = chunk_bits(queries, i, rows, j)
    for byte in range(start, whole, 8):
        a = word_at(queries, i, byte)
        b = word_at(rows, j, byte)
        differ += count_ones(a ^ b)
        union += count_ones(a | b)
    for byte in range(whole, width):
        differ += count_ones(types.uint64(queries[i, byte] ^ rows[j, byte]))
        union += count_ones(types.uint64(queries[i, byte] | rows[j, byte]))
    if metric == HAMMING:
        return float(differ)
    return differ / union if union > 0 else 0.0


@njit(nogil=True, inline="always", error_model="numpy")  # type: ignore[untyped-decorator]
def wide_distance(queries: Any, i: int, rows: Any, j: int, metric: int, query_square: float) -> Any:
    """Return the float64 distance of two dense vectors; `query_square` is `q·q`, for cosine."""
    if metric == IP:
        return 0.0 - wide_dot(queries, i, rows, j)
    if metric == COSINE:
        dot, row_square = wide_dot_norm(queries, i, rows, j)
        scale = math.sqrt(query_square * row_square)
        return max(0.0, 1.0 - dot / scale) if scale > 0.0 else 1.0
    square = wide_square(queries, i, rows, j)
    return math.sqrt(square) if metric == L2 else square


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def paired(
    queries: Any, rows: Any, query_index: Any, row_index: Any, metric: int, out: Any
) -> None:
    """Fill `out` with the distances of dense pairs."""
    last = -1
    query_square = 0.0
    for p in range(out.shape[0]):
        if p + AHEAD < out.shape[0]:
            prefetch(rows, row_index[p + AHEAD])
        i = query_index[p]
        if metric == COSINE and i != last:
            query_square = wide_dot(queries, i, queries, i)
            last = i
        out[p] = wide_distance(queries, i, rows, row_index[p], metric, query_square)


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def paired_bits(
    queries: Any, rows: Any, query_index: Any, row_index: Any, metric: int, out: Any
) -> None:
    """Fill `out` with the distances of packed pairs."""
    for p in range(out.shape[0]):
        out[p] = bit_distance(queries, query_index[p], rows, row_index[p], metric)


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def pairwise(queries: Any, rows: Any, start: int, stop: int, metric: int, out: Any) -> None:
    """Fill columns `start` to `stop` of `out` with distances, every query to every row."""
    squares = [0.0] * queries.shape[0]
    for i in range(queries.shape[0]):
        squares[i] = wide_dot(queries, i, queries, i) if metric == COSINE else 0.0
    for j in range(start, stop):
        for i in range(queries.shape[0]):
            out[i, j] = wide_distance(queries, i, rows, j, metric, squares[i])


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def pairwise_bits(queries: Any, rows: Any, start: int, stop: int, metric: int, out: Any) -> None:
    """Fill columns `start` to `stop` of `out` with distances of packed vectors."""
    for j in range(start, stop):
        for i in range(queries.shape[0]):
            out[i, j] = bit_distance(queries, i, rows, j, metric)
