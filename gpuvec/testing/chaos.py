"""Chaos: writes, searches and a batch job on a cluster whose processes die, hang and are slow.

Every answer is checked against what any version of the rows could give, and at the end each
acknowledged row must be there, on the cluster and for a process of its own. Of ten thousand calls
fewer than ten may end with an error, and only with one that says "retry". Prints what was done,
which errors came, and how long the cluster took to answer after each event.

    python -m gpuvec.testing.chaos --minutes 5 [--seed 1] [--workers 4] [--bucket]
"""

import argparse
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

import gpuvec as gv
from gpuvec.testing.chaos_model import DIM, RowModel, Violation
from gpuvec.testing.chaos_processes import Processes
from gpuvec.testing.servers import Server, moto_server

K = 10
BATCH = 20
SETTINGS = {"GPUVEC_FLUSH__SIZE_BYTES": "200000", "GPUVEC_FLUSH__AGE_S": "5"}
_READY_S = 120.0
_JOB_QUERIES = 400
_PAUSE_S = 0.005  # of each caller, between its calls
SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(DIM, metric="l2")}, primary_key="id")
ENOUGH = 10_000  # calls, from which a share of errors means something
ALLOWED = 0.001  # share of calls that may end with a retryable error


class Chaos:
    """One cluster, its load, and the record of both.

    Args:
        folder: empty.
        seed: of what happens.
        workers: processes of the cluster.
        server: with a bucket for the database; None: it lies in the folder.
    """

    def __init__(
        self, folder: Path, *, seed: int, workers: int, server: Server | None = None
    ) -> None:
        self._folder = folder
        self._place: dict[str, Any] = {"path": folder / "db"}
        if server is not None:
            self._place = {"path": server.new_url(), "storage_options": server.options}
        self._chance = random.Random(seed)
        self._model = RowModel()
        self._stop = threading.Event()
        self._calls: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._faults: list[str] = []
        self._answered: dict[str, list[tuple[float, float]]] = {"read": [], "write": []}
        self._events: list[tuple[float, str]] = []
        logs = folder / "logs"
        logs.mkdir()
        self._processes = Processes(logs, workers=workers, settings=SETTINGS)

    def run(self, seconds: float) -> dict[str, Any]:
        """Let it go on for some seconds; return the figures.

        Raises:
            Violation: an answer was wrong, an error was none that may come, or a row is lost.
        """
        _compile(self._folder / "compile")
        try:
            with gv.connect(**self._place, cluster=self._processes.address) as db:
                items = self._create(db)
                self._load(db, items, seconds)
                self._settle(items)
                self._check_job(self._finished().to_arrow())
        finally:
            self._processes.close()
        with gv.connect(**self._place) as alone:
            begun = time.monotonic()
            ids = alone["items"].select("id").to_arrow().column("id").to_numpy()
            self._model.check_ids(ids, begun, time.monotonic())
        return self._figures(len(ids))

    def _create(self, db: gv.Database) -> gv.Collection:
        until_s = time.monotonic() + _READY_S
        while True:
            try:
                items = db.create_collection("items", SCHEMA, exist_ok=True)
                self._insert(items, 2000)
            except gv.UnavailableError:  # workers are still coming
                if time.monotonic() > until_s:
                    raise
            else:
                return items

    def _load(self, db: gv.Database, items: gv.Collection, seconds: float) -> None:
        queries = np.random.default_rng(5).random((_JOB_QUERIES, DIM), np.float32)
        self._queries, self._job_version = queries, items.version
        self._job_ids = self._model.living()
        frame = items.at(version=self._job_version).search(queries, k=K, exact=True)
        self._job = frame.select("query_id", "rank", "id").submit(
            self._folder / "out", part_rows=10
        )
        works = [self._write, self._write, self._search, self._search, *[self._count] * 5]
        threads = [
            threading.Thread(target=self._again, args=(work, items), name=f"chaos-{number}")
            for number, work in enumerate(works)
        ]
        for thread in threads:
            thread.start()
        try:
            self._happen(seconds)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        if self._faults:
            raise Violation("\n".join(self._faults))

    # What happens to processes

    def _happen(self, seconds: float) -> None:
        begun_s = time.monotonic()
        scheduler_s = begun_s + seconds / 2
        while time.monotonic() < begun_s + seconds and not self._faults:
            time.sleep(self._chance.uniform(3, 8))
            name = self._chance.choice(self._processes.names)
            if time.monotonic() > scheduler_s:
                scheduler_s = float("inf")
                self._note("restart of the scheduler")
                self._processes.restart_scheduler(pause_s=1.0)
                continue
            what = self._chance.choice(["kill", "kill", "stop", "slow"])
            self._note(what)
            if what == "kill":
                self._processes.kill_worker(name)
            elif what == "stop":
                self._processes.stop_worker(name, self._chance.uniform(1, 8))
            else:
                self._processes.slow_worker(name, 4.0, chance=self._chance)

    def _note(self, what: str) -> None:
        self._events.append((time.monotonic(), what))

    # Load

    def _again(self, work: Callable[[gv.Collection, random.Random], None], items: Any) -> None:
        chance = random.Random(threading.current_thread().name)
        while not self._stop.is_set() and not self._faults:
            name = work.__name__.strip("_")
            self._calls[name] += 1
            begun = time.monotonic()
            try:
                work(items, chance)
            except gv.GpuvecError as error:
                self._errors[f"{name}: {error.code} {type(error).__name__}"] += 1
                if not error.details.get("retryable"):
                    self._faults.append(f"{name}: {error}")
            except Violation as error:
                self._faults.append(f"{name}: {error}")
            except Exception as error:
                self._faults.append(f"{name}: {type(error).__name__}: {error}")
            else:
                kind = "write" if name == "write" else "read"
                self._answered[kind].append((begun, time.monotonic()))
            time.sleep(_PAUSE_S)

    def _write(self, items: gv.Collection, chance: random.Random) -> None:
        if chance.random() < 0.75:
            self._insert(items, BATCH)
            return
        living = self._model.living()
        ids = np.sort(np.asarray(chance.sample(living.tolist(), min(5, len(living)))))
        self._model.deleting(ids)
        try:
            items.delete(ids=ids.tolist())
        except gv.GpuvecError as error:
            if error.details.get("outcome") == "none":
                self._model.kept(ids)
            raise
        self._model.deleted(ids)

    def _insert(self, items: gv.Collection, count: int) -> None:
        first, vectors = self._model.inserting(count)
        try:
            items.insert({"id": np.arange(first, first + count), "v": vectors})
        except gv.GpuvecError as error:
            if error.details.get("outcome") == "none":
                self._model.withdrawn(first, count)
            raise
        self._model.inserted(first, count)

    def _search(self, items: gv.Collection, chance: random.Random) -> None:
        queries = np.random.default_rng(chance.randrange(1 << 30)).random((2, DIM), np.float32)
        begun = time.monotonic()
        found = items.select("id").search(queries, k=K, exact=True).to_arrow()
        ended = time.monotonic()
        asked, ids = found.column("query_id").to_numpy(), found.column("id").to_numpy()
        distances = found.column("distance").to_numpy()
        for number, query in enumerate(queries):
            mine = asked == number
            self._model.check_nearest(
                query, ids[mine], distances[mine], k=K, begun=begun, ended=ended
            )

    def _count(self, items: gv.Collection, chance: random.Random) -> None:
        begun = time.monotonic()
        self._model.check_count(items.count(), begun, time.monotonic())

    # The end

    def _settle(self, items: gv.Collection) -> None:
        begun = time.monotonic()
        ids = items.select("id").to_arrow().column("id").to_numpy()
        self._model.check_ids(ids, begun, time.monotonic())

    def _finished(self) -> gv.Frame:
        """Return what the job found; a new scheduler takes some time to go on with it."""
        until_s = time.monotonic() + _READY_S
        while True:
            try:
                found: gv.Frame = self._job.wait(_READY_S)
            except gv.JobError as error:
                if error.code != "GV-772" or time.monotonic() > until_s:
                    raise
                time.sleep(0.5)
            else:
                return found

    def _check_job(self, found: Any) -> None:
        """Each query is answered once, by the nearest rows of the version that was named."""
        asked, ids = found.column("query_id").to_numpy(), found.column("id").to_numpy()
        if not np.array_equal(asked, np.repeat(np.arange(_JOB_QUERIES), K)):
            raise Violation("the job does not answer each query once, in order")
        for number, query in enumerate(self._queries):
            far = np.linalg.norm(self._model.vectors(self._job_ids) - query, axis=1)
            told = np.linalg.norm(self._model.vectors(ids[asked == number]) - query, axis=1)
            if not np.allclose(np.sort(far)[:K], told, atol=1e-4):
                raise Violation(f"query {number} of the job has other neighbours")

    def _figures(self, rows: int) -> dict[str, Any]:
        calls, failed = sum(self._calls.values()), sum(self._errors.values())
        recovery: dict[str, list[float]] = {}
        for at, what in self._events:
            for kind, answered in self._answered.items():
                after = min((ended - at for begun, ended in answered if begun >= at), default=-1.0)
                recovery.setdefault(f"{what}, until a {kind}", []).append(after)
        return {
            "calls": dict(self._calls),
            "errors": dict(self._errors),
            "share of errors": round(failed / max(1, calls), 5),
            "few enough errors": "not known: too few calls"
            if calls < ENOUGH
            else failed < ALLOWED * calls,
            "rows at the end": rows,
            "workers started again": self._processes.restarts,
            "slowest call s": {
                kind: round(max(ended - begun for begun, ended in answered), 2)
                for kind, answered in self._answered.items()
            },
            "recovery s": {
                what: {
                    "events": len(times),
                    "median": round(float(np.median(times)), 3),
                    "most": round(max(times), 3),
                }
                for what, times in sorted(recovery.items())
            },
        }


