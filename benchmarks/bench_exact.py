"""Exact batch search: gpuvec's scan against FAISS IndexFlatIP with the same threads, in one run.

    python benchmarks/bench_exact.py --data FOLDER [--threads 2] [--rounds 5] [--json FILE]

FOLDER holds the debian-packages data set (packages.parquet, queries.parquet, ground_truth.parquet).
A second set of clustered rows is made up. Rounds are interleaved and medians taken; CPU seconds are
compared as well as wall seconds, since machines are shared. FAISS runs on the fastest BLAS kernels
that the processor supports, whatever its OpenBLAS makes of the processor; the first line names
them. The machine's 8-bit peak is that of the innermost loop alone, on data in the first cache.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding
import numba
import numpy as np
import pyarrow.parquet as pq
import threadpoolctl

from gpuvec.kernels.int8_tile import (
    GROUP,
    TILE_ROWS,
    WORD,
    aligned_zeros,
    int8_lanes,
    tile_address,
    tile_product,
)
from gpuvec.kernels.scan_topk import pack_rows, scan_topk
from gpuvec.peers import faiss_kernels, import_faiss
from gpuvec.types import Metric

os.environ.pop("OPENBLAS_CORETYPE", None)  # FAISS at its best, not at what is set
os.environ.pop("OPENBLAS_L2_SIZE", None)
faiss = import_faiss()

K = 10
BATCHES = (100, 1_000, 10_000)


def column(path: Path, name: str) -> np.ndarray:
    values = pq.read_table(path, columns=[name])[name].combine_chunks()
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)


def debian_packages(folder: Path) -> dict[str, Any]:
    rows = column(folder / "packages.parquet", "vector")
    queries = column(folder / "queries.parquet", "vector").astype(np.float32)
    truth = pq.read_table(folder / "ground_truth.parquet").to_pydict()
    scores = [s[:K] for s, f in zip(truth["scores"], truth["filter"], strict=True) if f == "none"]
    rng = np.random.default_rng(0)
    more = np.repeat(queries, 10, axis=0)
    more += 0.02 * rng.normal(size=more.shape).astype(np.float32)
    more /= np.linalg.norm(more, axis=1)[:, None]
    more[: len(queries)] = queries  # as they are: the truth was taken so
    return {"name": "debian-packages 63,666 x 384 f16", "rows": rows, "queries": more,
            "truth": np.array(scores, np.float32)}  # fmt: skip


def made_up(count: int = 1_000_000, dim: int = 128) -> dict[str, Any]:
    """Clusters of many sizes and widths on a slope of energies, as embeddings have."""
    rng = np.random.default_rng(1)
    slope = (np.arange(1, dim + 1) ** -0.35).astype(np.float32)
    middles = rng.normal(size=(2_000, dim)).astype(np.float32) * slope
    sizes = rng.dirichlet(np.full(len(middles), 0.5))
    owner = rng.choice(len(middles), count + 10_000, p=sizes)
    points = rng.standard_normal((count + 10_000, dim), np.float32)
    points *= 0.8 * slope
    points += middles[owner]
    points /= np.linalg.norm(points, axis=1)[:, None]
    return {"name": f"made up {count:,} x {dim} f32", "rows": points[:count],
            "queries": points[count:], "truth": None}  # fmt: skip


@numba.njit(nogil=True)
def multiply(
    address: int, tiles: Any, codes: Any, slots: Any, lines: Any, bias: Any, hits: Any, sums: Any
) -> None:
    steps = tiles.shape[1]
    for turn in range(20 * tiles.shape[0]):
        t = turn % tiles.shape[0]
        for first in range(0, codes.shape[0], GROUP):
            tile_product(
                address, tiles.ctypes.data + t * steps * TILE_ROWS * WORD, bias.ctypes.data,
                codes.ctypes.data, codes.shape[1], slots.ctypes.data + 8 * first, 4, steps, 0,
                lines.ctypes.data, lines.ctypes.data, 0.0, 0.0, -1, hits.ctypes.data,
                sums.ctypes.data,
            )  # fmt: skip


def int8_peak() -> float:
    """Return 8-bit products per second of one thread, all operands in the first caches."""
    if not int8_lanes():
        return 0.0
    rng = np.random.default_rng(0)
    tiles = aligned_zeros((2, 96, TILE_ROWS, WORD), np.uint8)
    tiles[:] = rng.integers(0, 255, tiles.shape, dtype=np.uint8)
    codes = aligned_zeros((6 * GROUP, 384), np.int8)
    codes[:] = rng.integers(-127, 127, codes.shape, dtype=np.int8)
    slots, lines = np.arange(6 * GROUP), np.full(GROUP, np.inf)
    bias, hits = aligned_zeros((TILE_ROWS,), np.int32), np.zeros(GROUP * TILE_ROWS, np.int8)
    sums = aligned_zeros((GROUP, TILE_ROWS), np.int32)
    best = np.inf
    for _ in range(200):
        start = time.thread_time()
        multiply(tile_address(), tiles, codes, slots, lines, bias, hits, sums)
        best = min(best, time.thread_time() - start)
    return 20 * 2 * TILE_ROWS * 6 * GROUP * 384 / best


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    out = work()
    return time.perf_counter() - wall, time.process_time() - cpu, out


def recall(scores: np.ndarray, truth: np.ndarray) -> float:
    """Count an answer as right if it scores as well as the k-th true one, less 1e-6."""
    return float((scores >= truth[:, -1:] - 1e-6).mean())


def compare(data: dict[str, Any], args: argparse.Namespace, peak: float) -> list[dict[str, Any]]:
    rows, metric = data["rows"], Metric.IP
    wide = np.ascontiguousarray(rows, np.float32)
    flat = faiss.IndexFlatIP(wide.shape[1])
    flat.add(wide)
    seconds, _, pack = timed(lambda: pack_rows(rows, metric, threads=args.threads))
    size = pack.nbytes / rows.size
    print(f"\n{data['name']}: packed in {seconds:.2f} s, {size:.3f} bytes a value")
    rng = np.random.default_rng(2)
    cases = [(m, 1.0) for m in BATCHES] + [(1_000, share) for share in (0.5, 0.1, 0.01, 0.001)]
    table = []
    for count, share in cases:
        asked = np.ascontiguousarray(data["queries"][:count])
        keep = None if share == 1.0 else rng.random(len(rows)) < share
        selector = None
        if keep is not None:
            selector = faiss.IDSelectorBitmap(np.packbits(keep, bitorder="little"))
        params = None if selector is None else faiss.SearchParameters(sel=selector)

        def ours(asked: Any = asked, keep: Any = keep) -> Any:
            return scan_topk(pack, rows, asked, K, keep=keep, threads=args.threads)

        def theirs(asked: Any = asked, params: Any = params) -> Any:
            return flat.search(asked, K, params=params)

        table.append(measure(data, asked, share, ours, theirs, args, peak))
    return table


def measure(
    data: dict[str, Any],
    asked: np.ndarray,
    share: float,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    args: argparse.Namespace,
    peak: float,
) -> dict[str, Any]:
    ours()
    walls, cpus = ([], []), ([], [])
    for _ in range(args.rounds):
        for side, work in enumerate((ours, theirs)):
            wall, cpu, found = timed(work)
            walls[side].append(wall)
            cpus[side].append(cpu)
            if side == 0:
                near, stats = found
            else:
                reference = found
    mine, faiss_cpu = statistics.median(cpus[0]), statistics.median(cpus[1])
    truth = data["truth"] if share == 1.0 and len(asked) <= 1_000 else None
    truth = reference[0] if truth is None else truth[: len(asked)]
    row = {
        "data": data["name"],
        "queries": len(asked),
        "pass": share,
        "ours_wall_s": statistics.median(walls[0]),
        "faiss_wall_s": statistics.median(walls[1]),
        "wall_ratio": statistics.median(b / a for a, b in zip(*walls, strict=True)),
        "cpu_ratio": statistics.median(b / a for a, b in zip(*cpus, strict=True)),
        "ours_cpu_s": mine,
        "faiss_cpu_s": faiss_cpu,
        "recall": recall(-near.distances, truth),
        "rescanned": stats.rescanned / len(asked),
        "candidates_per_query": stats.candidates / len(asked),
        "strategy": stats.strategy,
        "products_of_all": stats.products / (len(asked) * data["rows"].size),
        "peak_share": stats.products / mine / peak if peak and "int8" in stats.strategy else None,
        "peak_equivalent": len(asked) * data["rows"].size * share / mine / peak if peak else None,
    }
    speed = len(asked) / row["ours_wall_s"]
    print(
        f"  {row['queries']:6,} queries, {share:6.1%} pass: {speed:9,.0f} /s, "
        f"{row['cpu_ratio']:6.2f} x FAISS by CPU, {row['wall_ratio']:6.2f} x by wall; "
        f"recall {row['recall']:.4f}, rescanned {row['rescanned']:.2%}, "
        f"{row['candidates_per_query']:.0f} measured each, "
        f"{row['products_of_all']:.0%} of products, {row['strategy']}"
        + (f" at {row['peak_share']:.0%} of int8 peak" if row["peak_share"] else ""),
        flush=True,
    )
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["debian", "made-up"])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    faiss.omp_set_num_threads(args.threads)
    faiss.cvar.distance_compute_blas_threshold = 20  # batches of 100 are faster by BLAS
    threadpoolctl.threadpool_limits(args.threads)
    peak = int8_peak()
    print(
        f"threads {args.threads}, FAISS {faiss.__version__} on {faiss_kernels()} kernels, "
        f"8-bit peak {peak / 1e9:.0f} G products/s a core"
    )
    table = []
    if args.only != "made-up":
        table += compare(debian_packages(args.data), args, peak)
    if args.only != "debian":
        table += compare(made_up(), args, peak)
    if args.json:
        machine = {
            "processor": llvmlite.binding.get_host_cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "threads": args.threads,
            "int8_peak_per_core": peak,
            "faiss": faiss.__version__,
            "faiss_blas_kernels": faiss_kernels(),
            "numpy": np.__version__,
            "numba": numba.__version__,
            "python": platform.python_version(),
            "rounds": args.rounds,
        }
        report = {"machine": machine, "results": table}
        args.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
