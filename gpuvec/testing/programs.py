"""What programs for a card mean: each operation over Arrow arrays, slow and obvious.

`gpuvec.device.cudf_program` must give the same, on a card; `gpuvec.expr.evaluate` does, by other
ways. Nothing of `gpuvec.expr` is used here.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpuvec.device import transfer
from gpuvec.device.frames import ArrowFrame
from gpuvec.device.library import cupy_module
from gpuvec.device.program import Op, walk
from gpuvec.types import Array


def run(program: Op, table: pa.Table) -> pa.Array:
    """Return the value of each row."""
    for op in walk(program):
        check(op)
    return _value(program, table)


class MeaningColumns:
    """A `ColumnEngine` that runs programs by their meaning: columns stay where they are.

    For rehearsals of what is around it. What cuDF makes of programs is shown on a card alone.
    """

    def refuses(self, program: Op) -> str:
        """See `ColumnEngine.refuses`."""
        return ""

    def put(self, values: pa.Array) -> pa.Array:
        """See `ColumnEngine.put`."""
        transfer.note(transfer.UP, "scalars", values.nbytes)
        return values

    def words(self, program: Op, columns: Mapping[str, Any], rows: int) -> Array:
        """See `ColumnEngine.words`."""
        table = pa.table(dict(columns))
        assert table.num_rows == rows
        bits = np.packbits(np.asarray(run(program, table).fill_null(False)), bitorder="little")
        words = np.zeros(-(-rows // 32) * 4, np.uint8)
        words[: len(bits)] = bits
        return cupy_module().asarray(words.view(np.uint32))

    def frame(self, columns: Mapping[str, Any], kinds: Mapping[str, pa.DataType]) -> ArrowFrame:
        """See `ColumnEngine.frame`."""
        assert all(column.type == kinds[name] for name, column in columns.items())
        return ArrowFrame(pa.table(dict(columns)))


def check(op: Op) -> None:
    """Assert what `Op` says of the types of arguments."""
    kinds = [argument.kind for argument in op.args]
    if op.name in ("eq", "ne", "lt", "le", "gt", "ge", "add", "sub", "mul", "mod"):
        assert kinds[0] == kinds[1], str(op)
    if op.name in ("add", "sub", "mul", "mod", "abs"):
        assert kinds[0] == op.kind, str(op)
        assert op.kind in (pa.int64(), pa.float64()), str(op)
    if op.name in ("div", "floor", "ceil", "rint"):
        assert {*kinds, op.kind} == {pa.float64()}, str(op)
    if op.name in ("and", "or", "not"):
        assert {*kinds, op.kind} == {pa.bool_()}, str(op)
    if op.name == "pick":
        assert kinds == [pa.bool_(), op.kind, op.kind], str(op)
    if op.name == "either":
        assert kinds == [op.kind, op.kind], str(op)
    if op.name == "among":
        assert op.value.type == kinds[0], str(op)
        assert op.value.null_count == 0, str(op)


def _value(op: Op, table: pa.Table) -> pa.Array:
    args = [_value(argument, table) for argument in op.args]
    found = _OPS[op.name](op, table, *args)
    assert found.type == op.kind, f"{op}: {found.type} instead of {op.kind}"
    assert len(found) == table.num_rows, str(op)
    return found


def _column(op: Op, table: pa.Table) -> pa.Array:
    return pa.concat_arrays(table[op.value].chunks or [pa.array([], op.kind)]).cast(op.kind)


def _constant(op: Op, table: pa.Table) -> pa.Array:
    return pa.repeat(pa.scalar(op.value, op.kind), table.num_rows)


def _rowwise(function: Callable[..., Any]) -> Callable[..., pa.Array]:
    """Return an operation that Python computes row by row; null where an argument is."""

    def run(op: Op, table: pa.Table, *args: pa.Array) -> pa.Array:
        extra = () if op.value is None else (op.value,)
        rows = zip(*(column.to_pylist() for column in args), strict=True)
        values = [None if None in row else function(*row, *extra) for row in rows]
        return pa.array(values, op.kind)

    return run


def _wrap(value: Any) -> Any:
    return (value + 2**63) % 2**64 - 2**63 if isinstance(value, int) else value


def _floats(function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        with np.errstate(all="ignore"):
            return float(function(*map(np.float64, args)))

    return run


def _number(whole: Callable[..., Any], floats: Callable[..., Any]) -> Callable[..., pa.Array]:
    def run(*args: Any) -> Any:
        return _wrap(whole(*args)) if isinstance(args[0], int) else _floats(floats)(*args)

    return _rowwise(run)


def _remainder(a: int, b: int) -> int:
    return (abs(a) % abs(b)) * (-1 if a < 0 else 1)


def _like(text: str, pattern: str) -> bool:
    marks = re.findall(r"(?s)\\(.)|(.)", pattern)
    own = [
        re.escape(escaped) if escaped else {"%": ".*", "_": "."}.get(plain, re.escape(plain))
        for escaped, plain in marks
    ]
    return re.fullmatch("".join(own), text, re.DOTALL) is not None


def _pick(op: Op, table: pa.Table, condition: Any, yes: Any, no: Any) -> pa.Array:
    return pc.if_else(pc.fill_null(condition, False), yes, no)


_OPS: dict[str, Callable[..., pa.Array]] = {
    "column": _column,
    "constant": _constant,
    "eq": lambda op, table, a, b: pc.equal(a, b),
    "ne": lambda op, table, a, b: pc.not_equal(a, b),
    "lt": lambda op, table, a, b: pc.less(a, b),
    "le": lambda op, table, a, b: pc.less_equal(a, b),
    "gt": lambda op, table, a, b: pc.greater(a, b),
    "ge": lambda op, table, a, b: pc.greater_equal(a, b),
    "and": lambda op, table, a, b: pc.and_kleene(a, b),
    "or": lambda op, table, a, b: pc.or_kleene(a, b),
    "not": lambda op, table, a: pc.invert(a),
    "is_null": lambda op, table, a: a.is_null(),
    "xor": _rowwise(lambda a, b: a ^ b),
    "bit_and": _rowwise(lambda a, b: a & b),
    "invert": _rowwise(lambda a: ~a),
    "add": _number(lambda a, b: a + b, lambda a, b: a + b),
    "sub": _number(lambda a, b: a - b, lambda a, b: a - b),
    "mul": _number(lambda a, b: a * b, lambda a, b: a * b),
    "div": _rowwise(_floats(lambda a, b: a / b)),
    "mod": _number(_remainder, np.fmod),
    "floor": _rowwise(_floats(np.floor)),
    "ceil": _rowwise(_floats(np.ceil)),
    "rint": _rowwise(_floats(np.rint)),
    "abs": _number(abs, abs),
    "to_int64": lambda op, table, a: a.cast(pa.int64()),
    "to_float64": lambda op, table, a: a.cast(pa.float64(), safe=False),
    "pick": _pick,
    "either": lambda op, table, a, b: pc.coalesce(a, b),
    "starts_with": _rowwise(str.startswith),
    "ends_with": _rowwise(str.endswith),
    "contains": _rowwise(lambda text, part: part in text),
    "like": _rowwise(_like),
    "length": _rowwise(len),
    "among": _rowwise(lambda value, values: value in values.to_pylist()),
    "element": _rowwise(lambda items, at: items[at] if at < len(items) else None),
    "count": _rowwise(len),
    "has": _rowwise(lambda items, value: value in items),
}