def _compile(folder: Path) -> None:
    """Have what workers will use of compiled code in the cache that processes of a machine share.

    On a machine that never ran it, compiling would be what is measured.
    """
    vectors = np.random.default_rng(0).random((82_000, DIM), np.float32)
    with gv.connect(folder) as db:
        items = db.create_collection("items", SCHEMA)
        for start, stop in ((0, 2000), (2000, 22_000), (22_000, 82_000)):
            items.insert({"id": np.arange(start, stop), "v": vectors[start:stop]})
            _ask(items, vectors)
            items.flush()
            _ask(items, vectors)
            items.delete(ids=[start, start + 1])
            _ask(items, vectors)


def _ask(items: gv.Collection, vectors: Any) -> None:
    for count in (1, 2, 10, _JOB_QUERIES):
        items.select("id").search(vectors[:count], k=K, exact=True).to_arrow()


def main(told: Sequence[str] | None = None) -> int:
    """Run; print the figures; 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--bucket", action="store_true", help="in an S3 server of this process")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(told)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="gpuvec-chaos-"))
    folder.mkdir(exist_ok=True)
    try:
        with moto_server() if args.bucket else nullcontext() as server:
            chaos = Chaos(folder, seed=args.seed, workers=args.workers, server=server)
            found = chaos.run(args.minutes * 60)
    except Violation as error:
        print(f"WRONG: {error}\nlogs and database: {folder}", file=sys.stderr)
        return 1
    command = f"python -m gpuvec.testing.chaos --minutes {args.minutes:g} --seed {args.seed}"
    command += " --bucket" if args.bucket else ""
    text = json.dumps({"command": command, "load": os.getloadavg()[1], **found}, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")
    return int(found["few enough errors"] is False)


if __name__ == "__main__":
    sys.exit(main())
