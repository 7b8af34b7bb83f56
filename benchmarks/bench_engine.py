"""The engine's figures: insert, group commit, open, one query, memory; each beside a reference.

Run: env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/bench_engine.py [--rows 1000000]
Prints a table and writes benchmarks/results/engine.json. Medians over interleaved rounds.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from one_query import batches, one_query, several_threads

import gpuvec as gv

RESULTS = Path(__file__).parent / "results" / "engine.json"
ROUNDS = 5


def vectors_table(count: int, dim: int, *, start: int = 0, seed: int = 0) -> pa.Table:
    """Rows of a key, a number and a float32 vector."""
    values = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    return pa.table(
        {
            "id": np.arange(start, start + count),
            "price": np.arange(count, dtype=np.float32),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), dim),
        }
    )


def insert_against_sequential_write(folder: Path) -> dict:
    """Bandwidth of durable 10k-row inserts over that of one fsynced write of the same bytes.

    Both go to fresh pages of the system's cache: each raw write has a file of its own that stays.
    """
    batches = [vectors_table(10_000, 384, start=i * 10_000, seed=i) for i in range(4 * ROUNDS)]
    raw = [
        np.ascontiguousarray(b["embedding"].combine_chunks().flatten().to_numpy()) for b in batches
    ]
    ratios = []
    with gv.connect(folder / "insert") as db:
        items = db.create_collection("items", data=batches[0].slice(0, 0), primary_key="id")
        items.insert(batches[0])
        for number, (batch, blob) in enumerate(zip(batches[1:], raw[1:], strict=True)):
            start = time.perf_counter()
            with (folder / f"raw-{number}").open("wb") as file:
                file.write(blob.data)
                os.fdatasync(file.fileno())
            write_s = time.perf_counter() - start
            start = time.perf_counter()
            items.insert(batch)
            ratios.append((write_s / (time.perf_counter() - start), blob.nbytes / write_s / 1e6))
    share = statistics.median(ratio for ratio, _ in ratios)
    return {
        "insert 10k x 384, share of fsynced write bandwidth": share,
        "fsynced sequential write MB/s": statistics.median(rate for _, rate in ratios),
    }


def group_commit(folder: Path, sync_s: float = 0.0) -> dict:
    """Requests per second of 32 writers of 10 rows over those of one.

    Args:
        folder: scratch.
        sync_s: how much longer than here each sync of the disk takes.
    """
    real = os.fdatasync

    def slower(descriptor: int) -> None:
        real(descriptor)
        time.sleep(sync_s)

    os.fdatasync = slower if sync_s else real
    try:
        with gv.connect(folder / f"group-{sync_s}") as db:
            items = db.create_collection("items", data=vectors_table(0, 64), primary_key="id")
            one, many = [], []
            for i in range(3):
                one.append(_rate(items, 1, 40, 10_000_000 * (2 * i)))
                many.append(_rate(items, 32, 40, 10_000_000 * (2 * i + 1)))
    finally:
        os.fdatasync = real
    single, group = statistics.median(one), statistics.median(many)
    disk = f"sync + {sync_s * 1e3:.0f} ms: " if sync_s else ""
    return {
        f"{disk}1 writer, commits/s": single,
        f"{disk}32 writers, commits/s": group,
        f"{disk}group commit ratio": statistics.median(
            b / a for a, b in zip(one, many, strict=True)
        ),
    }


def _rate(items: gv.Collection, writers: int, requests: int, first: int) -> float:
    """Return commits per second of so many threads; their rows are made before."""
    data = [
        [vectors_table(10, 64, start=first + (at * requests + i) * 10) for i in range(requests)]
        for at in range(writers)
    ]

    def work(tables: list[pa.Table]) -> None:
        for table in tables:
            items.insert(table)

    threads = [threading.Thread(target=work, args=(tables,)) for tables in data]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return writers * requests / (time.perf_counter() - start)


OPEN = """
import sys, time, numpy as np, gpuvec as gv
def rss():
    words = [line.split() for line in open("/proc/self/status")]
    return [int(word[1]) * 1024 for word in words if word[0] in ("VmRSS:", "RssAnon:")]
