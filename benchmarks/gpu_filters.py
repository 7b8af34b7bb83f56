"""Rows of filters: conditions over columns on the card to bits, beside the copy bandwidth and cuDF.

Their roof is bytes: each column that a condition names is read once, and a bit a row is written.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.gpu_ceilings import seconds
from benchmarks.gpu_report import Ceilings, Row, Sections
from gpuvec.device.columns import CudfColumns
from gpuvec.expr.bind import bind_filter
from gpuvec.expr.on_device import split
from gpuvec.expr.parse import parse_filter
from gpuvec.kernels.predicate import PlainColumns
from gpuvec.schema import FieldType, Float64, Int32, String

CONDITIONS = {
    "one number": "price < 0.1",
    "two numbers": "price < 0.1 and year >= 2020",
    "numbers and a text": 'price < 0.5 and year >= 2020 and brand in ["brand 3", "brand 5"]',
    "arithmetic": "price * 2 + year > 2020.5 or year % 7 == 3",
}
FIELDS: dict[str, FieldType] = {"price": Float64(), "year": Int32(), "brand": String()}
WIDTHS = {"price": 8, "year": 4, "brand": 4}  # bytes of a row; of a text its number
LARGE: dict[str, Any] = {"filters": {"rows": 50_000_000}}
SMALL: dict[str, Any] = {"filters": {"rows": 4_000}}


def filters(card: Ceilings, rows: int) -> Iterator[Row]:
    """Yield conditions by our own kernel, and where it is installed by cuDF."""
    rng = np.random.default_rng(0)
    texts = pa.array([f"brand {i}" for i in range(64)])
    table = {
        "price": pa.array(rng.random(rows)),
        "year": pa.array(rng.integers(1990, 2027, rows).astype(np.int32)),
        "brand": texts.take(pa.array(rng.integers(0, 64, rows))),
    }
    own, cudf = PlainColumns(), CudfColumns()
    columns = {name: own.put(values) for name, values in table.items()}
    theirs = {name: cudf.put(values) for name, values in table.items()} if _has_cudf() else None
    for name, text in CONDITIONS.items():
        bound = bind_filter(parse_filter(text), FIELDS)
        program = split(bound, own.refuses).program
        assert program is not None
        taken = seconds(lambda p=program: own.words(p, columns, rows))
        rate = (rows * sum(WIDTHS[used] for used in bound.columns) + rows // 8) / taken / 1e9
        row: Row = {
            "row": "filter to bits", "condition": name, "rows": rows, "s": taken, "GB/s": rate,
            "share of copy": rate / card["copy GB/s"], "goal": ">= 0.5 of the copy bandwidth",
        }  # fmt: skip
        if theirs is not None:
            beside = seconds(lambda p=program: cudf.words(p, theirs, rows))
            row["cuDF, ours faster by"] = beside / taken
        yield row


def _has_cudf() -> bool:
    return find_spec("cudf") is not None


SECTIONS: Sections = {"filters": filters}
