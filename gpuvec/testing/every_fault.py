"""Every fault at every store operation of a procedure of the whole engine, and what must hold then.

A case: a database that is sound; a new process opens it and runs one procedure, whose Nth store
operation meets a fault; then another process looks. What must hold:

* every step of the procedure that was answered is there, a step that failed is there or not, and
  nothing else changed, so no acknowledged row is lost and no write is there by half;
* the process that met the fault, if it lives, shows the same;
* `verify` finds nothing damaged: no manifest names a file that is not there;
* opening and reading take a bounded number of store operations;
* the other process can write, flush and collect.

A procedure is data: what there is before, and steps. What the steps do to the rows needs no model:
it is what they do without a fault.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import gpuvec as gv
from gpuvec.api.database import Database
from gpuvec.api.engine import Engine
from gpuvec.clock import ManualClock
from gpuvec.errors import GpuvecError
from gpuvec.query.session import Session, new_session
from gpuvec.storage.memory import MemoryStore
from gpuvec.testing.faults import Crash, Fault, FaultStore
from gpuvec.verify.report import Level
from gpuvec.verify.scan import Scan
from gpuvec.verify.walk import Walk

Step = Callable[[Database], Any]
Picture = Mapping[str, Any]  # what a reader of the whole database sees

_BOTH = (Fault.BEFORE, Fault.CRASH_BEFORE)
_WRITES = (*_BOTH, Fault.AFTER, Fault.CRASH_AFTER, Fault.DELAY)
# The faults that differ from others at an operation; a 503 is BEFORE, a lost answer AFTER.
FAULTS: Mapping[str, Sequence[Fault]] = {
    "get": (*_BOTH, Fault.MISSING),
    "get_range": (*_BOTH, Fault.MISSING),
    "size": (*_BOTH, Fault.MISSING),
    "list": _BOTH,
    "sync": _BOTH,
    "put": _WRITES,
    "delete": _WRITES,
    "put_if_absent": (*_WRITES, Fault.REPEATED, Fault.CONFLICT),
    "append": (*_WRITES, Fault.TORN, Fault.CRASH_TORN),
}
MOST_OPERATIONS = 120  # to open a database of these tests and read all its rows


class PlannedEngine(Engine):
    """An engine that writes on the calling thread and maintains nothing by itself."""

    def _submit(self, request: Any, deadline_s: float) -> Any:
        with self.writing():
            pass
        (answer,) = self._write_group(request.collection_id, [request])
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def beside(self, work: Callable[[], None]) -> Callable[[], None]:
        """Run `work` here and now, so that operations have one order."""
        work()
        return lambda: None


@dataclass(frozen=True, slots=True)
class Procedure:
    """What is tried out.

    Attributes:
        steps: each happens or does not.
        before: makes the database.
        crashes: whether it can be cut off by a crash: not where it has threads of its own.
    """

    steps: Sequence[Step]
    before: Sequence[Step] = ()
    crashes: bool = True


@dataclass(slots=True)
class Process:
    """One process with one database.

    Args:
        store: where it lies.
        hours: since the tests' beginning, by its clock.
    """

    store: Any
    hours: float = 0.0
    engine: Engine | None = None
    session: Session = field(default_factory=lambda: new_session(1 << 28, threads=1))

    def open(self) -> Database:
        """Open the database."""
        clock = ManualClock()
        clock.advance(3600 * self.hours)
        self.engine = PlannedEngine(
            self.store, "here", durability="fsync", clock=clock, flush_bytes=1 << 20, age_s=1e9
        )
        return Database("of a test", self.engine, self.session)

    def end(self) -> None:
        """Let go of the lock and of threads, as the end of a process does."""
        if self.engine is not None:
            with suppress(Crash, GpuvecError):
                self.engine.leases.stop()
            self.engine.abandon()


def copy_of(store: MemoryStore, *, appendable: bool) -> MemoryStore:
    """Return a store that holds the same."""
    found = MemoryStore(appendable=appendable)
    for key in store.list(""):
        if key.endswith(".log"):
            found.append(key, store.get(key))
        else:
            found.put(key, [store.get(key)])
    return found


def picture(db: Database) -> Picture:
    """Return all that a reader sees, after checks that each vector is its own row's."""
    found: dict[str, Any] = {"": db.aliases()}
    for name in db.collections():
        items = db[name]
        table = items.to_arrow()
        rows = {row.pop("id"): row for row in table.to_pylist()}
        assert len(rows) == table.num_rows, "a key is there twice"
        for key, row in rows.items():
            assert row.pop("v") == [key, key], "a vector is another row's"
        found[name] = (tuple(items.schema.fields), rows, tuple(items.tags))
    return found


