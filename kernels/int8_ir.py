"""LLVM IR that the 8-bit kernels are made of: loads, stores, dot products, loops.

Numba has no word for `vpdpbusd`, which multiplies four unsigned by four signed 8-bit numbers in
each 32-bit lane and adds them to it. Addresses are int64.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, config

I16, I32, I64 = ir.IntType(16), ir.IntType(32), ir.IntType(64)
WORD = 4  # dimensions of a 32-bit lane
_DOT = {16: "llvm.x86.avx512.vpdpbusd.512", 8: "llvm.x86.avx512.vpdpbusd.256"}


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


def vector(lanes: int) -> ir.VectorType:
    """Return the type of a register of 32-bit sums."""
    return ir.VectorType(I32, lanes)


def load(builder: Any, address: Any, kind: Any, offset: int = 0) -> Any:
    """Emit a read of `kind` from `offset` bytes after an address."""
    place = builder.add(address, I64(offset)) if offset else address
    found = builder.load(builder.inttoptr(place, kind.as_pointer()))
    found.align = 4
    return found


def store(builder: Any, value: Any, address: Any, offset: int = 0) -> None:
    """Emit a write to `offset` bytes after an address."""
    place = builder.add(address, I64(offset)) if offset else address
    builder.store(value, builder.inttoptr(place, value.type.as_pointer())).align = 4


def splat(builder: Any, word: Any, lanes: int) -> Any:
    """Emit a register that holds a 32-bit word in every lane."""
    blank = ir.Constant(vector(lanes), ir.Undefined)
    first = builder.insert_element(blank, word, I32(0))
    return builder.shuffle_vector(first, blank, ir.Constant(vector(lanes), [0] * lanes))


def dot(builder: Any, lanes: int, total: Any, row_codes: Any, query_codes: Any) -> Any:
    """Emit the dot product of unsigned and signed codes, added to `total`.

    Without VNNI it takes four 32-bit products: the same sums on every machine, more slowly.
    """
    if not int8_lanes():
        return _wide_dot(builder, lanes, total, row_codes, query_codes)
    kind = ir.FunctionType(vector(lanes), [vector(lanes)] * 3)
    function = cgutils.get_or_insert_function(builder.module, kind, _DOT[lanes])
    return builder.call(function, [total, row_codes, query_codes])


def _wide_dot(builder: Any, lanes: int, total: Any, row_codes: Any, query_codes: Any) -> Any:
    """Emit `dot` in instructions that every processor has."""
    for byte in range(WORD):
        up = ir.Constant(vector(lanes), [24 - 8 * byte] * lanes)
        down = ir.Constant(vector(lanes), [24] * lanes)
        row = builder.lshr(builder.shl(row_codes, up), down)
        query = builder.ashr(builder.shl(query_codes, up), down)
        total = builder.add(total, builder.mul(row, query))
    return total


def loop(
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
    index = builder.phi(I64)
    index.add_incoming(start, before)
    values = [builder.phi(value.type) for value in carried]
    for phi, value in zip(values, carried, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", index, stop), inner, done)
    builder.position_at_end(inner)
    updated = body(index, list(values))
    index.add_incoming(builder.add(index, I64(step)), builder.block)
    for phi, value in zip(values, updated, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(done)
    return values
