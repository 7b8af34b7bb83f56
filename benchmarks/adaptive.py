"""What calls notice of it when adaptive scaling makes one worker four, and four one again.

Threads search and write all the time, on a cluster of processes of this machine: first few of them
now and then, then as fast as they can, then few again. Each answer is compared with the right one.
The number of workers is what gpuvec's own target wants, with the times that users get: a worker
goes after a minute of little to do. *During* is from the wish for more workers until all serve
segments, or from the begin of a retirement until two seconds after its end; *before* and *after*
are under the same load.

    python -m benchmarks.adaptive [--calm 20] [--threads 8] [--rows 40000] [--by-limit] [--write]
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import numpy as np

import gpuvec as gv
from gpuvec.cluster import launch

RESULTS = Path(__file__).parent / "results" / "adaptive.json"
DIM, SEGMENTS, K = 128, 8, 10
QUESTIONS = 64
BATCH = 20  # rows of a write
MOST = 4  # workers
SLOW_PAUSE_S = 1.0  # of a thread under low load
WRITE_PAUSE_S = 0.2
LOOK_S = 0.2
AFTERWARDS_S = 2.0
PATIENCE_S = 240.0
ASKED_RATIO = 3.0
ENVIRONMENT = {  # of the workers: segments stay apart, and rows are flushed now and then
    "GPUVEC_COMPACT__SIZE_BYTES": str(8 << 20),
    "GPUVEC_FLUSH__AGE_S": "20",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call that was made."""

    kind: str
    begun_s: float
    took_s: float
    error: str  # empty: it went well


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A time in which calls are counted: those that were under way in it."""

    begun_s: float
    ended_s: float

    def holds(self, call: Call) -> bool:
        return call.begun_s < self.ended_s and call.begun_s + call.took_s > self.begun_s


class Load:
    """Threads that search, and one that writes.

    Args:
        items: holds `rows` rows, and nothing else.
        threads: that search.
    """

    def __init__(self, items: gv.Collection, rows: int, threads: int) -> None:
        self.calls: list[Call] = []
        self.written = 0
        self.pause_s = SLOW_PAUSE_S  # between the searches of a thread
        self._items, self._rows = items, rows
        rng = np.random.default_rng(1)
        self._questions = rng.standard_normal((QUESTIONS, 1, DIM), dtype=np.float32)
        self._answers = [self._ask(number) for number in range(QUESTIONS)]
        self._ending = threading.Event()
        steps = [self._write, *[self._search] * threads]
        self._threads = [
            threading.Thread(target=self._work, args=(step, number), daemon=True)
            for number, step in enumerate(steps)
        ]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """End all calls."""
        self._ending.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> list[int]:
        found = self._items.select("id").search(self._questions[number], k=K, exact=True).collect()
        return [int(key) for key in found["id"]]

    def _work(self, step: Callable[[int], tuple[str, str, float]], number: int) -> None:
        while not self._ending.is_set():
            begun_s, error = time.monotonic(), ""
            try:
                kind, error, pause_s = step(number)
            except Exception as failure:  # whatever it is, it is counted
                kind, error, pause_s = (
                    step.__name__[1:],
                    f"{type(failure).__name__}: {failure}",
                    0.1,
                )
            took_s = time.monotonic() - begun_s
            self.calls.append(Call(kind=kind, begun_s=begun_s, took_s=took_s, error=error))
            self._ending.wait(pause_s)

    def _search(self, thread: int) -> tuple[str, str, float]:
        number = (len(self.calls) + thread) % QUESTIONS
        right = self._ask(number) == self._answers[number]
        return "search", "" if right else "wrong answer", self.pause_s

    def _write(self, _: int) -> tuple[str, str, float]:
        first = self._rows + self.written
        far = np.full((BATCH, DIM), 1000, np.float32)
        self._items.insert({"id": np.arange(first, first + BATCH), "v": far})
        self.written += BATCH
        return "write", "", WRITE_PAUSE_S


class Watch:
    """Looks at a cluster again and again, from outside.

    Attributes:
        looks: when, how many workers were wanted, and the nodes as the coordinator shows them.
    """

    def __init__(self, cluster: Any) -> None:
        self.looks: list[tuple[float, int, dict[str, Any]]] = []
        self._cluster = cluster
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def until(self, true: Callable[[int, dict[str, Any]], bool]) -> float:
        """Wait until a look finds something; return when it was.

        Raises:
            TimeoutError: it did not within four minutes.
        """
        number, end_s = len(self.looks), time.monotonic() + PATIENCE_S
        while time.monotonic() < end_s:
            for at_s, wanted, nodes in self.looks[number:]:
                number += 1
                if true(wanted, nodes):
                    return at_s
            time.sleep(0.05)
        raise TimeoutError(f"the cluster did not get there; the last look: {self.looks[-1]}")

    def end(self) -> None:
        """Look no more."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        page = urljoin(self._cluster.dashboard_link, "gpuvec/state")
        while not self._ending.wait(LOOK_S):
            with urllib.request.urlopen(page, timeout=60) as answer:
                nodes = json.load(answer)["nodes"]
            self.looks.append((time.monotonic(), len(self._cluster.plan), nodes))


