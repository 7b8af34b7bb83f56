"""One part of the storage benchmark, for one system, in a process of its own; prints JSON.

    python storage_worker.py PART SYSTEM PLACE DATA OPTIONS

PART is `ingest`, `tail` (writes, then dies without closing), `look` (opens and searches) or
`version`; DATA a folder with rows.npy, queries.npy and kth.npy, the true tenth scores; OPTIONS are
JSON: what to vary, and the `storage_options` of a bucket.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from storage_systems import SYSTEMS, version_of

K = 10


def written_bytes() -> int:
    """Return the bytes that this process made dirty in files or sent, as the kernel counts them."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


def batches(rows: np.ndarray, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield np.arange(start, start + len(part)), part


def ingest(system: Any, rows: np.ndarray, options: dict[str, Any]) -> dict[str, Any]:
    """Insert all rows in batches, each acknowledged; save them in files; build an index."""
    system.create()
    before, start, cpu = written_bytes(), time.perf_counter(), time.process_time()
    for ids, part in batches(rows, options["batch"]):
        system.insert(ids, part)
    acknowledged_s = time.perf_counter() - start
    system.flush()
    flushed_s, written = time.perf_counter() - start, written_bytes() - before
    cpu_s = time.process_time() - cpu
    built_s = None
    if options["index"]:
        start = time.perf_counter()
        system.index()
        built_s = time.perf_counter() - start
    system.close()
    return {
        "acknowledged_s": acknowledged_s,
        "flushed_s": flushed_s,
        "cpu_s": cpu_s,
        "written": written,
        "build_s": built_s,
        "written_with_index": written_bytes() - before,
    }


def tail(system: Any, rows: np.ndarray, options: dict[str, Any]) -> dict[str, Any]:
    """Insert small batches, and die with all of them acknowledged and none saved on purpose."""
    system.create()
    start = time.perf_counter()
    for ids, part in batches(rows[: options["tail_rows"]], options["tail_batch"]):
        system.insert(ids, part)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "rows": options["tail_rows"]}), flush=True)
    os._exit(9)


def look(make: Any, data: Path, queries: np.ndarray, options: dict[str, Any]) -> dict:
    """Open, search once, then many times. A row that is as near as the tenth counts as found."""
    exact = options["exact"]
    start = time.perf_counter()
    system = make()
    system.open()
    count = system.count()
    counted_s = time.perf_counter() - start
    system.search(queries[:1], K, exact=exact)
    first_s = time.perf_counter() - start
    found = system.search(queries, K, exact=exact)
    cold_s = time.perf_counter() - start
    warm_s = []
    for _ in range(options["repeats"]):
        start = time.perf_counter()
        system.search(queries, K, exact=exact)
        warm_s.append(time.perf_counter() - start)
    single_s = []
    for query in queries[: options["singles"]]:
        start = time.perf_counter()
        system.search(query[None], K, exact=exact)
        single_s.append(time.perf_counter() - start)
    system.close()
    rows = np.load(data / "rows.npy", mmap_mode="r")
    scores = np.einsum("qkd,qd->qk", rows[found].astype(np.float64), queries.astype(np.float64))
    hits = scores >= np.load(data / "kth.npy")[:, None] - 1e-6
    return {
        "rows": count,
        "counted_s": counted_s,
        "first_s": first_s,
        "cold_s": cold_s,
        "warm_s": median(warm_s),
        "single_ms": 1000 * median(single_s),
        "recall": float(hits.mean()),
    }


def median(seconds: list[float]) -> float:
    return float(np.median(seconds)) if seconds else float("nan")


def main(part: str, name: str, place: str, data: str, text: str) -> None:
    if part == "version":
        print(json.dumps(version_of(name)))
        return
    options = json.loads(text)
    queries = np.load(Path(data) / "queries.npy")
    SYSTEMS[name].load()

    def make() -> Any:
        return SYSTEMS[name](place, options["storage_options"], queries.shape[1])

    if part == "look":
        found = look(make, Path(data), queries, options)
    else:
        rows = np.load(Path(data) / "rows.npy")[: options["rows"]]
        found = (ingest if part == "ingest" else tail)(make(), rows, options)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
