"""What the functions of `gpuvec.expr.functions` do, on Arrow arrays."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gpuvec.expr import patterns, substring


def call(name: str, operand: pa.Array, rest: tuple[Any, ...]) -> pa.Array:
    """Run a function; `rest` are plain values. Null stays null, but for `fill_null`."""
    return _CALLS[name](operand, *rest)


def _absolute(values: pa.Array) -> pa.Array:
    if not pa.types.is_integer(values.type):
        return pc.abs(values.cast(pa.float64()))
    found = pc.abs(values.cast(pa.int64()))
    return pc.if_else(pc.less(found, 0), pa.scalar(None, pa.int64()), found)  # -2**63 has none


def _rounding(function: Callable[[pa.Array], pa.Array]) -> Callable[[pa.Array], pa.Array]:
    def run(values: pa.Array) -> pa.Array:
        if pa.types.is_integer(values.type):
            return values.cast(pa.int64())
        return function(values.cast(pa.float64()))

    return run


def _length(values: pa.Array) -> pa.Array:
    if pa.types.is_string(values.type):
        return pc.utf8_length(values).cast(pa.int64())
    return pc.list_value_length(values).cast(pa.int64())


def _fill_null(values: pa.Array, value: Any) -> pa.Array:
    if isinstance(value, float):
        values = values.cast(pa.float64(), safe=False)
    elif pa.types.is_integer(values.type):
        values = values.cast(pa.int64())
    return pc.fill_null(values, pa.scalar(value, values.type))


_CALLS: dict[str, Callable[..., pa.Array]] = {
    "abs": _absolute,
    "floor": _rounding(pc.floor),
    "ceil": _rounding(pc.ceil),
    "round": _rounding(lambda values: pc.round(values, round_mode="half_to_even")),
    "lower": pc.utf8_lower,
    "upper": pc.utf8_upper,
    "length": _length,
    "array_length": _length,
    "starts_with": lambda values, text: pc.starts_with(values, pattern=text),
    "ends_with": lambda values, text: pc.ends_with(values, pattern=text),
    "contains": substring.contains,
    "text_match": patterns.text_match,
    "fill_null": _fill_null,
}
