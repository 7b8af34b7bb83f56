"""`gpuvec demo`: real rows stored, searched exactly and by recall, checked against truth, timed.

FAISS, where it is installed, answers the same questions on the same cores in alternating rounds.
"""

import importlib.util
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import gpuvec as gv
from gpuvec.api import datasets
from gpuvec.api.interop import infer_schema
from gpuvec.bench import run_bench
from gpuvec.peers import faiss_kernels, import_faiss
from gpuvec.show import print_rows

K = 10
ROUNDS = 5
TARGETS = (0.9, 0.95, 0.99)
REST_S = 0.05  # OpenMP threads go on spinning for a while after their work
FILTERS = {
    "none": "",
    "50pct": 'architecture == "all"',
    "10pct": "n_depends >= 10",
    "1pct": 'section == "science" and installed_size_kib >= 1000',
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One line of the table: a filter, what it cost and how right the answer was."""

    name: str
    rows: int
    recall: float
    seconds: float
    faiss_seconds: float | None


def run_demo(path: Path, console: Console) -> list[Case]:
    """Run the tour in a new database at `path` and print it.

    Returns:
        One case per filter: median seconds of `ROUNDS` batches of all queries, recall@10 against
        the truth that ships with the data.
    """
    packages = datasets.debian_packages()
    queries = datasets.debian_queries()
    with gv.connect(path) as db:
        items = _store(db, packages, console)
        vectors = _matrix(queries["vector"])
        _show_hits(items, queries, vectors, console)
        peer = _Faiss(_matrix(packages["vector"]))
        cases = [_measure(items, vectors, name, peer, packages) for name in FILTERS]
        _print_cases(cases, len(vectors), peer.kernels, console)
        _show_index(items, queries, console)
    return cases


def _store(db: Any, packages: pa.Table, console: Console) -> Any:
    found = infer_schema(packages, primary_key="id")
    vector = gv.Vector(packages["vector"].type.list_size, dtype="float16", metric="ip")
    schema = gv.Schema({**found.fields, "vector": vector}, primary_key="id")
    start = time.perf_counter()
    items = db.create_collection("packages", schema)
    items.insert(packages)
    seconds = time.perf_counter() - start
    mb = packages.nbytes / 1e6
    console.print(
        f"[bold]Stored[/] {len(packages):,} Debian packages ({mb:.0f} MB, {len(packages.schema)} "
        f"columns) durably in {seconds:.2f} s",
        markup=True,
    )
    return items


def _show_hits(
    items: Any, queries: pa.Table, vectors: NDArray[np.float32], console: Console
) -> None:
    at = 3
    hits = (
        items.select("name", "synopsis").search(vectors[at], k=3).collect().to_arrow().to_pylist()
    )
    asked = " ".join(queries["text"][at].as_py().split())
    console.print(f'\n[bold]Nearest to[/] "{escape(asked)}"', highlight=False, markup=True)
    for hit in hits:
        score = -hit["distance"]
        console.print(f"  {hit['rank']}. {hit['name']}: {hit['synopsis']} (cosine {score:.3f})")


def _show_index(items: Any, queries: pa.Table, console: Console) -> None:
    """Make an index, and print what recall targets reach and cost beside the exact search."""
    start = time.perf_counter()
    report = items.create_index("vector", gv.index.IVFInt8(), recall=0.95)
    console.print(
        f"\n[bold]Indexed[/] as {report.chosen}: built and measured in "
        f"{time.perf_counter() - start:.1f} s, {report.size_bytes / 1e6:.1f} MB",
        markup=True,
    )
    found = run_bench(items, k=K, targets=TARGETS, queries=gv.frame(queries.select(["vector"])))
    console.print(f"{found.title()}, by the recall that was asked for")
    print_rows(console, found.table())


def _measure(
    items: Any, vectors: NDArray[np.float32], name: str, peer: "_Faiss", packages: pa.Table
) -> Case:
    frame = items.filter(FILTERS[name]) if FILTERS[name] else items
    search = frame.select("id").search(vectors, k=K)
    passing = frame.select("id").to_arrow()["id"].to_numpy()
    keep = np.isin(packages["id"].to_numpy(), passing)
    found = search.collect()
    timings = _alternate(lambda: search.collect(), peer.searcher(vectors, keep))
    return Case(
        name=name,
        rows=len(passing),
        recall=recall(found.to_arrow(), datasets.debian_truth(name), len(vectors)),
        seconds=timings[0],
        faiss_seconds=timings[1],
    )


def _alternate(
    ours: Callable[[], Any], theirs: Callable[[], Any] | None
) -> tuple[float, float | None]:
    """Return the median seconds of both, run in turn."""
    runs: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for call, seconds in ((ours, runs[0]), (theirs, runs[1])):
            if call is not None:
                time.sleep(REST_S)
                start = time.perf_counter()
                call()
                seconds.append(time.perf_counter() - start)
    return statistics.median(runs[0]), statistics.median(runs[1]) if runs[1] else None


def recall(found: pa.Table, truth: pa.Table, queries: int) -> float:
    """Return recall@`K`: the share of answers scoring at least the true k-th score less 1e-6.

    Args:
        found: `query_id` (row numbers) and `distance` (negated inner products) of the answers.
        truth: `query_id` and `scores`, best first.
        queries: how many were asked.
    """
    scores = truth.sort_by("query_id")["scores"].combine_chunks()
    width = min(K, len(scores[0]))
    kth = scores.flatten().to_numpy().reshape(queries, -1)[:, width - 1]
    right = -found["distance"].to_numpy() >= kth[found["query_id"].to_numpy()] - 1e-6
    return float(right.sum()) / (queries * width)


class _Faiss:
    """FAISS's own exact index over the same vectors, if FAISS is installed.

    Attributes:
        kernels: name of the BLAS kernels that it runs on.
    """

    def __init__(self, rows: NDArray[np.float32]) -> None:
        self._index: Any = None
        self.kernels = ""
        if importlib.util.find_spec("faiss") is not None:
            self._faiss: Any = import_faiss()
            self.kernels = faiss_kernels()
            self._faiss.omp_set_num_threads(len(os.sched_getaffinity(0)))
            self._index = self._faiss.IndexFlatIP(rows.shape[1])
            self._index.add(rows)

    def searcher(
        self, queries: NDArray[np.float32], keep: NDArray[np.bool_]
    ) -> Callable[[], Any] | None:
        """Return a function that answers all queries among the kept rows."""
        if self._index is None:
            return None
        if keep.all():
            return lambda: self._index.search(queries, K)
        bits = np.packbits(keep, bitorder="little")
        params = self._faiss.SearchParameters(sel=self._faiss.IDSelectorBitmap(bits))
        return lambda: self._index.search(queries, K, params=params)


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float32]:
    values = column.combine_chunks()
    flat = values.flatten().to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(flat.reshape(len(values), -1), dtype=np.float32)


def _print_cases(cases: list[Case], queries: int, kernels: str, console: Console) -> None:
    threads = len(os.sched_getaffinity(0))
    title = f"{queries:,} real queries in one batch, k={K}, {threads} threads, exact"
    table = Table(title=f"{title}; FAISS on {kernels} kernels" if kernels else title)
    for heading in ("filter", "rows", "recall@10", "queries/s", "FAISS Flat", "ratio"):
        table.add_column(heading, justify="left" if heading == "filter" else "right", no_wrap=True)
    for case in cases:
        theirs = case.faiss_seconds
        table.add_row(
            case.name,
            f"{case.rows:,}",
            f"{case.recall:.4f}",
            f"{queries / case.seconds:,.0f}",
            f"{queries / theirs:,.0f}" if theirs else "not installed",
            f"{theirs / case.seconds:.1f} x" if theirs else "",
        )
    console.print()
    console.print(table)
