"""A soak's writing processes: lanes of writes, changes of everything, upkeep; session by session.

A session becomes the writer, reads all rows at the version of its first write, and from there on
knows what its lanes must hold. Every step is noted before it is taken and after it was answered.
"""

import random
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import gpuvec as gv
from gpuvec.testing.model import ModelCollection, Row
from gpuvec.testing.soak_data import (
    EXTRA,
    LANES,
    MARK,
    SIDE_ROWS,
    Event,
    Journal,
    apply,
    batch,
    lane_sums,
    model_sum,
    partition_of,
    rows_in,
    rows_of,
    schema,
)

OPS_PER_SESSION = 100_000
_MOST_ROWS = 1500  # of a lane
_MOST_TAGS = 4
_TAKEN = {"GV-602"}  # another process writes
_REPLACED = {"GV-538"}  # another process took over


class Replaced(Exception):
    """Another process writes now; what became of the last step is not known here."""


def is_replaced(error: gv.GpuvecError) -> bool:
    """Return whether an error says that another process became the writer."""
    return error.code in _REPLACED


class Session:
    """One turn of a process as the writer.

    Args:
        place: what `gv.connect` takes.
        journal: what is done is noted there.
        number: of the session, unique.
        chance: for everything random.
    """

    def __init__(
        self, place: dict[str, Any], journal: Journal, number: int, chance: random.Random
    ) -> None:
        self._place = place
        self._journal = journal
        self._next_op = number * OPS_PER_SESSION
        self._chance = chance
        self._stop = threading.Event()
        self._locks = [threading.Lock() for _ in range(LANES)]
        self._models: list[ModelCollection] = []
        self._numbers = threading.Lock()

    def run(self, seconds: float, *, lanes: bool, stop: Callable[[], bool]) -> bool:
        """Write for some seconds, or until `stop`; return False if another process writes."""
        with gv.connect(**self._place) as db:
            items = db["items"]
            if not self._begin(db, items):
                return False
            works = [partial(self._maintain, db, items, 0.15 if lanes else 0.02)]
            if lanes:
                works += [partial(self._write, items, lane) for lane in range(LANES)]
            threads = [threading.Thread(target=self._guard, args=(work,)) for work in works]
            for thread in threads:
                thread.start()
            until = time.monotonic() + seconds
            while time.monotonic() < until and not self._stop.is_set() and not stop():
                time.sleep(0.02)
            self._stop.set()
            for thread in threads:
                thread.join()
            done = items.stats()["maintenance"]
            self._journal.note("count", background=done["compactions"], waits=done["waits"])
            self._journal.note("end")
        return True

    def _begin(self, db: Any, items: Any) -> bool:
        """Become the writer; note what is there then."""
        number = self._number()
        row = {"key": MARK, "lane": MARK, "op": number, "vop": number, "x": 0}
        extra = EXTRA in items.schema.fields
        try:
            version = items.upsert(batch([{**row, **({EXTRA: 0} if extra else {})}])).version
        except gv.GpuvecError as error:
            if error.code in _TAKEN or is_replaced(error):
                return False
            if error.code == "GV-104" or isinstance(error, gv.SchemaError):
                return False  # the fields have changed meanwhile
            raise
        try:
            table = items.at(version=version).to_arrow()
            tags, names = items.tags, db.collections()
        except gv.GpuvecError as error:
            if isinstance(error, gv.SnapshotExpiredError):
                return False  # this process was replaced, and asleep for long
            raise
        rows = rows_of(table)
        mark = [row["op"] for row in rows if row["key"] == MARK]
        assert mark == [number], f"the row of this session is {mark}, not {number}"
        for lane in range(LANES):
            model = ModelCollection("key", {EXTRA: 0} if EXTRA in table.column_names else {})
            model.upsert(row for row in rows if row["lane"] == lane)
            self._models.append(model)
        self._journal.note(
            "sync",
            version=version,
            sums=lane_sums(table),
            extra=EXTRA in table.column_names,
            tags=tags,
            side=[name for name in names if name != "items"],
            rows=len(rows) - 1,
        )
        return True

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Replaced:
            pass
        except gv.GpuvecError as error:
            if not is_replaced(error):
                self._journal.note("failed", text=traceback.format_exc())
        except BaseException:
            self._journal.note("failed", text=traceback.format_exc())
        finally:
            self._stop.set()

    def _number(self) -> int:
        with self._numbers:
            self._next_op += 1
            return self._next_op

    @contextmanager
    def _step(self, event: Event) -> Iterator[Event]:
        """Note a step before and after; what the block puts into the event is noted then."""
        self._journal.note("try", **event)
        answer: Event = {}
        try:
            yield answer
        except gv.GpuvecError as error:
            if is_replaced(error):
                self._stop.set()
                raise Replaced from error
            raise
        self._journal.note("done", op=event["op"], **answer)

    # Lanes

    def _write(self, items: Any, lane: int) -> None:
        chance = random.Random(self._chance.random())
        model = self._models[lane]
        steps = 0
        while not self._stop.is_set():
            with self._locks[lane]:
                if self._stop.is_set():
                    return
                event = self._lane_event(chance, lane, model)
                with self._step(event) as answer:
                    result = _take(items, event)
                    if result is None:
                        answer |= {"until": items.version}
                    else:
                        answer |= {"version": result.version}
                wanted = apply(model, event)
                if result is not None:
                    got = (result.inserted, result.updated, result.deleted)
                    assert got == wanted, f"{event}: {got}, not {wanted}"
                steps += 1
                if steps % 10 == 0:
                    table = items.filter(f"lane == {lane}").to_arrow()
                    assert lane_sums(table)[lane] == model_sum(model), "not what was written"
                    self._journal.note("count", own_reads=1)
            time.sleep(chance.choice([0, 0, 0.002, 0.02]))

    def _lane_event(self, chance: random.Random, lane: int, model: ModelCollection) -> Event:
        number, keys = self._number(), list(model.rows)
        event: Event = {"op": number, "lane": lane}
        if EXTRA in model.defaults:
            event[EXTRA] = number % 100
        known = chance.sample(keys, min(len(keys), chance.choice([1, 5, 50])))
        fresh = [number * 256 + i for i in range(chance.choice([1, 3, 20, 200]))]
        if len(keys) > _MOST_ROWS:
            return {**event, "kind": "delete", "keys": chance.sample(keys, len(keys) // 2)}
        kind = chance.choice(
            ["insert", "insert", "skip", "upsert", "upsert", "upsert", "update", "delete"]
            + ["delete_where"] * (chance.random() < 0.3)
            + ["drop_partition"] * (chance.random() < 0.02 and lane > 0)
        )
        if kind == "insert":
            return {**event, "kind": kind, "rows": [[key, chance.randrange(100)] for key in fresh]}
        if kind in ("skip", "upsert"):
            rows = [[key, chance.randrange(100)] for key in known + fresh[: len(known) // 4 + 1]]
            return {**event, "kind": kind, "rows": rows}
        if kind == "update":
            return {**event, "kind": kind, "below": chance.choice([0, 2, 30]), "plus": 3}
        if kind == "delete":
            return {**event, "kind": kind, "keys": known}
        low = chance.randrange(100)
        return {**event, "kind": kind, "low": low, "high": low + 4}

    # Changes of all, and upkeep

    def _maintain(self, db: Any, items: Any, pause_s: float) -> None:
        chance = random.Random(self._chance.random())
        light = [self._compact, self._vacuum, self._index, lambda *_: items.flush()]
        changes = [self._tag, self._untag, self._restore, self._field, self._side]
        while not self._stop.wait(chance.uniform(0, 2 * pause_s)):
            chance.choice(light if chance.random() < 0.7 else changes)(chance, db, items)

    def _compact(self, _: random.Random, __: Any, items: Any) -> None:
        report = items.compact()
        done = int(report.bytes_written > 0 or report.rows_removed > 0)
        self._journal.note("count", compactions=done, rows_removed=report.rows_removed)

    def _vacuum(self, chance: random.Random, _: Any, items: Any) -> None:
        report = items.vacuum(chance.choice(["0s", "1s", None]))
        self._journal.note(
            "count",
            vacuums=1,
            files_deleted=report.files_deleted,
            rows_removed=report.rows_removed,
        )

    def _index(self, chance: random.Random, _: Any, items: Any) -> None:
        field, index = chance.choice(
            [
                ("v", gv.index.HNSW(m=4, ef_construction=16)),
                ("v", gv.index.IVFFlat(n_lists=4)),
                ("v", None),
                ("x", gv.index.Sorted()),
                ("t", gv.index.Bitmap()),
            ]
        )
        if index is None:
            with suppress(gv.NotFoundError):
                items.drop_index(field)
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", gv.RecallWarning)
            try:
                items.create_index(field, index, recall=0.8)
            except gv.JobError:
                items.flush()  # tells a writer that was replaced so
                raise
        self._journal.note("count", indexes=1)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no lane write meanwhile."""
        with ExitStack() as stack:
            for lock in self._locks:
                stack.enter_context(lock)
            if self._stop.is_set():
                raise Replaced
            yield

    def _tag(self, _: random.Random, __: Any, items: Any) -> None:
        with self._alone():
            number = self._number()
            if len(items.tags) < _MOST_TAGS:
                name = f"t{number}"
                with self._step({"op": number, "kind": "tag", "name": name}) as answer:
                    answer |= {"tagged": items.tag(name)}

    def _untag(self, chance: random.Random, _: Any, items: Any) -> None:
        with self._alone():
            tags = items.tags
            if len(tags) == _MOST_TAGS:
                name = chance.choice(sorted(tags))
                with self._step({"op": self._number(), "kind": "untag", "name": name}):
                    items.untag(name)

    def _restore(self, chance: random.Random, _: Any, items: Any) -> None:
        with self._alone():
            tags = items.tags
            if not tags or chance.random() < 0.5:
                return
            event = {"op": self._number(), "kind": "restore", "name": chance.choice(sorted(tags))}
            try:
                with self._step(event) as answer:
                    answer |= {"version": items.restore(tag=event["name"]).version}
            except gv.SchemaError as error:
                if error.code != "GV-647":
                    raise
                self._journal.note("refused", op=event["op"])
                return
            rows = rows_of(items.to_arrow())
            for lane, model in enumerate(self._models):
                model.truncate()
                model.upsert(row for row in rows if row["lane"] == lane)

    def _field(self, chance: random.Random, _: Any, items: Any) -> None:
        with self._alone():
            there = EXTRA in items.schema.fields
            if chance.random() < 0.5:
                return
            event: Event = {"op": self._number(), "kind": "drop_field" if there else "add_field"}
            if not there:
                event["default"] = chance.randrange(1, 9)
            with self._step({**event, "since": items.version}) as answer:
                if there:
                    items.drop_field(EXTRA)
                else:
                    items.add_field(EXTRA, gv.Int64(), event["default"])
                answer |= {"until": items.version}
            for model in self._models:
                if there:
                    model.drop_field(EXTRA)
                else:
                    model.add_field(EXTRA, event["default"])

    def _side(self, _: random.Random, db: Any, __: Any) -> None:
        number = self._number()
        names = [name for name in db.collections() if name != "items"]
        if names:
            with self._step({"op": number, "kind": "drop", "name": names[0]}):
                db.drop_collection(names[0])
            return
        name = f"side{number}"
        with self._step({"op": number, "kind": "create", "name": name}):
            side = db.create_collection(name, schema(), data=batch(side_rows(number)))
            side.flush()


def side_rows(number: int) -> list[Row]:
    """Return the rows that a second collection is made with."""
    pairs = [[key, key % 100] for key in range(SIDE_ROWS)]
    return rows_in({"op": number, "lane": 0, "rows": pairs})


def _take(items: Any, event: Event) -> Any:
    """Do a lane's write; return its result, None if it has none."""
    kind, lane = event["kind"], event["lane"]
    partition = partition_of(lane)
    if kind == "insert":
        return items.insert(batch(rows_in(event)), partition=partition)
    if kind == "skip":
        return items.insert(batch(rows_in(event)), partition=partition, on_conflict="skip")
    if kind == "upsert":
        return items.upsert(batch(rows_in(event)), partition=partition)
    if kind == "update":
        values = {"x": gv.col("x") + event["plus"], "op": event["op"]}
        return items.update(values, filter=f"lane == {lane} and x < {event['below']}")
    if kind == "delete":
        return items.delete(ids=event["keys"])
    if kind == "delete_where":
        low, high = event["low"], event["high"]
        return items.delete(filter=f"lane == {lane} and x >= {low} and x < {high}")
    if partition in items.partitions:
        items.drop_partition(partition)
    return None


def write_for_ever(
    place: dict[str, Any], folder: Path, number: int, *, lanes: bool, stop: Callable[[], bool]
) -> None:
    """Take turns as the writer until `stop`; `number` is that of this process, unique."""
    chance = random.Random(number)
    turn = 0
    while not stop():
        path = folder / f"writer-{number:05d}-{turn:05d}"
        journal = Journal(path)
        journal.note("open")
        seconds = chance.uniform(1.0, 4.0) if lanes else chance.uniform(0.5, 2.0)
        session = Session(place, journal, number * 1000 + turn, chance)
        try:
            began = session.run(seconds, lanes=lanes, stop=stop)
        except BaseException:
            journal.note("failed", text=traceback.format_exc())
            raise
        journal.close()
        if began:
            turn += 1
            time.sleep(chance.uniform(0, 0.3))
        else:
            time.sleep(chance.uniform(0.02, 0.1))
