"""What a soak writes, and how its processes tell what they did: rows, their checksums, journals.

Rows belong to lanes; one thread at a time writes to a lane, so that writes of different lanes can
be put in any order. A row's text and vector follow from its key and from the write that set them:
whoever reads it can tell whether it is whole.
"""

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.testing.model import ModelCollection, Row

LANES = 3
DIM = 8
MARK = -1  # the key of the row that each session writes first; it is in no lane
EXTRA = "extra"
SIDE_ROWS = 40

Event = dict[str, Any]
Sums = list[int]

_MIX = [np.uint64(n) for n in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15)]


def partition_of(lane: int) -> str | None:
    """Return the partition of a lane; the first has none."""
    return f"p{lane}" if lane else None


def schema() -> Any:
    """Return the fields of the collection that all write to."""
    import gpuvec as gv

    numbers = {name: gv.Int64() for name in ("key", "lane", "op", "vop", "x")}
    fields = {**numbers, "t": gv.String(), "v": gv.Vector(DIM, metric="sqeuclidean")}
    return gv.Schema(fields, "key")


def texts(written_by: NDArray[np.int64]) -> list[str]:
    """Return the text of rows, by the write that set it."""
    return [f"w{n}" for n in (written_by % 5).tolist()]


def vectors(keys: NDArray[np.int64], written_by: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the vectors of rows, whole numbers, by key and the write that set them."""
    seeds = _mixed(keys.astype(np.uint64) * _MIX[2] + written_by.astype(np.uint64))
    parts = seeds[:, None] >> (np.arange(DIM, dtype=np.uint64) * np.uint64(8))
    return ((parts & np.uint64(15)).astype(np.float32) - np.float32(8)).astype(np.float32)


def batch(rows: Iterable[Row]) -> dict[str, Any]:
    """Return rows as `insert` takes them, with their text and vector."""
    listed = list(rows)
    columns: dict[str, Any] = {
        name: np.array([row[name] for row in listed], np.int64) for name in listed[0]
    }
    columns["t"] = texts(columns["vop"])
    columns["v"] = vectors(columns["key"], columns["vop"])
    return columns


def rows_of(table: pa.Table) -> list[Row]:
    """Return the rows of a table as a model has them: without text and vector."""
    names = [name for name in table.column_names if name not in ("t", "v")]
    found: list[Row] = table.select(names).to_pylist()
    return found


def lane_sums(table: pa.Table) -> Sums:
    """Return the checksum of each lane of a table; `AssertionError` if a row is not whole."""
    columns = {
        name: table[name].to_numpy() for name in table.column_names if name not in ("t", "v")
    }
    keys, written_by = columns["key"], columns["vop"]
    assert len(np.unique(keys)) == len(keys), "a key is there twice"
    if len(keys):
        assert table["t"].to_pylist() == texts(written_by), "a text is another row's"
        got = np.stack(table["v"].to_numpy(zero_copy_only=False))
        assert (got == vectors(keys, written_by)).all(), "a vector is another row's"
    inside = keys != MARK
    return [_sum(columns, inside & (columns["lane"] == lane)) for lane in range(LANES)]


def model_sum(model: ModelCollection) -> int:
    """Return the checksum of a lane's model."""
    rows = list(model.rows.values())
    names = ["key", "op", "vop", "x", *([EXTRA] if EXTRA in model.defaults else [])]
    columns = {name: np.array([row[name] for row in rows], np.int64) for name in names}
    return _sum(columns, np.ones(len(rows), bool))


def _sum(columns: Mapping[str, NDArray[Any]], where: NDArray[np.bool_]) -> int:
    total = columns["key"][where].astype(np.uint64)
    for name in ("op", "vop", "x", *([EXTRA] if EXTRA in columns else [])):
        total = _mixed(total) + columns[name][where].astype(np.uint64)
    return int(_mixed(total).sum(dtype=np.uint64)) if len(total) else 0


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a hash of each number; source: Steele, Lea and Flood, SplitMix64."""
    found = numbers + _MIX[2]
    found = (found ^ (found >> np.uint64(30))) * _MIX[0]
    found = (found ^ (found >> np.uint64(27))) * _MIX[1]
    return found ^ (found >> np.uint64(31))


# What writes mean


def rows_in(event: Event) -> list[Row]:
    """Return the rows that an insert or upsert writes."""
    number, extra = event["op"], event.get(EXTRA)
    more = {} if extra is None else {EXTRA: extra}
    return [
        {"key": key, "lane": event["lane"], "op": number, "vop": number, "x": x, **more}
        for key, x in event["rows"]
    ]


def apply(model: ModelCollection, event: Event) -> tuple[int, int, int]:
    """Do a lane's write to its model; return rows inserted, updated and deleted."""
    kind = event["kind"]
    if kind in ("insert", "skip"):
        mode = "error" if kind == "insert" else "skip"
        return (*model.insert(rows_in(event), on_conflict=mode), 0)
    if kind == "upsert":
        return (*model.upsert(rows_in(event)), 0)
    if kind == "update":
        values = {"x": lambda row: row["x"] + event["plus"], "op": lambda _: event["op"]}
        return 0, model.update(values, lambda row: row["x"] < event["below"]), 0
    if kind == "delete":
        return 0, 0, model.delete_keys(event["keys"])
    if kind == "delete_where":
        return 0, 0, model.delete(lambda row: event["low"] <= row["x"] < event["high"])
    assert kind == "drop_partition", kind
    model.truncate()
    return 0, 0, 0


class Journal:
    """A file outside the database to which one session adds what it does, a line per event."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(self, kind: str, /, **more: Any) -> None:
        """Add an event. It outlives a kill of this process from here on."""
        line = json.dumps(
            {"e": kind, "ms": time.time_ns() // 1_000_000, **more}, separators=(",", ":")
        )
        os.write(self._file, f"{line}\n".encode())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class JournalReader:
    """Reads what was added to a journal since the last look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._at = 0

    def new(self) -> Iterator[Event]:
        """Yield whole lines that were not read before."""
        with self.path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.splitlines():
            yield json.loads(line)
