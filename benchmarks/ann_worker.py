"""One library in a process of its own: reads commands from stdin, a line of JSON each, and answers.

    python ann_worker.py SYSTEM DATA_FOLDER INDEX_FOLDER THREADS

Commands: `{"do": "build"}`, `{"do": "settings"}` and `{"do": "search", "setting": {...}, "count":
1000, "batch": 100, "mask": null}`. An error is answered as `{"error": "..."}`.
"""

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ann_peers import PEERS, System, fresh, size_bytes

REST_S = 0.03  # threads of a library go on spinning for a while after their work


def system(key: str, threads: int) -> System:
    if key in PEERS:
        return PEERS[key](threads)
    module = "ann_faiss" if key.startswith("faiss") else "ann_ours"
    table = getattr(importlib.import_module(module), "FAISS" if module == "ann_faiss" else "OURS")
    return table[key](threads)


class Worker:
    def __init__(self, key: str, data: Path, folder: Path, threads: int) -> None:
        self.data, self.folder = data, folder
        self.rows = np.load(data / "rows.npy")
        self.queries = np.load(data / "queries.npy")
        self.system = system(key, threads)
        self.masks: dict[str, Any] = {}

    def build(self) -> dict[str, Any]:
        """Build the index, or load the one that is saved; says what the build took."""
        note = self.folder / "note.json"
        version = self.system.version()
        if note.is_file() and not self.system.rebuilt:
            known = json.loads(note.read_text())
            if known["version"] == version:
                self.system.load(self.folder / "index", self.rows)
                return known
        self.system.warm(self.rows[:3_000])
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        index = fresh(self.folder / "index")
        self.system.folder, self.system.data = index, self.data
        wall, cpu = time.perf_counter(), time.process_time()
        self.system.build(self.rows)
        known = {
            "version": version,
            "build_wall_s": time.perf_counter() - wall,
            "build_cpu_s": time.process_time() - cpu,
            "peak_bytes": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before),
        }
        self.system.save(index)
        known["disk_bytes"] = size_bytes(index)
        note.write_text(json.dumps(known))
        return known

    def settings(self) -> list[dict[str, Any]]:
        return list(self.system.settings())

    def search(
        self, setting: dict[str, Any], count: int, batch: int, mask: str | None = None
    ) -> dict[str, float]:
        """Ask the first `count` queries in calls of `batch`; recall counts ties with the k-th."""
        asked = [self.queries[at : min(at + batch, count)] for at in range(0, count, batch)]
        keep = self._mask(mask)
        self.system.mask = mask
        told = {} if mask is None else {"keep": keep}
        time.sleep(REST_S)
        wall, cpu = time.perf_counter(), time.process_time()
        found = [self.system.search(queries, setting, **told) for queries in asked]
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        right = self._right(np.concatenate(found), mask or "none", count)
        return {"wall_s": wall, "cpu_s": cpu, "recall": float(right.mean()),
                "recall_error": float(right.std() / np.sqrt(len(right)))}  # fmt: skip

    def _mask(self, name: str | None) -> np.ndarray | None:
        if name is None:
            return None
        if name not in self.masks:
            self.masks[name] = np.load(self.data / f"mask_{name}.npy")
        return self.masks[name]

    def _right(self, found: np.ndarray, mask: str, count: int) -> np.ndarray:
        """Return (queries,) the share of answers that score as well as the true k-th."""
        kth = np.load(self.data / f"kth_{mask}.npy")[:count]
        width = np.load(self.data / f"width_{mask}.npy")
        keep = None if mask == "none" else self._mask(mask)
        right = np.empty(count)
        for at in range(0, count, 1_000):
            rows = np.sort(found[at : at + 1_000], axis=1)
            scores = np.einsum(
                "qkd,qd->qk", self.rows[rows], self.queries[at : min(at + 1_000, count)]
            )
            good = (scores >= kth[at : at + 1_000, None] - 1e-6) & (rows >= 0)
            good[:, 1:] &= rows[:, 1:] != rows[:, :-1]  # a row counts once
            if keep is not None:
                good &= keep[rows]
            right[at : at + 1_000] = good.sum(axis=1) / width
        return right


def main() -> None:
    key, data, folder, threads = sys.argv[1:5]
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes to stderr
    try:
        worker = Worker(key, Path(data), Path(folder), int(threads))
    except (ImportError, OSError) as error:
        answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
        return
    answers.write(json.dumps({"name": worker.system.name, "masks": worker.system.masks}) + "\n")
    for line in sys.stdin:
        told = json.loads(line)
        try:
            answer = getattr(worker, told.pop("do"))(**told)
        except Exception as error:  # the parent decides what becomes of it
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
