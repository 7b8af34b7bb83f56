"""Every approximate index on the sample's rows: its bytes, its build, its speed at a recall.

    python benchmarks/indexes.py [--data FOLDER] [--rows N] [--only NAME] [--json FILE]

One thread, processor time, so other work on the machine matters little; an index's batches take
turns with those of the exact scan, and the figure is how many times as fast it is.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

import gpuvec as gv
from benchmarks.ann_data import debian_packages, made_up
from gpuvec.index import registry
from gpuvec.index.curve import recalls
from gpuvec.index.spec import IndexSpec
from gpuvec.rows import DenseVectors

K = 10
TARGETS = (0.9, 0.95, 0.99)
ROUNDS = 3
SPECS: tuple[IndexSpec, ...] = (
    gv.index.IVFInt8(),
    gv.index.HNSW(),
    gv.index.CAGRA(),
    gv.index.IVFFlat(),
    gv.index.IVFSQ8(),
    gv.index.IVFPQ(),
    gv.index.IVFPQ(pq_bits=8),
    gv.index.IVFRaBitQ(),
    gv.index.IVFRaBitQ(bits=4),
)


def seconds(index: Any, queries: np.ndarray, options: dict[str, Any]) -> float:
    """Return the processor time of a batch."""
    start = time.process_time()
    index.search(queries, K, threads=1, **options)
    return time.process_time() - start


def measured(spec: IndexSpec, vectors: DenseVectors, exact: Any, queries: np.ndarray) -> dict:
    """Return what one index takes and gives."""
    start = time.process_time()
    index = registry.build(spec, vectors, "cosine", threads=1)
    built_s = time.process_time() - start
    truth = exact.search(queries, K, threads=1)
    found: dict[str, Any] = {
        "index": str(spec),
        "bytes_per_row": index.nbytes / len(vectors),
        "build_s": built_s,
        "targets": {},
    }
    left = list(TARGETS)
    for params in index.settings(K):
        recall = float(recalls(index.search(queries, K, params=params, threads=1), truth).mean())
        if not left or recall < left[0]:
            continue
        ratios = [
            seconds(exact, queries, {}) / seconds(index, queries, {"params": params})
            for _ in range(ROUNDS)
        ]
        while left and recall >= left[0]:
            found["targets"][str(left.pop(0))] = {
                "params": dict(params), "recall": recall, "times_exact": float(np.median(ratios)),
            }  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).with_name("data"))
    parser.add_argument("--rows", type=int, help="so many made-up rows instead")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--only", default="", help="a part of the names of those to measure")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    data = debian_packages(args.data) if args.rows is None else made_up(args.rows)
    rows, queries = data["rows"].astype(np.float16), data["queries"][: args.queries]
    vectors = DenseVectors(rows)
    exact = registry.exact(vectors, "cosine")
    exact.search(queries, K, threads=1)
    lines = []
    print(f"{len(rows):,} x {rows.shape[1]} float16, {len(queries):,} queries at once")
    for spec in (spec for spec in SPECS if args.only in str(spec)):
        line = measured(spec, vectors, exact, queries)
        lines.append(line)
        told = "  ".join(
            f"{target}: {at['times_exact']:.1f} x ({at['recall']:.3f})"
            for target, at in line["targets"].items()
        )
        shown = f"{line['bytes_per_row']:6.0f} bytes a row  {line['build_s']:6.1f} s"
        print(f"{line['index']:60} {shown}  {told}", flush=True)
    if args.json is not None:
        shape = {"rows": len(rows), "dim": rows.shape[1], "queries": len(queries), "k": K}
        args.json.write_text(json.dumps({**shape, "indexes": lines}, indent=1) + "\n")


if __name__ == "__main__":
    main()
