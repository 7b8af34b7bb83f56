"""Rows of the GPU benchmark that are whole calls of a database: segments, loading, indexes."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import gpuvec as gv
from benchmarks.gpu_ceilings import seconds
from benchmarks.gpu_peers import cuvs_cagra
from benchmarks.gpu_report import Ceilings, Row
from benchmarks.gpu_rows import K, made_up, recall
from gpuvec.device.arrays import to_host


def _collection(db: gv.Database, name: str, dim: int) -> gv.Collection:
    """Return an empty collection of rows as `made_up` makes them."""
    vector = gv.Vector(dim, dtype="float16", metric="ip")
    return db.create_collection(name, gv.Schema({"id": gv.Int64(), "v": vector}, primary_key="id"))


def _ids(frame: gv.Frame, queries: int) -> np.ndarray:
    """Return the answers of a search, (queries, K) row numbers."""
    return np.asarray(frame.collect().to_arrow()["id"]).reshape(queries, K)


def many_segments(_: Ceilings, count: int, each: int, dim: int, queries: int) -> Iterator[Row]:
    """Yield a search of many segments beside one of the same rows in one segment."""
    data, asked = made_up(count * each, queries, dim)
    values, asked = to_host(data), to_host(asked)
    ids = np.arange(len(values))
    taken: dict[str, float] = {}
    reached: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, gv.connect(folder, device="gpu") as db:
        for name, size in (("one", len(values)), ("many", each)):
            items = _collection(db, name, dim)
            for start in range(0, len(values), size):
                at = slice(start, start + size)
                items.insert({"id": ids[at], "v": values[at]})
                items.flush()
            frame = items.select("id").search(asked, k=K, exact=True)
            taken[name] = seconds(lambda frame=frame: frame.collect())
            reached[name] = recall(data, asked, _ids(frame, queries))
    yield {
        "row": "many segments", "segments": count, "rows each": each, "dim": dim,
        "queries": queries, "one s": taken["one"], "many s": taken["many"],
        "of one": taken["many"] / taken["one"],
        "recall": min(reached.values()), "goal": "<= 1.15 x one segment",
    }  # fmt: skip


def loading(ceilings: Ceilings, rows: int, dim: int) -> Iterator[Row]:
    """Yield how fast a segment comes to the card: against the disk, and against a pinned copy."""
    data, _ = made_up(rows, 1, dim)
    values = to_host(data)
    with tempfile.TemporaryDirectory() as folder, gv.connect(folder, device="gpu") as db:
        items = _collection(db, "items", dim)
        items.insert({"id": np.arange(rows), "v": values})
        items.flush()
        disk = max(_read_rate(path) for path in Path(folder).rglob("*") if path.is_file())

        def load() -> None:
            items.release()
            items.load(device="gpu")

        taken = seconds(load)
    limit = min(disk, ceilings["pinned to card GB/s"])
    yield {
        "row": "segment to the card", "rows": rows, "dim": dim, "s": taken,
        "GB/s": values.nbytes / taken / 1e9, "disk GB/s": disk,
        "of the slower": values.nbytes / taken / 1e9 / limit, "goal": ">= 0.8 of the slower",
    }  # fmt: skip


def _read_rate(path: Path) -> float:
    """Return GB/s at which a file is read, as cached as it is after having been written."""
    size = path.stat().st_size
    if size < 1 << 20:
        return 0.0
    start = time.perf_counter()
    with path.open("rb", buffering=0) as file:
        block = bytearray(1 << 24)
        while file.readinto(block):
            pass
    return size / (time.perf_counter() - start) / 1e9


def graph(_: Ceilings, rows: int, dim: int, queries: int) -> Iterator[Row]:
    """Yield CAGRA through gpuvec beside cuVS itself, with the same knobs."""
    data, asked = made_up(rows, queries, dim)
    try:
        raw = cuvs_cagra(data, asked, K, "inner_product", itopk=64)
    except ImportError as error:
        yield {"row": "CAGRA through gpuvec", "skipped": str(error)}
        return
    theirs = seconds(raw)
    with tempfile.TemporaryDirectory() as folder, gv.connect(folder, device="gpu") as db:
        items = _collection(db, "items", dim)
        items.insert({"id": np.arange(rows), "v": to_host(data)})
        items.create_index("v", gv.index.CAGRA())
        frame = items.select("id").search(asked, k=K, params={"itopk_size": 64})
        ours = seconds(lambda: frame.collect())
        found = _ids(frame, queries)
    yield {
        "row": "CAGRA through gpuvec", "rows": rows, "dim": dim, "queries": queries,
        "s": ours, "cuVS s": theirs, "of cuVS": theirs / ours,
        "recall": recall(data, asked, found), "recall of cuVS": recall(data, asked, raw()[1]),
        "goal": ">= 0.97 of cuVS at equal recall",
    }  # fmt: skip
