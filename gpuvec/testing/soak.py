"""A soak: four processes write, read and tidy one database for minutes, and die at any moment.

Two writers and a process for upkeep take turns as the one that writes, as the store has it: a
directory's lock is waited for, a bucket is taken over. A reader looks all the time. Every process
notes what it does outside the database; this one never opens it, kills, starts again, and compares
what was noted with a model while it goes on. At the end the rows, the tags and the files must be
those that the model, and the manifests, name.

    python -m gpuvec.testing.soak --minutes 30 [--channels 3] [--seed 1] [--folder PLACE]
"""

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import gpuvec as gv
from gpuvec.testing.servers import BUCKET, Server
from gpuvec.testing.soak_data import DIM, Journal, batch, schema
from gpuvec.testing.soak_files import look_at_files
from gpuvec.testing.soak_judge import Disagreement, Judge
from gpuvec.testing.soak_reader import Reader, read_for_ever
from gpuvec.testing.soak_writer import side_rows, write_for_ever

GRACE_S = 1.5  # more than a vacuum waits for files
_PATIENCE_S = 60.0  # for a process to end that was asked to
_LAST_LOOKS = 30
_ROLES = ("writer", "writer", "keeper", "reader")

_stopping = False


class Soak:
    """One database, four processes, and the judge.

    Args:
        folder: empty; the database lies in it, unless `endpoint` names an S3 server.
        endpoint: of that server, which has the tests' bucket.
        seed: of everything random but the moments of death, which the machine's pace decides.
        channels: of the collection.
    """

    def __init__(self, folder: Path, *, endpoint: str | None, seed: int, channels: int) -> None:
        self._journals = folder / "journals"
        self._journals.mkdir()
        self._place: dict[str, Any] = {"path": str(folder / "db")}
        if endpoint is not None:
            path = f"s3://{BUCKET}{folder.resolve()}"
            self._place = {"path": path, "storage_options": Server(endpoint).options}
        self._chance = random.Random(seed)
        self._first = seed * 1000
        self._number = 0
        self._channels = channels
        self._children: dict[int, tuple[str, int]] = {}  # process to role and number
        self._ending = False
        self.judge = Judge(self._journals)

    def run(self, seconds: float) -> dict[str, int]:
        """Soak for some seconds; return the counts.

        Raises:
            AssertionError: the database is not what was written, or a process found a fault.
        """
        self._alone(self._create)
        for role in _ROLES:
            self._start(role)
        until = time.monotonic() + seconds
        next_kill = time.monotonic() + 1
        try:
            while time.monotonic() < until:
                time.sleep(0.05)
                self._reap()
                if time.monotonic() >= next_kill:
                    self._disturb()
                    next_kill = time.monotonic() + self._chance.uniform(0.5, 4)
                self._follow()
            self._end_all()
        finally:
            for child in self._children:
                os.kill(child, signal.SIGKILL)
        self._follow()
        for work in (self._settle, self._look):
            self._number += 1
            self._alone(work)
        self._follow()
        self.judge.finish()
        return dict(sorted(self.judge.counts.items()))

    def _follow(self) -> None:
        self.judge.follow()
        if self.judge.failures:
            raise AssertionError("\n".join(self.judge.failures))

    # Processes

    def _start(self, role: str) -> None:
        self._number += 1
        number = self._first + self._number
        if role == "reader":
            child = _fork(lambda: read_for_ever(self._place, self._journals, number, _is_stopping))
        else:
            lanes = role == "writer"
            child = _fork(
                lambda: write_for_ever(
                    self._place, self._journals, number, lanes=lanes, stop=_is_stopping
                )
            )
        self._children[child] = (role, number)

    def _disturb(self) -> None:
        """Kill a process at once, or let it sleep for a while and find a changed world."""
        child = self._chance.choice(list(self._children))
        if self._chance.random() < 0.2:
            os.kill(child, signal.SIGSTOP)
            time.sleep(self._chance.uniform(0.1, 2 * GRACE_S))
            os.kill(child, signal.SIGCONT)
            self.judge.counts["stops"] += 1
            return
        os.kill(child, signal.SIGKILL)
        self.judge.counts["kills"] += 1
        os.waitpid(child, 0)
        self._start(self._buried(child))

    def _buried(self, child: int) -> str:
        """Note that a process is gone; return its role."""
        role, number = self._children.pop(child)
        self.judge.died(_journals_of(role, number))
        return role

    def _reap(self) -> None:
        """Bury processes that ended by themselves, which none should before it was asked to.

        Raises:
            AssertionError: one failed, or ended early.
        """
        for child in list(self._children):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                role = self._buried(child)
                self._follow()
                if status or not self._ending:
                    raise AssertionError(f"a {role} ended with status {status}")

    def _end_all(self) -> None:
        self._ending = True
        for child in self._children:
            os.kill(child, signal.SIGTERM)
        until = time.monotonic() + _PATIENCE_S
        while self._children and time.monotonic() < until:
            self._reap()
            time.sleep(0.05)
        if self._children:
            raise AssertionError(f"{list(self._children.values())} do not end")

    def _alone(self, work: Callable[[], None]) -> None:
        status = os.waitpid(_fork(work), 0)[1]
        self._follow()
        if status:
            raise AssertionError(f"{getattr(work, '__name__', work)} failed: see above")

    # What runs alone

    def _create(self) -> None:
        with gv.connect(**self._place) as db:
            db.create_collection("items", schema(), channels=self._channels)

    def _settle(self) -> None:
        """Decide what is still open, as the next session does, and a successor once more."""
        self._take_turns(2.0)

    def _look(self) -> None:
        """Read everything in the last session; then the files."""
        self._take_turns(0.5)
        number = self._first + self._number
        journal = Journal(self._journals / f"reader-{number:05d}")
        with gv.connect(**self._place) as db:
            reader = Reader(db, journal, random.Random(number))
            for _ in range(_LAST_LOOKS):
                reader.look()
        journal.note("count", **look_at_files(self._place))
        journal.close()

    def _take_turns(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        number = self._first + self._number
        is_over = lambda: time.monotonic() > until  # noqa: E731
        write_for_ever(self._place, self._journals, number, lanes=False, stop=is_over)


def _journals_of(role: str, number: int) -> str:
    return f"{'reader' if role == 'reader' else 'writer'}-{number:05d}"


def _warm_up() -> None:
    """Import and compile once, before the forks, what every process needs."""
    for name in gv.__all__:
        getattr(gv, name)
    with gv.connect("memory://soak") as db:
        items = db.create_collection("items", schema())
        for _ in range(2):
            items.upsert(batch(side_rows(1)), partition="p")
            items.update({"x": gv.col("x") + 1}, filter="lane == 0 and x < 30")
            items.delete(filter="x >= 30 and x < 33")
            items.flush()
        items.compact()
        items.create_index("x", gv.index.Sorted())
        items.search(np.zeros(DIM, np.float32), exact=True).collect()


def _is_stopping() -> bool:
    return _stopping


def _stop(*_: Any) -> None:
    global _stopping
    _stopping = True


def _fork(work: Callable[[], None]) -> int:
    """Run `work` in a fork; return its process id."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGTERM, _stop)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    return child


def main(arguments: list[str] | None = None) -> int:
    """Soak as the command line says; print the counts as JSON. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m gpuvec.testing.soak")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="kept; by default a new one, kept on failure")
    parser.add_argument("--endpoint", help="of an S3 server with the tests' bucket")
    given = parser.parse_args(arguments)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="gpuvec-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    gv.config.set(
        progress=False,
        cache__dir=str(folder / "cache"),
        store__grace_s=GRACE_S,
        store__retention_s=2 * GRACE_S,
        flush__size_bytes=1 << 16,
        flush__age_s=1.0,
        compact__size_bytes=1 << 19,
    )
    _warm_up()
    soak = Soak(folder, endpoint=given.endpoint, seed=given.seed, channels=given.channels)
    try:
        counts = soak.run(given.minutes * 60)
    except (AssertionError, Disagreement) as error:
        print(f"{error}\nseed {given.seed}; journals and database: {folder}", file=sys.stderr)
        return 1
    print(json.dumps(counts, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
