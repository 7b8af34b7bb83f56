"""Filters with and without scalar indexes, beside Arrow's own kernels and Polars.

Run: POLARS_MAX_THREADS=1 python benchmarks/bench_filters.py [--rows 1000000] [--debian FILE]
Prints a table and writes benchmarks/results/filters.json. Times are processor time of the whole
process, medians over interleaved rounds, of `frame.filter(text).count()` on a warm collection; of
the others, of the mask and its sum over the same columns in memory.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import gpuvec as gv

RESULTS = Path(__file__).parent / "results" / "filters.json"
ROUNDS = 11
BITMAP, SORTED = gv.index.Bitmap(), gv.index.Sorted()
F32 = np.float32
MADE_UP_INDEXES = {
    "cat": BITMAP, "brand": BITMAP, "user": SORTED, "qty": BITMAP, "price": SORTED, "ts": SORTED,
    "tags": BITMAP,
}  # fmt: skip


def c(name):
    return pl.col(name)


# filter, the same by Arrow's kernels (None: there is no one kernel), the same by Polars
MADE_UP_FILTERS = {
    'cat == "c3"': (lambda t: pc.equal(t["cat"], "c3"), c("cat") == "c3"),
    'brand == "brand77"': (lambda t: pc.equal(t["brand"], "brand77"), c("brand") == "brand77"),
    'brand in ["brand1", "brand2", "brand3"]': (
        lambda t: pc.is_in(t["brand"], pa.array(["brand1", "brand2", "brand3"])),
        c("brand").is_in(["brand1", "brand2", "brand3"]),
    ),
    'user == "user-0000007"': (
        lambda t: pc.equal(t["user"], "user-0000007"), c("user") == "user-0000007",
    ),
    'user like "user-00000%"': (
        lambda t: pc.starts_with(t["user"], "user-00000"), c("user").str.starts_with("user-00000"),
    ),
    "qty == 5": (lambda t: pc.equal(t["qty"], pa.scalar(5, pa.int32())), c("qty") == 5),
    "qty in [1, 2, 3, 4, 5]": (
        lambda t: pc.is_in(t["qty"], pa.array([1, 2, 3, 4, 5], pa.int32())),
        c("qty").is_in([1, 2, 3, 4, 5]),
    ),
    **{
        f"250 <= price < {250 + width:g}": (
            lambda t, width=width: pc.and_(
                pc.greater_equal(t["price"], pa.scalar(F32(250))),
                pc.less(t["price"], pa.scalar(F32(250 + width))),
            ),
            (c("price") >= F32(250)) & (c("price") < F32(250 + width)),
        )
        for width in (500, 100, 10, 1)
    },
    'cat == "c3" and price < 100 and qty < 500': (
        lambda t: pc.and_(
            pc.and_(pc.equal(t["cat"], "c3"), pc.less(t["price"], pa.scalar(F32(100)))),
            pc.less(t["qty"], pa.scalar(500, pa.int32())),
        ),
        (c("cat") == "c3") & (c("price") < F32(100)) & (c("qty") < 500),
    ),
    'array_contains(tags, "t3")': (None, c("tags").list.contains("t3")),
    'text like "%w77 %"': (
        lambda t: pc.match_substring(t["text"], "w77 "),
        c("text").str.contains("w77 ", literal=True),
    ),
    'brand == "brand77" and text like "%w77 %"': (
        lambda t: pc.and_(pc.equal(t["brand"], "brand77"), pc.match_substring(t["text"], "w77 ")),
        (c("brand") == "brand77") & c("text").str.contains("w77 ", literal=True),
    ),
}  # fmt: skip
DEBIAN_INDEXES = {
    "architecture": BITMAP, "section": BITMAP, "n_depends": BITMAP, "installed_size_kib": SORTED,
    "name": SORTED, "tags": BITMAP,
}  # fmt: skip
DEBIAN_FILTERS = {
    'architecture == "all"': (
        lambda t: pc.equal(t["architecture"], "all"), c("architecture") == "all",
    ),
    "n_depends >= 10": (
        lambda t: pc.greater_equal(t["n_depends"], pa.scalar(10, pa.int16())), c("n_depends") >= 10,
    ),
    'section == "science" and installed_size_kib >= 1000': (
        lambda t: pc.and_kleene(
            pc.equal(t["section"], "science"),
            pc.greater_equal(t["installed_size_kib"], pa.scalar(1000, pa.int32())),
        ),
        (c("section") == "science") & (c("installed_size_kib") >= 1000),
    ),
    'name == "python3-numpy"': (
        lambda t: pc.equal(t["name"], "python3-numpy"), c("name") == "python3-numpy",
    ),
    'array_contains(tags, "role::program")': (None, c("tags").list.contains("role::program")),
    'description like "%library%"': (
        lambda t: pc.match_substring(t["description"], "library"),
        c("description").str.contains("library", literal=True),
    ),
}  # fmt: skip


def made_up(rows: int) -> pa.Table:
    """Columns of few and of many different values."""
    rng = np.random.default_rng(0)
    words = np.array([f"w{number}" for number in range(5000)])
    text = pc.binary_join_element_wise(
        *(pa.array(words[rng.integers(0, 5000, rows)]) for _ in range(8)), " "
    )
    tags = pa.array([f"t{number}" for number in rng.geometric(0.05, 3 * rows)])
    return pa.table(
        {
            "id": np.arange(rows),
            "cat": pa.array([f"c{number}" for number in rng.integers(0, 8, rows)]),
            "brand": pa.array([f"brand{number}" for number in rng.integers(0, 1000, rows)]),
            "user": pa.array([f"user-{number:07d}" for number in rng.permutation(rows)]),
            "qty": pa.array(rng.integers(0, 1000, rows), pa.int32()),
            "price": pa.array(rng.random(rows) * 1000, pa.float32()),
            "ts": rng.integers(0, 10**15, rows),
            "tags": pa.ListArray.from_arrays(np.arange(0, 3 * rows + 1, 3, dtype=np.int32), tags),
            "text": text,
        }
    )


def processor_ms(run) -> float:
    start = time.process_time()
    run()
    return (time.process_time() - start) * 1e3


def measure(folder: Path, name: str, table: pa.Table, indexes: dict, filters: dict) -> dict:
    """Build indexes over one of two equal collections; time every filter on both and elsewhere."""
    chunks = table.combine_chunks()
    columns = {field: chunks[field].chunk(0) for field in chunks.column_names}
    frame = pl.from_arrow(chunks)
    found = {"rows": len(table), "indexes": {}, "filters": {}}
    with gv.connect(folder / name) as db:
        plain = db.create_collection("plain", data=table, primary_key="id")
        items = db.create_collection("items", data=table, primary_key="id")
        for field, spec in indexes.items():
            report = items.create_index(field, spec)
            shown = f"{name} {spec.KIND} of {field}"
            size, seconds = report.size_bytes / len(table), report.seconds
            print(f"{shown:44s} {size:6.2f} bytes a row, built in {seconds:6.3f} s")
            found["indexes"][field] = {"kind": spec.KIND, "bytes_a_row": size, "build_s": seconds}
        heads = " ".join(f"{head:>8s}" for head in ("share", "plain", "indexed", "Arrow", "Polars"))
        print(f"{'ms of processor time':52s}{heads}")
        for text, (arrow, polars) in filters.items():
            runs = {
                "plain": lambda text=text: plain.filter(text).count(),
                "indexed": lambda text=text: items.filter(text).count(),
                "polars": lambda polars=polars: frame.select(polars.sum()).item(),
            }
            if arrow is not None:
                runs["arrow"] = lambda arrow=arrow: pc.sum(arrow(columns)).as_py()
            counts = {run() for run in runs.values()}
            assert len(counts) == 1, (text, counts)
            times: dict[str, list[float]] = {key: [] for key in runs}
            for _ in range(ROUNDS):
                for key, run in runs.items():
                    times[key].append(processor_ms(run))
            medians = {key: statistics.median(values) for key, values in times.items()}
            share = counts.pop() / len(table)
            found["filters"][text] = {"share": share, **medians}
            shown = [
                f"{medians.get(key, float('nan')):8.2f}"
                for key in ("plain", "indexed", "arrow", "polars")
            ]
            print(f"{text:52s} {share:7.4f} {' '.join(shown)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument(
        "--debian", type=Path, default=Path(__file__).parent / "data" / "packages.parquet"
    )
    options = parser.parse_args()
    debian = pq.read_table(options.debian)
    debian = debian.drop_columns([name for name in debian.column_names if name == "vector"])
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        results = {
            "processor": platform.processor() or platform.machine(),
            "load at the start": load,
            "made up": measure(
                Path(folder), "made-up", made_up(options.rows), MADE_UP_INDEXES, MADE_UP_FILTERS
            ),
            "debian": measure(Path(folder), "debian", debian, DEBIAN_INDEXES, DEBIAN_FILTERS),
        }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
