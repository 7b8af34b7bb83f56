"""What a cluster costs beyond the work of its nodes: searches over workers of this machine.

The same rows are searched in this process and over a local cluster, in turn; the answers must be
the same. Overhead is the wall time of a call less the sum of the times that the nodes worked, which
is what a call would take at least if they shared one core.

    python benchmarks/cluster.py [--workers 4] [--rows 80000] [--rounds 20] [--write]
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

import gpuvec as gv
from gpuvec.cluster_messages import NodeLine, Owner, Ping, RouteDelta
from gpuvec.data_messages import ReadPart, ReadPlan
from gpuvec.proxy.calls import TransportCalls
from gpuvec.proxy.router import Router
from gpuvec.types import NodeId, SegmentId

RESULTS = Path(__file__).parent / "results" / "cluster.json"
DIM = 128
SEGMENTS = 8
K = 10
ALLOWED = (0.003, 0.10)  # seconds, and of the nodes' work
SETTLED_S = 30.0
IN_A_ROW = 5


class _Instant:
    """Answers each call at once, with nothing."""

    def submit(self, node: NodeId, message: Any, *, deadline_s: float) -> "Future[Any]":
        future: Future[Any] = Future()
        future.set_result(message if isinstance(message, ReadPart) else None)
        return future


class _Question:
    def only(self, segments: Iterable[SegmentId], *, growing: bool) -> "_Question":
        return self


def router_alone(nodes: int = 4) -> dict[str, float]:
    """Return milliseconds of CPU of one question to four nodes that answer at once, by segments."""
    found = {}
    for count in (8, 100, 1_000, 10_000):
        router = Router("db", TransportCalls(_Instant()))
        names = [NodeId(f"n{number}") for number in range(nodes)]
        ids = [SegmentId(f"{number:026}") for number in range(count)]
        serving = {each: (names[n % nodes], names[(n + 1) % nodes]) for n, each in enumerate(ids)}
        router.apply(
            RouteDelta(
                identity="db", generation=1, epoch=1, whole=True, segments={"c": serving},
                nodes=tuple(NodeLine(node=n, incarnation="1", address="") for n in names),
                owners={"c": Owner(collection_id="c", node=names[0], address="", term=1)},
            )
        )  # fmt: skip
        plan = ReadPlan(
            collection_id="c", entry_id=1, version=1, growing_rows=0,
            segments=tuple((each, 1000) for each in ids),
        )  # fmt: skip
        times = max(3, 2000 // count)
        spent = []
        for _ in range(7):
            begun = time.process_time()
            for _ in range(times):
                router.ask(plan, _Question())
            spent.append((time.process_time() - begun) / times)
        found[f"{count} segments, 2 replicas"] = _ms(min(spent))
    return found


def pings(router: Router, rounds: int) -> float:
    """Return the median seconds of one call to every node at once that does nothing."""
    calls, nodes = router.directory.calls, list(router.directory.table.routes.nodes)
    spent = []
    for _ in range(rounds):
        begun, inbox = time.perf_counter(), calls.inbox()
        for node in nodes:
            calls.begin(node, Ping(), deadline_s=5.0, then=inbox.put)
        for _ in nodes:
            inbox.get(calls.now_s() + 5.0)
        spent.append(time.perf_counter() - begun)
    return statistics.median(spent)


def fill(items: gv.Collection, rows: int, segments: int) -> None:
    """Write made-up rows as segments of one size."""
    rng = np.random.default_rng(0)
    size = rows // segments
    for number in range(segments):
        ids = np.arange(number * size, (number + 1) * size)
        items.insert({"id": ids, "v": rng.standard_normal((size, DIM), dtype=np.float32)})
        items.flush()


def settle(router: Router, wanted: int) -> None:
    """Wait until so many segments have routes."""
    until = time.monotonic() + SETTLED_S
    while time.monotonic() < until:
        router.refresh()
        routes = router.directory.table.routes
        if sum(map(len, routes.segments.values())) >= wanted:
            return
        time.sleep(0.2)
    raise TimeoutError(f"{wanted} segments have no routes after {SETTLED_S:.0f} s")


def compare(
    here: gv.Collection, there: gv.Collection, queries: np.ndarray, rounds: int
) -> dict[str, Any]:
    """Search in this process and over the cluster, in turn, `IN_A_ROW` times each.

    The first call of each turn is not counted: it finds its data no longer in the cores' caches.
    Figures are medians.
    """

    def run(items: gv.Collection) -> tuple[float, Any]:
        begun = time.perf_counter()
        found = items.select("id").search(queries, k=K, exact=True).collect()
        return time.perf_counter() - begun, found

    same = run(here)[1].to_arrow().equals(run(there)[1].to_arrow())
    local, walls, works, longest, over = [], [], [], [], []
    for _ in range(rounds):
        run(here)
        local += [run(here)[0] for _ in range(IN_A_ROW)]
        run(there)
        for _ in range(IN_A_ROW):
            wall, found = run(there)
            worked = [node.worked_s for node in found.metrics.nodes.values()]
            walls.append(wall)
            works.append(sum(worked))
            longest.append(max(worked))
            over.append(wall - sum(worked))
    fixed, share = ALLOWED
    work = statistics.median(works)
    overhead = statistics.median(over)
    return {
        "same answer": same,
        "embedded ms": _ms(statistics.median(local)),
        "nodes": len(found.metrics.nodes),
        "cluster ms": _ms(statistics.median(walls)),
        "nodes' work ms": _ms(work),
        "of the slowest node ms": _ms(statistics.median(longest)),
        "overhead ms": _ms(overhead),
        "allowed ms": _ms(fixed + share * work),
        "within": overhead <= fixed + share * work,
    }


def timed(work: Callable[[], Any], rounds: int) -> float:
    """Return the median milliseconds of a call."""
    spent = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        spent.append(time.perf_counter() - begun)
    return _ms(statistics.median(spent))


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Return all figures of one run."""
    found: dict[str, Any] = {"router alone, CPU ms of a question": router_alone()}
    rng = np.random.default_rng(1)
    with gv.config.set(cluster__workers=args.workers):
        there = gv.connect(folder / "shop", cluster="local")
    with there:
        schema = gv.Schema({"id": gv.Int64(), "v": gv.Vector(DIM)}, primary_key="id")
        items = there.create_collection("items", schema)
        fill(items, args.rows, SEGMENTS)
        whole = there.create_collection("whole", schema)
        fill(whole, args.rows, 1)
        router = there._engine.router  # type: ignore[attr-defined]
        settle(router, SEGMENTS + 1)
        found["a call to all nodes that does nothing, ms"] = _ms(pings(router, args.rounds))
        with gv.connect(folder / "shop") as embedded:
            for count in args.queries:
                queries = rng.standard_normal((count, DIM), dtype=np.float32)
                line = compare(embedded["items"], items, queries, args.rounds)
                found[f"exact search of {count} queries"] = line
            queries = rng.standard_normal((1, DIM), dtype=np.float32)
            line = compare(embedded["whole"], whole, queries, args.rounds)
            found["exact search of 1 queries, one segment"] = line
        one = rng.standard_normal((1, DIM), dtype=np.float32)
        search = items.select("id").search(one, k=K, exact=True).collect
        found["one query by consistency, ms"] = {}
        for level in ("strong", "bounded", "session", "eventually"):
            with gv.config.set(consistency=level):
                found["one query by consistency, ms"][level] = timed(search, args.rounds)
        with gv.config.set(consistency="bounded", cluster__result_cache_bytes=1 << 26):
            found["one query from the result cache, ms"] = timed(search, args.rounds)
        found["count, ms"] = timed(items.count, args.rounds)
    return found


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 3)


def main(told: Sequence[str] | None = None) -> None:
    """Measure, print, and with `--write` keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--rows", type=int, default=80_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--queries", type=int, nargs="*", default=[1, 100, 1000])
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args(told)
    setting = {
        "command": "python benchmarks/cluster.py --write",
        "workers": args.workers,
        "rows": args.rows,
        "dim": DIM,
        "segments": SEGMENTS,
        "cores": os.cpu_count(),
        "load at the start": os.getloadavg()[0],
    }
    # Segments stay as they are written: else it would be chance how many nodes have some.
    os.environ["GPUVEC_COMPACT__SIZE_BYTES"] = str(args.rows // SEGMENTS * DIM * 4)
    with tempfile.TemporaryDirectory() as folder:
        found = {**setting, **measure(Path(folder), args)}
    print(json.dumps(found, indent=1))
    if args.write:
        known = json.loads(RESULTS.read_text())
        RESULTS.write_text(json.dumps({**found, "job": known.get("job")}, indent=1) + "\n")


if __name__ == "__main__":
    main()
