"""A channel of the real engine, driven step by step on any store, and what its readers may see."""

import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.clock import ManualClock
from gpuvec.coord.tso import TimestampOracle
from gpuvec.errors import GpuvecError
from gpuvec.messages import DeleteRows, InsertRows, OnConflict, WriteRequest
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import InitCollection
from gpuvec.meta.manifest import ManifestLog
from gpuvec.node.channel import CHANNEL, Channel
from gpuvec.rows import DenseVectors, Rows
from gpuvec.schema import Int64, Schema, Vector
from gpuvec.storage import keys
from gpuvec.storage.object_store import ObjectStore, Procedure, run
from gpuvec.types import RequestId, SegmentId

T = TypeVar("T")
State = dict[int, int]  # primary key to value
Step = tuple[str, Iterable[int], int | None]  # what, keys, value

_ID = "c-01hf7yat00"
_SCHEMA = Schema({"id": Int64(), "value": Int64(), "e": Vector(4, metric="l2")}, "id")

# An upsert replaces, a flush makes files.
CHANNEL_STEPS: tuple[Step, ...] = (
    ("upsert", range(0, 40), 1),
    ("upsert", range(30, 60), 2),
    ("delete", range(5, 10), None),
    ("flush", (), None),
    ("upsert", range(50, 70), 3),
    ("delete", range(0, 5), None),
    ("flush", (), None),
    ("delete", range(60, 65), None),
    ("upsert", range(0, 3), 4),
)


class ChannelSession:
    """One process with one channel, on one thread.

    Attributes:
        possible: what readers may see: one state when every write was answered, more when the
            outcome of some is unknown.
    """

    def __init__(self, store: ObjectStore, generation: int = 1) -> None:
        self._store = store
        self._generation = generation
        self._clock = ManualClock()
        self._clock.advance(3600 * generation)
        self.possible: list[State] = [{}]

    def open(self) -> None:
        """Open the channel; its collection is created where it is missing."""
        log = ManifestLog(keys.collection(_ID), CollectionState())
        view = self._run(log.read())
        if view.entry_id == 0:
            first = InitCollection(collection_id=_ID, schema=_SCHEMA, channels=(CHANNEL,))
            self._run(log.commit(view, [first], generation=1, committer="test"))
        self._channel = Channel(
            _ID,
            store=self._store,
            run=self._run,
            stamps=TimestampOracle(self._clock),
            mint=lambda: SegmentId(keys.ulid(self._clock.now_ms(), secrets.token_hex(16))),
            flush_bytes=1 << 30,
            committer="test",
            beside=_at_once,
        )
        self._channel.refresh()

    def take(self, steps: Sequence[Step], *, go_on: bool = False) -> None:
        """Take steps; with `go_on`, go on after a failed one."""
        for what, ids, value in steps:
            self._clock.advance(1)
            try:
                if what == "flush":
                    self._channel.flush(self._generation)
                else:
                    self._write(what, list(ids), value)
            except GpuvecError:
                if not go_on:
                    raise

    def rows(self) -> State:
        """Read all rows; `AssertionError` when a key is there twice or a vector is another's."""
        found: State = {}
        for segment in self._channel.snapshot("items", self._clock.now_ms()):
            keep = segment.keep()
            table = segment.scalars(["id", "value"])
            ids, values = table["id"].to_numpy(), table["value"].to_numpy()
            vectors: Any = segment.vectors("e")
            assert np.array_equal(vectors.values, _vectors(ids, values)), "vectors changed places"
            for row in np.flatnonzero(np.ones(len(ids), bool) if keep is None else keep):
                assert ids[row] not in found, f"key {ids[row]} is there twice"
                found[int(ids[row])] = int(values[row])
        return found

    def check(self, store: ObjectStore) -> None:
        """Compare what another process finds on `store`; let it own the channel and write, too.

        Raises:
            AssertionError: it finds what cannot have come of this session's steps.
        """
        after = ChannelSession(store, self._generation + 1)
        after.open()
        found = after.rows()
        assert found in self.possible, "acknowledged rows are gone, or others came back"
        after.take([("upsert", range(100, 110), 9), ("flush", (), None)])
        assert after.rows() == _changed(found, range(100, 110), 9)

    def _write(self, what: str, ids: list[int], value: int | None) -> None:
        before, after = self.possible, [_changed(state, ids, value) for state in self.possible]
        self.possible = before + after
        request = WriteRequest(
            collection_id=_ID,
            request_id=RequestId(secrets.token_hex(16)),
            operation=what,
            change=_delete(ids) if value is None else _upsert(ids, value),
        )
        (reply,) = self._channel.write("items", [request], self._generation)
        if isinstance(reply, GpuvecError):
            if reply.details.get("outcome") == "none":
                self.possible = before
            raise reply
        self.possible = after

    def _run(self, procedure: Procedure[T]) -> T:
        return run(procedure, self._store, self._clock)


def _at_once(work: Callable[[], Any]) -> Callable[[], None]:
    work()
    return lambda: None


def _changed(state: State, ids: Iterable[int], value: int | None) -> State:
    kept = {key: old for key, old in state.items() if key not in ids}
    return kept if value is None else {**kept, **dict.fromkeys(ids, value)}


def _vectors(ids: NDArray[np.int64], values: NDArray[np.int64]) -> NDArray[np.float32]:
    return np.stack([ids, values, ids * values, ids], axis=1).astype(np.float32)


def _upsert(ids: list[int], value: int) -> InsertRows:
    keys_, values = np.array(ids), np.full(len(ids), value)
    table = pa.table({"id": keys_, "value": values}, schema=_SCHEMA.arrow_schema())
    rows = Rows(table, {"e": DenseVectors(_vectors(keys_, values))})
    return InsertRows(rows=rows, schema_version=1, partition="", on_conflict=OnConflict.REPLACE)


def _delete(ids: list[int]) -> DeleteRows:
    return DeleteRows(keys=pa.array(ids, pa.int64()))
