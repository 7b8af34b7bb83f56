"""What a batch job costs on several workers of this machine: CPU-seconds, time and memory.

The same exact search of many queries is done by one worker, by several, each with the whole
collection before it, and by several that each search the segments that they hold. Where there are
fewer cores than workers, CPU-seconds tell how well the work was split: efficiency is those of one
worker by those of several. Every job runs twice: the first one opens files and makes codes.

    python -m benchmarks.cluster_job [--workers 4] [--rows 400000] [--queries 40000] [--write]
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import gpuvec as gv

RESULTS = Path(__file__).parent / "results" / "cluster.json"
DIM = 128
SEGMENTS = 8
K = 10
WAIT_S = 1800.0
EFFICIENCY = 0.85  # wanted
SPREAD = {"DASK_GPUVEC__JOB_MEMORY": "1"}  # byte: no collection fits a worker


@contextmanager
def variables(**values: str) -> Iterator[None]:
    """Set variables of the environment, which processes that start meanwhile inherit."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def fill(db: gv.Database, rows: int) -> None:
    """Write made-up rows as segments of one size."""
    schema = gv.Schema({"id": gv.Int64(), "v": gv.Vector(DIM)}, primary_key="id")
    items, rng, size = db.create_collection("items", schema), np.random.default_rng(0), rows
    size //= SEGMENTS
    for number in range(SEGMENTS):
        ids = np.arange(number * size, (number + 1) * size)
        items.insert({"id": ids, "v": rng.standard_normal((size, DIM), dtype=np.float32)})
        items.flush()


def processes() -> list[psutil.Process]:
    """Return the workers' processes."""
    return psutil.Process().children(recursive=True)


def cpu_s() -> float:
    """Return the CPU-seconds that they took so far."""
    return sum(sum(process.cpu_times()[:2]) for process in processes())


def run(folder: Path, workers: int, queries: np.ndarray, name: str) -> list[dict[str, Any]]:
    """Return what the job cost, the first and the second time."""
    found = []
    with gv.config.set(cluster__workers=workers):
        db = gv.connect(folder / "shop", cluster="local")
    with db:
        search = db["items"].select("id").search(queries, k=K, exact=True)
        for number in range(2):
            cpu, begun = cpu_s(), time.perf_counter()
            out = folder / f"{name}-{number}"
            rows = len(search.submit(out).wait(WAIT_S).collect())
            seconds, spent = time.perf_counter() - begun, cpu_s() - cpu
            held = [process.memory_full_info() for process in processes()]
            found.append(
                {
                    "answers": rows,
                    "parts": len(list(out.glob("*.parquet"))),
                    "CPU s": round(spent, 2),
                    "s": round(seconds, 2),
                    "workers' own MB, all": round(sum(each.uss for each in held) / 1e6),
                    "the largest worker's own MB": round(max(each.uss for each in held) / 1e6),
                }
            )
            print(f"{workers} workers, {name}: {found[-1]}", file=sys.stderr, flush=True)
    return found


def measure(rows: int, count: int, workers: int) -> dict[str, Any]:
    """Return all figures."""
    queries = np.random.default_rng(1).standard_normal((count, DIM), dtype=np.float32)
    size = {"GPUVEC_COMPACT__SIZE_BYTES": str(rows // SEGMENTS * DIM * 4)}  # they stay as they are
    with tempfile.TemporaryDirectory() as name, variables(**size):
        folder = Path(name)
        with gv.connect(folder / "shop") as db:
            fill(db, rows)
        one = run(folder, 1, queries, "one")
        each = run(folder, workers, queries, "each")
        with variables(**SPREAD):
            spread = run(folder, workers, queries, "spread")
    return {
        "command": "python -m benchmarks.cluster_job --write",
        "cores": os.cpu_count(),
        "load at the end": round(os.getloadavg()[0], 2),
        "rows": rows,
        "queries": count,
        "dim": DIM,
        "segments": SEGMENTS,
        "one worker": one,
        f"{workers} workers, each over all rows": each,
        f"{workers} workers, each over its segments": spread,
        "efficiency, each over all rows": _efficiency(one, each),
        "efficiency, each over its segments": _efficiency(one, spread),
        "wanted": EFFICIENCY,
    }


def _efficiency(one: Sequence[dict[str, Any]], many: Sequence[dict[str, Any]]) -> list[float]:
    return [round(a["CPU s"] / b["CPU s"], 3) for a, b in zip(one, many, strict=True)]


def main(told: Sequence[str] | None = None) -> None:
    """Measure, print, and with `--write` keep the figures beside those of `benchmarks.cluster`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--queries", type=int, default=40_000)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args(told)
    found = measure(args.rows, args.queries, args.workers)
    print(json.dumps(found, indent=1))
    if args.write:
        known = json.loads(RESULTS.read_text())
        RESULTS.write_text(json.dumps({**known, "job": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
