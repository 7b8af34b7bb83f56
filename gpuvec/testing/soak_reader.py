"""A soak's reading processes: what they see must fit together, whoever writes meanwhile."""

import random
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import gpuvec as gv
from gpuvec.testing.soak_data import DIM, LANES, MARK, SIDE_ROWS, Journal, lane_sums, vectors

_K = 10
_HELD_S = 3.0  # a handle on a version is read again so much later


class Reader:
    """Reads one connection in many ways; `AssertionError` where answers contradict each other.

    Args:
        db: the connection.
        journal: what was seen is noted there, for comparison with what was written.
        chance: for everything random.
    """

    def __init__(self, db: Any, journal: Journal, chance: random.Random) -> None:
        self._db = db
        self._items = db["items"]
        self._journal = journal
        self._chance = chance
        self._newest = 0
        self._held: tuple[float, Any, pa.Table] | None = None

    def look(self) -> None:
        """Take one look of a random kind."""
        alone = [self._see, self._see_plain, self._see_side, self._see_versions, self._see_again]
        tagged = [self._see_tag, self._join, self._differ]
        look = self._chance.choice([*alone, *tagged])
        try:
            look()
        except gv.SnapshotExpiredError:
            self._journal.note("count", expired=1)
        self._journal.note("count", looks=1)

    def _handle(self) -> Any:
        """Return the collection at its newest version, which is never older than before."""
        version = self._items.version
        assert version >= self._newest, f"version {version} after {self._newest}"
        self._newest = version
        return self._items.at(version=version)

    def _read(self, handle: Any) -> pa.Table:
        table = handle.to_arrow()
        self._note(table, handle.version, handle.version)
        return table

    def _note(self, table: pa.Table, since: int, until: int) -> None:
        self._journal.note("see", since=since, until=until, sums=lane_sums(table))

    def _see(self) -> None:
        handle = self._handle()
        self._search(handle, self._read(handle))
        if self._held is None and self._chance.random() < 0.3:
            self._held = (time.monotonic(), handle, handle.to_arrow())

    def _see_again(self) -> None:
        """A handle on a version reads the same later, or says that it cannot be read."""
        if self._held is None or time.monotonic() < self._held[0] + _HELD_S:
            return
        (_, handle, before), self._held = self._held, None
        after = handle.to_arrow()
        assert after.sort_by("key").equals(before.sort_by("key")), f"{handle.version} has changed"
        self._journal.note("count", read_again=1)

    def _see_plain(self) -> None:
        since = self._items.version
        table = self._items.to_arrow()
        self._note(table, since, self._items.version)

    def _tag(self) -> str | None:
        tags = sorted(self._items.tags)
        return self._chance.choice(tags) if tags else None

    def _at_tag(self) -> Any:
        name = self._tag()
        with suppress(gv.NotFoundError):  # untagged meanwhile
            return None if name is None else self._items.at(tag=name)
        return None

    def _see_tag(self) -> None:
        handle = self._at_tag()
        if handle is not None:
            self._search(handle, self._read(handle))
            self._journal.note("count", tags_read=1)

    def _search(self, handle: Any, table: pa.Table) -> None:
        """Search in several ways; compare with plain arithmetic on the whole table."""
        keys, x = table["key"].to_numpy(), table["x"].to_numpy()
        rows = vectors(keys, table["vop"].to_numpy()).astype(np.int64)
        bound, lane = self._chance.randrange(110), self._chance.randrange(LANES)
        for text, keep in (
            ("key != -1", keys != MARK),
            (f"x < {bound}", x < bound),
            (f"lane == {lane} and x >= {bound}", (table["lane"].to_numpy() == lane) & (x >= bound)),
            ("t in ['w1', 'w3']", np.isin(table["vop"].to_numpy() % 5, [1, 3])),
        ):
            query = np.array([self._chance.randrange(-8, 8) for _ in range(DIM)])
            far = ((rows - query) ** 2).sum(axis=1)
            true = sorted(zip(far[keep].tolist(), keys[keep].tolist(), strict=True))
            chosen = handle.filter(text)
            assert chosen.count() == len(true), f"{text}: {chosen.count()} rows, not {len(true)}"
            exact = chosen.search(query.astype(np.float32), k=_K, exact=True)
            assert _pairs(exact) == true[:_K], f"exact search with {text}"
            found = _pairs(chosen.search(query.astype(np.float32), k=_K))
            assert len(found) == min(_K, len(true)), f"{len(found)} of {len(true)} with {text}"
            assert set(found) <= set(true), f"search with {text} finds what is not there"
            self._journal.note("count", searches=2)

    def _join(self) -> None:
        old = self._at_tag()
        if old is None:
            return
        new = self._handle()
        left, right = self._read(new), self._read(old)
        both = np.intersect1d(left["key"].to_numpy(), right["key"].to_numpy())
        joined = new.select("key", "x").join(old.select("key", "op"), on="key").to_arrow()
        assert np.array_equal(np.sort(joined["key"].to_numpy()), both), "join"
        missing = new.select("key").join(old.select("key"), on="key", how="anti").count()
        assert missing == len(left) - len(both), "anti join"
        self._journal.note("count", joins=1)

    def _differ(self) -> None:
        old = self._at_tag()
        if old is None:
            return
        new = self._handle()
        changes = self._items.diff(old.version, new.version).to_arrow()
        before, after = _written(self._read(old)), _written(self._read(new))
        kinds: dict[str, set[int]] = {"inserted": set(), "updated": set(), "deleted": set()}
        for key, kind in zip(*(column.to_pylist() for column in changes.columns), strict=True):
            kinds[kind].add(key)
        assert kinds["inserted"] == after.keys() - before.keys(), "diff: inserted"
        assert kinds["deleted"] == before.keys() - after.keys(), "diff: deleted"
        both = before.keys() & after.keys()
        assert {key for key in both if before[key] != after[key]} <= kinds["updated"] <= both
        self._journal.note("count", diffs=1)

    def _see_side(self) -> None:
        names = [name for name in self._db.collections() if name != "items"]
        for name in names:
            try:
                table = self._db[name].to_arrow()
            except gv.NotFoundError:
                continue  # dropped meanwhile
            lane_sums(table)
            assert len(table) == SIDE_ROWS, f"{name} has {len(table)} rows"
            self._journal.note("count", sides=1)

    def _see_versions(self) -> None:
        before = self._items.versions().to_arrow()["version"].to_pylist()
        after = self._items.versions().to_arrow()["version"].to_pylist()
        assert after == sorted(set(after), reverse=True), "versions out of order"
        assert after[:1] >= before[:1], "the newest version is listed no more"


def _pairs(frame: Any) -> list[tuple[float, int]]:
    table = frame.to_arrow()
    return list(zip(table["distance"].to_pylist(), table["key"].to_pylist(), strict=True))


def _written(table: pa.Table) -> dict[int, int]:
    return dict(zip(table["key"].to_pylist(), table["op"].to_pylist(), strict=True))


def read_for_ever(
    place: dict[str, Any], folder: Path, number: int, stop: Callable[[], bool]
) -> None:
    """Look until `stop`, with a new connection every few seconds; `number` is unique."""
    chance = random.Random(number)
    journal = Journal(folder / f"reader-{number:05d}")
    while not stop():
        until = time.monotonic() + chance.uniform(1, 8)
        try:
            with gv.connect(**place) as db:
                reader = Reader(db, journal, chance)
                while time.monotonic() < until and not stop():
                    reader.look()
        except BaseException:
            journal.note("failed", text=traceback.format_exc())
            raise
    journal.note("end")
