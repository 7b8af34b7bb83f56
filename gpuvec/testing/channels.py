"""A channel without an engine around it: for tests of its rules, on any store and clock."""

import itertools
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pyarrow as pa

from gpuvec.clock import Clock, ManualClock
from gpuvec.coord.tso import TimestampOracle
from gpuvec.messages import DeleteRows, InsertRows, OnConflict, WriteReply, WriteRequest
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import InitCollection
from gpuvec.meta.manifest import ManifestLog
from gpuvec.node.channel import Channel
from gpuvec.node.shards import channel_names, open_channels
from gpuvec.node.transaction import Sight
from gpuvec.rows import DenseVectors, Rows
from gpuvec.schema import Int64, Schema, Vector
from gpuvec.storage import keys
from gpuvec.storage.memory import MemoryStore
from gpuvec.storage.object_store import ObjectStore, run
from gpuvec.types import RequestId, SegmentId, Timestamp

NAME = "items"
SCHEMA = Schema({"id": Int64(), "v": Vector(2)}, "id")  # v repeats id
GENERATION = 1
_NUMBERS = itertools.count()  # names are never reused


def new_store(*, appendable: bool = True, channels: int = 1) -> MemoryStore:
    """Return a store in memory with one empty collection."""
    store = MemoryStore(appendable=appendable)
    make_collection(store, channels=channels)
    return store


def make_collection(store: ObjectStore, *, channels: int = 1) -> None:
    """Make the one empty collection of a store."""
    clock = ManualClock()
    log = ManifestLog(keys.collection("c-1"), CollectionState())
    names = channel_names(channels)
    first = InitCollection(collection_id="c-1", schema=SCHEMA, channels=names)
    view = run(log.read(), store, clock)
    run(log.commit(view, [first], generation=GENERATION, committer="test"), store, clock)


def open_channel(store: ObjectStore, clock: Clock | None = None) -> Channel:
    """Return the collection's channel, or channels, as a new process sees them."""
    now = clock or ManualClock()

    def mint() -> SegmentId:
        return SegmentId(keys.ulid(now.now_ms(), f"{next(_NUMBERS):020x}"))

    def at_once(work: Callable[[], None]) -> Callable[[], None]:
        work()
        return lambda: None

    log = ManifestLog(keys.collection("c-1"), CollectionState())
    sight = Sight(log, run(log.read(), store, now))
    found = open_channels(
        sight,
        "c-1",
        store=store,
        run=lambda procedure: run(procedure, store, now),
        stamps=TimestampOracle(now),
        mint=mint,
        flush_bytes=1 << 20,
        committer="test",
        beside=at_once,
    )
    return cast(Channel, found)  # the same face


def insert(
    name: str, *ids: int, on_conflict: OnConflict = OnConflict.ERROR, partition: str = ""
) -> WriteRequest:
    """Return the request to insert rows."""
    numbers = np.array(ids, np.int64)
    vectors = np.repeat(numbers[:, None], 2, axis=1).astype(np.float32)
    rows = Rows(pa.table({"id": numbers}), {"v": DenseVectors(vectors)})
    change = InsertRows(rows=rows, schema_version=1, partition=partition, on_conflict=on_conflict)
    return _request(name, "insert", change)


def delete(name: str, *ids: int) -> WriteRequest:
    """Return the request to delete rows."""
    return _request(name, "delete", DeleteRows(keys=pa.array(ids, pa.int64())))


def _request(name: str, operation: str, change: Any) -> WriteRequest:
    request_id = RequestId(name.rjust(32, "0"))
    return WriteRequest(
        collection_id="c-1", request_id=request_id, operation=operation, change=change
    )


def write(channel: Channel, *requests: WriteRequest) -> list[WriteReply]:
    """Write a group; raise the first error."""
    replies = []
    for answer in channel.write(NAME, requests, GENERATION):
        if isinstance(answer, Exception):
            raise answer
        replies.append(answer)
    return replies


def flush(channel: Channel) -> None:
    """Save all rows in files."""
    channel.flush(GENERATION)


def change(*makers: Callable[[Timestamp], Any]) -> Callable[[Channel], None]:
    """Return a step that commits the changes that the makers make of a timestamp."""
    return lambda channel: channel.change(lambda _, ts: [make(ts) for make in makers], GENERATION)


def visible(channel: Channel, now_ms: int = 0) -> frozenset[int]:
    """Return the visible keys, after checks that none is doubled and all vectors are right."""
    found: list[int] = []
    for view in channel.snapshot(NAME, now_ms):
        ids, keep = view.scalars(["id"])["id"].to_numpy(), view.keep()
        vectors = view.vectors("v")
        assert isinstance(vectors, DenseVectors)
        assert (vectors.values == ids[:, None]).all(), "a vector is another row's"
        found += ids.tolist() if keep is None else ids[keep].tolist()
    assert len(set(found)) == len(found), "a key is visible twice"
    return frozenset(found)
