"""Reads and writes at addresses, for compiled code that is told where things lie.

A function that takes a dozen arrays is handed a hundred words at each call, which takes longer than
what the sweep's smaller functions do. They take one record of addresses instead
(`kernels.ivf_job`). Addresses are int64 and never checked.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpuvec.kernels.int8_ir import I64


def _place(builder: Any, address: Any, index: Any, kind: Any, size: int) -> Any:
    where = builder.add(address, builder.mul(index, I64(size)))
    return builder.inttoptr(where, kind.as_pointer())


def _make(number: Any, kind: Any, size: int) -> tuple[Any, Any]:
    """Make the reader and the writer of one type."""

    def read(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        found = builder.load(_place(builder, args[0], args[1], kind, size))
        found.align = size
        return found

    def write(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], _place(builder, args[0], args[1], kind, size)).align = size
        return context.get_dummy_value()

    @intrinsic  # type: ignore[untyped-decorator]
    def get(typingctx: Any, address: Any, index: Any) -> Any:
        return number(types.int64, types.int64), read

    @intrinsic  # type: ignore[untyped-decorator]
    def put(typingctx: Any, address: Any, index: Any, value: Any) -> Any:
        return types.void(types.int64, types.int64, number), write

    return get, put


get_i64, put_i64 = _make(types.int64, I64, 8)
get_i32, put_i32 = _make(types.int32, ir.IntType(32), 4)
get_u16, put_u16 = _make(types.uint16, ir.IntType(16), 2)
get_u8, put_u8 = _make(types.uint8, ir.IntType(8), 1)
get_f32, put_f32 = _make(types.float32, ir.FloatType(), 4)
get_f64, put_f64 = _make(types.float64, ir.DoubleType(), 8)