@dataclass(slots=True)
class Trial:
    """A procedure on one kind of store.

    Args:
        procedure: to try out.
        appendable: whether logs are files.
    """

    procedure: Procedure
    appendable: bool
    base: MemoryStore = field(init=False)
    pictures: list[Picture] = field(init=False)  # after each number of steps
    operations: list[str] = field(init=False)  # their kinds

    def __post_init__(self) -> None:
        self.base = MemoryStore(appendable=self.appendable)
        first = Process(self.base)
        db = first.open()
        for step in self.procedure.before:
            step(db)
        db._engine.close()
        first.end()
        self.pictures = []
        self._without_fault(lambda db: self.pictures.append(picture(db)))
        self.operations = self._without_fault(lambda _: None)

    def _without_fault(self, look: Step) -> list[str]:
        """Run the procedure; return the kinds of its store operations."""
        store = FaultStore(copy_of(self.base, appendable=self.appendable))
        process = Process(store, 1)
        db = process.open()
        look(db)
        for step in self.procedure.steps:
            step(db)
            look(db)
        db._engine.close()
        process.end()
        return [name for name, _ in store.operations]

    def cases(self) -> Iterator[tuple[int, Fault]]:
        """Yield the number of an operation and its fault, of all cases."""
        for number, name in enumerate(self.operations):
            for fault in FAULTS[name]:
                if self.procedure.crashes or not fault.name.startswith("CRASH"):
                    yield number, fault

    def check(self, number: int, fault: Fault) -> None:
        """Run one case; `AssertionError` when something does not hold."""
        inner = copy_of(self.base, appendable=self.appendable)
        store = FaultStore(inner, {number: fault})
        process = Process(store, 1)
        try:
            possible, db = self._run(process)
            store.heal()
            if db is not None:
                shown = picture(db)
            process.end()
            found = self._look(inner)
            assert found in possible, "acknowledged rows are gone, or others came back"
            assert db is None or shown == found, "what was shown is not what is there"
            self._go_on(inner, found)
        except BaseException as error:
            begun = store.operations[number] if number < len(store.operations) else "not begun"
            error.add_note(f"{fault.name} at {number}: {begun}")
            raise
        finally:
            process.end()

    def _run(self, process: Process) -> tuple[list[Picture], Database | None]:
        """Take the steps; return what may be there now, and the database if its process lives."""
        done, unknown = 0, 0
        db = None
        try:
            db = process.open()
            for step in self.procedure.steps:
                try:
                    step(db)
                except GpuvecError as error:
                    unknown = int(error.details.get("outcome") != "none")
                    break
                except Crash:
                    unknown = 1
                    raise
                done += 1
            else:
                db._engine.close()
                db = process.open()
        except GpuvecError:
            db = None
        except Crash:
            db = None
        return self.pictures[done : done + 1 + unknown], db

    def _look(self, inner: MemoryStore) -> Picture:
        """Return what another process sees, which reads and does not write."""
        counted = FaultStore(inner)
        reader = Process(counted, 2)
        found = picture(reader.open())
        reader.end()
        assert len(counted.operations) <= MOST_OPERATIONS, Counter(n for n, _ in counted.operations)
        report = Walk(Scan(inner, lambda _: None), "here").report()
        damage = [finding for finding in report.findings if finding.level is not Level.NOTE]
        assert not damage, f"a dead reference: {damage}"
        return found

    def _go_on(self, inner: MemoryStore, found: Picture) -> None:
        """Let another process write, flush and collect."""
        process = Process(inner, 3)
        db = process.open()
        if "items" in db:
            items = db["items"]
            items.upsert({"id": [1000], "n": [1000], "v": [[1000.0, 1000.0]]})
            items.flush()
            items.vacuum("0s")
            rows = {row["id"] for row in items.select("id").to_arrow().to_pylist()}
            assert rows == {*found["items"][1], 1000}
        db._engine.close()
        process.end()
        report = Walk(Scan(inner, lambda _: None), "here").report()
        damage = [finding for finding in report.findings if finding.level is not Level.NOTE]
        assert not damage, f"after going on: {damage}"


SCHEMA = gv.Schema(
    {
        "id": gv.Int64(),
        "n": gv.Int32(),
        "word": gv.String(nullable=True),
        "v": gv.Vector(2, metric="l2"),
    },
    "id",
)


def rows(*ids: int, n: int = 0) -> dict[str, Any]:
    """Return rows whose vectors repeat their key."""
    keys = np.array(ids, np.int64)
    vectors = np.repeat(keys[:, None], 2, axis=1).astype(np.float32)
    return {"id": keys, "n": np.full(len(ids), n, np.int32), "v": vectors}
