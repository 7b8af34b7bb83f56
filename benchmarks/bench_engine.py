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

import gpuvec as gv
from gpuvec.api import datasets

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
    """Bandwidth of durable 10k-row inserts over that of one fsynced write of the same bytes."""
    batches = [vectors_table(10_000, 384, start=i * 10_000, seed=i) for i in range(2 * ROUNDS)]
    raw = [
        np.ascontiguousarray(b["embedding"].combine_chunks().flatten().to_numpy()) for b in batches
    ]
    ratios = []
    with gv.connect(folder / "insert") as db:
        items = db.create_collection("items", data=batches[0].slice(0, 0), primary_key="id")
        items.insert(batches[0])
        for batch, blob in zip(batches[1:], raw[1:], strict=True):
            start = time.perf_counter()
            with (folder / "raw").open("wb") as file:
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


def group_commit(folder: Path) -> dict:
    """Requests per second of 32 writers of 10 rows over those of one."""
    with gv.connect(folder / "group") as db:
        data = vectors_table(0, 64)
        items = db.create_collection("items", data=data, primary_key="id")

        def rate(writers: int, requests: int, first: int) -> float:
            def work(at: int) -> None:
                for i in range(requests):
                    items.insert(vectors_table(10, 64, start=first + (at * requests + i) * 10))

            threads = [threading.Thread(target=work, args=(at,)) for at in range(writers)]
            start = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return writers * requests / (time.perf_counter() - start)

        one, many = [], []
        for i in range(3):
            one.append(rate(1, 40, 10_000_000 * (2 * i)))
            many.append(rate(32, 20, 10_000_000 * (2 * i + 1)))
    single, group = statistics.median(one), statistics.median(many)
    return {
        "1 writer, commits/s": single,
        "32 writers, commits/s": group,
        "group commit ratio": group / single,
    }


OPEN = """
import sys, time, numpy as np, gpuvec as gv
q = np.random.default_rng(1).standard_normal(128).astype(np.float32)
start = time.perf_counter()
db = gv.connect(sys.argv[1]); items = db["items"]; opened = time.perf_counter() - start
found = items.search(q, k=10).collect(); first = time.perf_counter() - start
start = time.perf_counter(); items.search(q, k=10).collect(); again = time.perf_counter() - start
def rss():
    return int(open('/proc/self/statm').read().split()[1]) * 4096
before = rss()
batch = np.random.default_rng(2).standard_normal((1000, 128)).astype(np.float32)
items.search(batch, k=10).collect()
print(opened, first, again, before, rss())
"""


def open_and_first_answer(folder: Path, rows: int) -> dict:
    """Seconds from `connect` to the first answer, in a fresh process; memory after a full scan."""
    path = folder / "open"
    with gv.connect(path) as db:
        items = db.create_collection("items", data=vectors_table(0, 128), primary_key="id")
        for at in range(0, rows, 100_000):
            items.insert(vectors_table(min(100_000, rows - at), 128, start=at, seed=at))
    runs = []
    for _ in range(ROUNDS):
        done = subprocess.run(
            [sys.executable, "-c", OPEN, str(path)], capture_output=True, text=True, check=True
        )
        runs.append([float(word) for word in done.stdout.split()])
    opened, first, again, _, after = (
        statistics.median(column) for column in zip(*runs, strict=True)
    )
    raw = rows * 128 * 4
    return {
        f"open {rows:,} x 128, s": opened,
        "open + first answer, s": first,
        "second answer, s": again,
        "RSS after full scan / raw vectors": after / raw,
    }


def import_seconds() -> dict:
    """Seconds of `import gpuvec` in a fresh process."""
    probe = "import time; s = time.perf_counter(); import gpuvec; print(time.perf_counter() - s)"
    runs = [
        float(
            subprocess.run(
                [sys.executable, "-c", probe], capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(ROUNDS)
    ]
    return {"import gpuvec, s": statistics.median(runs)}


def one_query(folder: Path) -> dict:
    """Milliseconds of one whole search call, embedded, and of raw FAISS Flat on the same rows."""
    import faiss

    packages, queries = datasets.debian_packages(), datasets.debian_queries()
    matrix = np.stack(packages["vector"].to_numpy()).astype(np.float32)
    asked = np.stack(queries["vector"].to_numpy()).astype(np.float32)[:100]
    faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
    index = faiss.IndexFlatIP(matrix.shape[1])
    index.add(matrix)
    with gv.connect(folder / "one") as db:
        items = db.create_collection("packages", data=packages, primary_key="id")
        frame = items.select("id")
        ours, theirs = [], []
        for q in asked:
            start = time.perf_counter()
            index.search(q[None], 10)
            theirs.append(time.perf_counter() - start)
            start = time.perf_counter()
            frame.search(q, k=10).collect()
            ours.append(time.perf_counter() - start)
    mine, peer = statistics.median(ours) * 1e3, statistics.median(theirs) * 1e3
    return {
        f"one query of {len(matrix):,} x 384, ms": mine,
        "raw FAISS Flat, ms": peer,
        "target (1.3 x FAISS + 0.3 ms), ms": 1.3 * peer + 0.3,
    }


def main() -> None:
    """Run every part in a scratch folder."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    figures: dict[str, float] = import_seconds()
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        folder = Path(scratch)
        figures |= insert_against_sequential_write(folder)
        figures |= group_commit(folder)
        figures |= one_query(folder)
        figures |= open_and_first_answer(folder, args.rows)
    for name, value in figures.items():
        print(f"{name:55} {value:12,.3f}")
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "processor": platform.processor() or platform.machine(),
    }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