def fill(db: gv.Database, rows: int) -> gv.Collection:
    """Write made-up rows as segments of one size."""
    schema = gv.Schema({"id": gv.Int64(), "v": gv.Vector(DIM, metric="l2")}, primary_key="id")
    items = db.create_collection("items", schema)
    rng = np.random.default_rng(0)
    size = rows // SEGMENTS
    for first in range(0, size * SEGMENTS, size):
        vectors = rng.standard_normal((size, DIM), dtype=np.float32)
        items.insert({"id": np.arange(first, first + size), "v": vectors})
        items.flush()
    return items


def last(seconds: float) -> Window:
    """Wait some seconds; return them."""
    begun_s = time.monotonic()
    time.sleep(seconds)
    return Window(begun_s=begun_s, ended_s=time.monotonic())


def grow(cluster: Any, watch: Watch, load: Load, calm_s: float) -> dict[str, Any]:
    """Raise the load, and let one worker become four."""
    load.pause_s = 0.0
    time.sleep(AFTERWARDS_S)
    before = last(calm_s)
    begun_s = time.monotonic()
    cluster.adapt(minimum=1, maximum=MOST)
    wished_s = watch.until(lambda wanted, _: wanted > 1)
    there_s = watch.until(lambda _, nodes: len(nodes) == MOST)
    served_s = watch.until(
        lambda _, nodes: len(nodes) == MOST and all(n.get("segments", 0) for n in nodes.values())
    )
    windows = {
        "before": before,
        "during": Window(begun_s=wished_s, ended_s=served_s),
        "while processes start": Window(begun_s=wished_s, ended_s=there_s),
        "while segments move": Window(begun_s=there_s, ended_s=served_s),
        "after": last(calm_s),
    }
    return {
        "move": f"1 to {MOST}",
        "s from permission to wish": round(wished_s - begun_s, 1),
        "s until all have joined": round(there_s - wished_s, 1),
        "s until all serve segments": round(served_s - wished_s, 1),
        "windows": {name: [window] for name, window in windows.items()},
    }


def shrink(watch: Watch, workers: int, calm_s: float) -> dict[str, Any]:
    """Wait until one worker of some has gone."""
    begun_s = watch.until(
        lambda _, nodes: len(nodes) < workers or any(n["draining"] for n in nodes.values())
    )
    gone_s = watch.until(lambda _, nodes: len(nodes) < workers)
    before = Window(begun_s=begun_s - calm_s, ended_s=begun_s - LOOK_S)
    during = Window(begun_s=before.ended_s, ended_s=gone_s + AFTERWARDS_S)
    time.sleep(max(0.0, during.ended_s - time.monotonic()))
    return {
        "move": f"{workers} to {workers - 1}",
        "s of retirement": round(gone_s - begun_s, 1),
        "windows": {"before": [before], "during": [during], "after": [last(calm_s)]},
    }


def summary(calls: Sequence[Call]) -> dict[str, Any]:
    """Return how many calls there were, and how long they took, by kind."""
    found: dict[str, Any] = {}
    for kind in ("search", "write"):
        took = [call.took_s for call in calls if call.kind == kind]
        if took:
            p50, p99, most = np.percentile(took, [50, 99, 100])
            found[kind] = {"calls": len(took), "p50 ms": _ms(p50), "p99 ms": _ms(p99)}
            found[kind]["most ms"] = _ms(most)
    return found