q = np.random.default_rng(1).standard_normal(128).astype(np.float32)
start = time.perf_counter()
db = gv.connect(sys.argv[1]); items = db["items"]; opened = time.perf_counter() - start
found = items.search(q, k=10).collect(); first = time.perf_counter() - start
cpu = time.process_time()
one = rss()
start = time.perf_counter(); items.search(q, k=10).collect(); again = time.perf_counter() - start
batch = np.random.default_rng(2).standard_normal((1000, 128)).astype(np.float32)
items.search(batch, k=10).collect()
print(opened, first, again, cpu, *one, *rss())
"""
BASELINE = """
import sys
import numpy as np
import gpuvec as gv
rows = np.random.default_rng(0).standard_normal((5000, 128)).astype(np.float32)
frame = gv.frame({"embedding": rows})
frame.search(rows[:1000], k=10).collect()
frame.search(rows[:1], k=10).collect()
words = [line.split() for line in open("/proc/self/status")]
print(*[int(word[1]) * 1024 for word in words if word[0] in ("VmRSS:", "RssAnon:")])
"""


def open_and_first_answer(folder: Path, rows: int) -> dict:
    """Seconds from `connect` to the first answer, in a fresh process; memory after full scans."""
    path = folder / "open"
    with gv.connect(path) as db:
        items = db.create_collection("items", data=vectors_table(0, 128), primary_key="id")
        for at in range(0, rows, 100_000):
            items.insert(vectors_table(min(100_000, rows - at), 128, start=at, seed=at))
    _fresh(folder, OPEN, str(path))  # compiles what an installation has compiled
    runs = [_fresh(folder, OPEN, str(path)) for _ in range(ROUNDS)]
    opened, first, again, cpu, one, one_own, batch, batch_own = (
        statistics.median(column) for column in zip(*runs, strict=True)
    )
    empty, _ = _fresh(folder, BASELINE)
    raw = rows * 128 * 4
    return {
        f"open {rows:,} x 128, s": opened,
        "open + first answer, s": first,
        "open + first answer, best run, s": min(run[1] for run in runs),
        "CPU s of all threads until then, imports too": cpu,
        "second answer, s": again,
        "RSS of the process after a tiny search, MiB": empty / 2**20,
        "RSS after one query / raw vectors": one / raw,
        "RSS above that process, after one query / raw": (one - empty) / raw,
        "anonymous RSS after one query / raw": one_own / raw,
        "RSS after a batch of 1,000 / raw vectors": batch / raw,
        "RSS above that process, after a batch / raw": (batch - empty) / raw,
        "anonymous RSS after a batch / raw": batch_own / raw,
    }


def _fresh(folder: Path, code: str, *arguments: str, **variables: str) -> list[float]:
    """Run code in a process that has its byte code cached, as an installation has."""
    cache = {"PYTHONPYCACHEPREFIX": str((folder / "pycache").resolve())}
    env = {**os.environ, **cache, **variables}
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    return [float(word) for word in done.stdout.split()]


def import_seconds(folder: Path) -> dict:
    """Seconds of `import gpuvec` in a fresh process."""
    probe = "import time; s = time.perf_counter(); import gpuvec; print(time.perf_counter() - s)"
    _fresh(folder, probe)
    return {"import gpuvec, s": statistics.median(_fresh(folder, probe)[0] for _ in range(ROUNDS))}


COMPILE = """
import time, numpy as np
from gpuvec.index.flat import FlatIndex
rows = np.random.default_rng(0).standard_normal((5000, 128)).astype(np.float32)
index = FlatIndex(rows, "cosine")
start = time.process_time(); index.search(rows[:3], 10); few = time.process_time() - start
start = time.process_time(); index.search(rows[:1000], 10); print(few, time.process_time() - start)
"""


def compile_seconds(folder: Path) -> dict:
    """Processor seconds of the first searches after an installation, when nothing is compiled."""
    few, batch = _fresh(folder, COMPILE, NUMBA_CACHE_DIR=str((folder / "numba").resolve()))
    return {"compile for few queries, CPU s": few, "compile for batches, CPU s": batch}


def main() -> None:
    """Run every part in a scratch folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    load = os.getloadavg()[0]
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        folder = Path(scratch)
        figures |= import_seconds(folder)
        figures |= compile_seconds(folder)
        figures |= insert_against_sequential_write(folder)
        figures |= group_commit(folder)
        figures |= group_commit(folder, 0.005)
        figures |= one_query(folder)
        figures |= several_threads(folder)
        figures |= batches(folder)
        figures |= open_and_first_answer(folder, args.rows)
    for name, value in figures.items():
        print(f"{name:55} {value:12,.3f}")
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "processor": platform.processor() or platform.machine(),
        "load at the start": load,
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
