"""Files into a collection: bulk_import and insert beside a plain read of the same files by pyarrow.

Run: python benchmarks/bench_import.py [--rows 500000] [--dim 128] [--files 8] [--rounds 3]
Systems take turns within each round, each on an empty database; medians of wall time and of the
processor time of the whole process, user and system apart. Also an external collection of the
files: creation, the first exact search (decodes the vectors), the second. Prints a table and writes
benchmarks/results/import.json. Files were just written, so they are read from memory; what is
written is synced to the disk of --folder.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import gpuvec as gv

RESULTS = Path(__file__).parent / "results" / "import.json"
BATCH = 20_000
QUERIES = 20


def write_files(folder: Path, rows: int, dim: int, files: int) -> list[Path]:
    """Write unit normal float32 vectors with an integer key and a float64 column."""
    rng = np.random.default_rng(0)
    bounds = np.linspace(0, rows, files + 1).astype(int)
    paths = []
    for number, (low, high) in enumerate(pairwise(bounds)):
        vectors = rng.standard_normal((high - low) * dim, np.float32)
        column = pa.FixedSizeListArray.from_arrays(pa.array(vectors), dim)
        prices = rng.random(high - low)
        table = pa.table({"id": np.arange(low, high), "price": prices, "v": column})
        paths.append(folder / f"p{number}.parquet")
        pq.write_table(table, paths[-1], row_group_size=65_536)
    return paths


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Return the seconds that work took, by the wall and by processors."""
    before, wall = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    wall, after = time.perf_counter() - wall, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "wall_s": wall,
        "user_s": after.ru_utime - before.ru_utime,
        "system_s": after.ru_stime - before.ru_stime,
    }


def insert(items: gv.Collection, files: list[Path]) -> None:
    """Insert all rows in batches, until they are in segments."""
    for path in files:
        for batch in pq.ParquetFile(path).iter_batches(BATCH):
            items.insert(pa.Table.from_batches([batch]))
    items.flush()


def one_round(folder: Path, files: list[Path], rows: int, dim: int) -> dict[str, dict[str, float]]:
    """Measure every way once, each on a database of its own."""
    glob = f"{files[0].parent}/*.parquet"
    schema = gv.Schema({"id": gv.Int64(), "price": gv.Float64(), "v": gv.Vector(dim)}, "id")
    found = {"pyarrow read": measured(lambda: [pq.read_table(path) for path in files])}
    ways = {
        "bulk_import": (1, lambda items: items.bulk_import(glob)),
        "bulk_import, 4 channels": (4, lambda items: items.bulk_import(glob)),
        "insert": (1, lambda items: insert(items, files)),
    }
    for name, (channels, work) in ways.items():
        with gv.connect(folder / "db") as db:
            items = db.create_collection("items", schema, channels=channels)
            found[name] = measured(lambda work=work, items=items: work(items))
            assert items.count() == rows
        shutil.rmtree(folder / "db")
    queries = np.random.default_rng(1).standard_normal((QUERIES, dim), np.float32)
    with gv.connect(folder / "db") as db:
        found["external, create"] = measured(
            lambda: db.create_collection("items", external=glob, primary_key="id")
        )
        for which in ("first", "second"):
            search = db["items"].search(queries, k=10, exact=True)
            found[f"external, {which} search"] = measured(search.collect)
    shutil.rmtree(folder / "db")
    return found


def medians(rounds: list[dict[str, dict[str, float]]], rows: int) -> list[dict[str, object]]:
    """Return one line per way."""
    lines: list[dict[str, object]] = []
    for name in rounds[0]:
        line: dict[str, object] = {"what": name}
        for part in ("wall_s", "user_s", "system_s"):
            line[part] = round(statistics.median(found[name][part] for found in rounds), 3)
        cpu = statistics.median(found[name]["user_s"] + found[name]["system_s"] for found in rounds)
        plain = [
            (found[name]["user_s"] + found[name]["system_s"])
            / (found["pyarrow read"]["user_s"] + found["pyarrow read"]["system_s"])
            for found in rounds
        ]
        if "search" not in name and "create" not in name:
            line["rows_per_cpu_s"] = round(rows / cpu)
            line["cpu_of_pyarrow_read"] = round(statistics.median(plain), 2)
        lines.append(line)
    return lines


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    parser.add_argument("--out", type=Path, default=RESULTS)
    asked = parser.parse_args()
    gv.config.set(progress=False)
    with tempfile.TemporaryDirectory(dir=asked.folder) as name:
        folder = Path(name)
        (folder / "files").mkdir()
        files = write_files(folder / "files", asked.rows, asked.dim, asked.files)
        size = sum(path.stat().st_size for path in files)
        rounds = [one_round(folder, files, asked.rows, asked.dim) for _ in range(asked.rounds)]
    result = {
        "rows": asked.rows,
        "dim": asked.dim,
        "files": asked.files,
        "file_bytes": size,
        "rounds": asked.rounds,
        "processors": os.cpu_count(),
        "load_at_end": round(os.getloadavg()[0], 1),
        "machine": platform.platform(),
        "lines": medians(rounds, asked.rows),
    }
    for line in result["lines"]:
        print("  ".join(f"{key} {value}" for key, value in line.items()))
    asked.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