def together(moves: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return several moves as one: each alone has few calls."""
    names = ("before", "during", "after")
    return {"windows": {name: [w for m in moves for w in m["windows"][name]] for name in names}}


def judged(move: dict[str, Any], calls: Sequence[Call]) -> dict[str, Any]:
    """Return the figures of a move instead of its windows."""
    parts = {
        name: summary([call for call in calls if any(window.holds(call) for window in windows)])
        for name, windows in move["windows"].items()
    }
    told = {key: value for key, value in move.items() if key != "windows"}
    ratios = {
        kind: round(parts["during"][kind]["p99 ms"] / parts["before"][kind]["p99 ms"], 2)
        for kind in ("search", "write")
        if kind in parts["during"] and kind in parts["before"]
    }
    within = {kind: ratio <= ASKED_RATIO for kind, ratio in ratios.items()}
    return {**told, **parts, "p99 during / before": ratios, "within": within}


def show(move: dict[str, Any], load: Load) -> None:
    """Print a move while others are still to come."""
    calls = list(load.calls)
    failed = sum(bool(call.error) for call in calls)
    line = {"failed so far": failed, **judged(move, calls)}
    print(json.dumps(line), file=sys.stderr, flush=True)


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return all figures of one run."""
    os.environ.update(ENVIRONMENT)
    cluster = launch.local(1, threads_per_worker=1)
    with closing(cluster), gv.connect(folder / "shop", cluster=cluster) as db:
        items = fill(db, args.rows)
        load, watch = Load(items, args.rows, args.threads), Watch(cluster)
        try:
            time.sleep(AFTERWARDS_S)
            alone = last(args.calm)
            moves = [grow(cluster, watch, load, args.calm)]
            load.pause_s = SLOW_PAUSE_S
            for workers in range(MOST, 1, -1):
                show(moves[-1], load)
                if args.by_limit:
                    time.sleep(args.calm)
                    cluster.adapt(minimum=1, maximum=workers - 1)
                moves.append(shrink(watch, workers, args.calm))
            show(moves[-1], load)
        finally:
            load.end()
            watch.end()
        lost = args.rows + load.written - items.count()
    failed = Counter(call.error for call in load.calls if call.error)
    return {
        "calls": len(load.calls),
        "failed calls": sum(failed.values()),
        "errors": dict(failed),
        "acknowledged rows": load.written,
        "rows lost": lost,
        "low load, one worker": summary([c for c in load.calls if alone.holds(c)]),
        "moves": [judged(move, load.calls) for move in moves],
        "all retirements": judged(together(moves[1:]), load.calls),
        "most workers wanted": max(wanted for _, wanted, _ in watch.looks),
        "median s of a look": round(
            statistics.median(
                b[0] - a[0] for a, b in zip(watch.looks, watch.looks[1:], strict=False)
            ),
            2,
        ),
    }


def _ms(seconds: float) -> float:
    return round(1000 * float(seconds), 1)


def main(told: Sequence[str] | None = None) -> None:
    """Measure, print, and with `--write` keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calm", type=float, default=20.0, help="seconds before and after a move")
    parser.add_argument("--threads", type=int, default=8, help="that search")
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument(
        "--by-limit",
        action="store_true",
        help="workers go since fewer are allowed, not since there is little to do",
    )
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args(told)
    setting = {
        "command": " ".join(["python -m benchmarks.adaptive", *(told or sys.argv[1:])]),
        "workers go by limit": args.by_limit,
        "calm s": args.calm,
        "threads that search": args.threads,
        "rows": args.rows,
        "dim": DIM,
        "segments": SEGMENTS,
        "cores": os.cpu_count(),
        "load at the start": round(os.getloadavg()[0], 1),
    }
    with tempfile.TemporaryDirectory() as folder:
        found = {**setting, **measure(Path(folder), args)}
    found["load at the end"] = round(os.getloadavg()[0], 1)
    print(json.dumps(found, indent=1))
    if args.write:
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
