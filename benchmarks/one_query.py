"""Single queries: whole calls beside the raw index, several threads, and batches of all sizes.

Run by `bench_engine.py`; alone: python benchmarks/one_query.py
"""

import itertools
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gpuvec as gv
from gpuvec.api import datasets
from gpuvec.peers import import_faiss

ROUNDS = 5
ONE_QUERY_ROUNDS = 500
LOADED_S = 3.0  # by then the compiled bodies are loaded
EF_SEARCH = 64
FORMS = {
    "collect(), id": lambda items, q, options: items.select("id").search(q, **options).collect(),
    "collect(), all columns": lambda items, q, options: items.search(q, **options).collect(),
    "to_arrow(), all columns": lambda items, q, options: items.search(q, **options).to_arrow(),
    "to_pandas(), id": lambda items, q, options: (
        items.select("id").search(q, **options).to_pandas()
    ),
    "to_pandas(), all columns": lambda items, q, options: items.search(q, **options).to_pandas(),
}


def one_query(folder: Path) -> dict:
    """Whole calls of one query beside raw FAISS with the same rows and settings, round by round.

    A call makes the search, runs it and hands out the nearest ten with their distances. Both sides
    use one thread: FAISS starts none for one query on a graph, and `threads=1` holds for both in
    the exact scan.
    """
    faiss = import_faiss()
    faiss.omp_set_num_threads(1)
    packages, queries = datasets.debian_packages(), datasets.debian_queries()
    matrix = np.stack(packages["vector"].to_numpy()).astype(np.float32)
    asked = np.stack(queries["vector"].to_numpy()).astype(np.float32)
    unit = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    flat = faiss.IndexFlatIP(matrix.shape[1])
    graph = faiss.IndexHNSWFlat(matrix.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction, graph.hnsw.efSearch = 200, EF_SEARCH
    for index in (flat, graph):
        index.add(unit)
    truth = flat.search(asked, 10)[1]
    ids = packages["id"].to_numpy()
    found = {}
    with gv.config.set(threads=1), gv.connect(folder / "one") as db:
        items = db.create_collection("packages", data=packages, primary_key="id")
        items.create_index("vector", gv.index.HNSW(m=32, ef_construction=200))
        for kind, index, options in (
            ("exact", flat, {"exact": True}),
            ("HNSW", graph, {"params": {"ef_search": EF_SEARCH}}),
        ):
            answers = items.select("id").search(asked, k=10, **options).to_numpy()["id"]
            ours = _share(answers.reshape(-1, 10), ids[truth])
            theirs = _share(index.search(asked, 10)[1], truth)
            found[f"{kind}: recall@10, gpuvec"], found[f"{kind}: recall@10, FAISS"] = ours, theirs
            found |= _against(kind, items, index, asked, {"k": 10, **options})
    return found


def _share(found: np.ndarray, truth: np.ndarray) -> float:
    """Share of the true neighbours that were found, over all queries."""
    both = [len(np.intersect1d(a, b)) for a, b in zip(found, truth, strict=True)]
    return float(np.mean(both)) / truth.shape[1]


def _against(kind: str, items: gv.Collection, index: Any, asked: np.ndarray, options: dict) -> dict:
    """Time every form of the call and the raw index in turn; return medians and their ratios."""
    for form in FORMS.values():
        form(items, asked[0], options)
    time.sleep(LOADED_S)
    for q in asked[:ONE_QUERY_ROUNDS]:  # codes are derived, columns read
        items.search(q, **options).collect()
    raw: list[tuple[float, float]] = []
    ours: dict[str, list[tuple[float, float]]] = {name: [] for name in FORMS}
    turn = itertools.cycle(asked)  # each call has a query that none has just warmed caches for
    for _ in range(ONE_QUERY_ROUNDS):
        q = next(turn)
        raw.append(_timed(lambda q=q: index.search(q[None], 10)))
        for name, form in FORMS.items():
            q = next(turn)
            ours[name].append(_timed(lambda q=q, form=form: form(items, q, options)))
    found = {}
    for number, clock in enumerate(("ms", "CPU ms")):
        peer = statistics.median(pair[number] for pair in raw)
        budget = 1.3 * peer + 0.3
        found[f"{kind}: raw FAISS, {clock}"] = peer
        found[f"{kind}: budget, 1.3 x FAISS + 0.3, {clock}"] = budget
        for name, pairs in ours.items():
            mine = statistics.median(pair[number] for pair in pairs)
            found[f"{kind}: {name}, {clock}"] = mine
            found[f"{kind}: {name}, {clock} / budget"] = mine / budget
    return found


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Return milliseconds of wall time, and of processor time of this thread."""
    wall, cpu = time.perf_counter(), time.thread_time()
    work()
    return (time.perf_counter() - wall) * 1e3, (time.thread_time() - cpu) * 1e3


def several_threads(folder: Path) -> dict:
    """Single queries per second of one thread and of eight, on the graph of `one_query`."""
    queries = np.stack(datasets.debian_queries()["vector"].to_numpy()).astype(np.float32)
    with gv.config.set(threads=1), gv.connect(folder / "one") as db:
        items = db["packages"]
        options = {"k": 10, "params": {"ef_search": EF_SEARCH}}
        for q in queries[:200]:
            items.search(q, **options).collect()

        def rate(threads: int) -> tuple[float, float]:
            parts = np.array_split(queries, threads)
            work = [
                threading.Thread(
                    target=lambda p=p: [items.search(q, **options).collect() for q in p]
                )
                for p in parts
            ]
            start, cpu = time.perf_counter(), time.process_time()
            for thread in work:
                thread.start()
            for thread in work:
                thread.join()
            spent = time.perf_counter() - start
            return len(queries) / spent, (time.process_time() - cpu) / len(queries)

        rounds = [(rate(1), rate(8)) for _ in range(ROUNDS)]
    return {
        "HNSW, 1 thread, calls/s": statistics.median(one[0] for one, _ in rounds),
        "HNSW, 8 threads, calls/s": statistics.median(many[0] for _, many in rounds),
        "HNSW, 8 threads over 1": statistics.median(many[0] / one[0] for one, many in rounds),
        "HNSW, 1 thread, CPU ms a call": statistics.median(one[1] for one, _ in rounds) * 1e3,
        "HNSW, 8 threads, CPU ms a call": statistics.median(many[1] for _, many in rounds) * 1e3,
    }


def batches(folder: Path) -> dict:
    """Exact queries per second by the size of the batch, on the rows of `one_query`."""
    queries = np.tile(np.stack(datasets.debian_queries()["vector"].to_numpy()), (3, 1))
    found = {}
    with gv.connect(folder / "one") as db:
        frame = db["packages"].select("id")
        frame.search(queries, k=10, exact=True).collect()
        for size in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024):
            starts = range(0, min(len(queries) - size + 1, 40 * size), size)
            times = []
            for start in starts:
                begin = time.perf_counter()
                frame.search(queries[start : start + size], k=10, exact=True).collect()
                times.append(time.perf_counter() - begin)
            found[f"exact, batches of {size}, queries/s"] = size / statistics.median(times)
    return found


def main() -> None:
    """Print all figures."""
    with tempfile.TemporaryDirectory(dir=".") as scratch:
        for part in (one_query, several_threads, batches):
            for name, value in part(Path(scratch)).items():
                print(f"{name:55} {value:12,.3f}")


if __name__ == "__main__":
    main()
