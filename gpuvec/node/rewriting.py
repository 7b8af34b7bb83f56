"""The heavy part of a compaction, which any process can do that reads the store.

It needs no lock and no memory of the channel: what is in no file yet is part of the order. Whoever
owns the channel puts what comes of it in its place; see `gpuvec.node.compact`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec import errors
from gpuvec.meta.catalog import CollectionState, SegmentRecord
from gpuvec.meta.retention import Needed, ends
from gpuvec.node.loader import Loader
from gpuvec.node.ports import FilesHost, Progress
from gpuvec.node.rewrite import Part, Room, Source, divide, write_part
from gpuvec.node.weigh import kept_rows
from gpuvec.segment.visible import Layout
from gpuvec.storage import keys
from gpuvec.storage.object_store import Delete, Procedure, Put
from gpuvec.storage.segment_files import write_deletes
from gpuvec.types import SegmentId

Indexing = Callable[
    [CollectionState, Sequence[SegmentRecord], SegmentRecord, Loader], SegmentRecord
]  # from a state, old records and a new one to the new one with its indexes


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A segment that is to be written anew.

    Attributes:
        record: as the manifest has it.
        rows, when: deletes that are in no file, by time.
    """

    record: SegmentRecord
    rows: NDArray[np.int64]
    when: NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewriting:
    """An order to write some segments anew; it travels between processes.

    Attributes:
        state: of the collection, as far as the work looks at it; see `slim`.
        need: the versions that are needed.
        layout: of the new segments.
        size_bytes, rows: how large one may be.
    """

    state: CollectionState
    need: Needed
    layout: Layout
    inputs: tuple[Input, ...]
    size_bytes: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A new segment, whose files are written.

    Attributes:
        is_live: whether all of its rows are; else all are gone, and a file says when.
    """

    record: SegmentRecord
    is_live: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What came of an order.

    Attributes:
        read_bytes: of inputs of which rows were kept.
    """

    outputs: tuple[Output, ...]
    read_bytes: int


def slim(state: CollectionState, inputs: Sequence[SegmentId]) -> CollectionState:
    """Return a state without what rewriting does not look at.

    Other segments stay where indexes share an amount of memory.
    """
    shares = any(definition.max_memory is not None for definition in state.indexes.values())
    segments = state.segments if shares else {name: state.segments[name] for name in inputs}
    none: Mapping[str, Any] = {}
    return replace(state, segments=segments, history=(), dead=none, pins=none, tags=none)


def rewrite(
    order: Rewriting,
    loader: Loader,
    *,
    host: FilesHost,
    memory_bytes: int,
    index: Indexing | None = None,
    progress: Progress | None = None,
) -> Written:
    """Write the new segments, one after the other: live rows, and rows of old versions apart.

    What was written is deleted again when it fails: a full disk shall not stay full of it.

    Args:
        order: see `Rewriting`.
        loader: opens segments of the collection.
        host: writes.
        memory_bytes: that the work may take.
        index: gives new segments of live rows their indexes.
        progress: told the share that is done.

    Raises:
        DeviceMemoryError: `GV-400`, see `divide`.
        StorageError, UnavailableError: the store cannot be read or written.
    """
    sources = [_source(order, item, loader) for item in order.inputs]
    room = Room(size_bytes=order.size_bytes, rows=order.rows, memory_bytes=memory_bytes)
    parts = divide(sources, order.layout, room, host.mint)
    try:
        outputs = []
        for number, part in enumerate(parts):
            if progress is not None:
                progress(number / len(parts))
            outputs.append(_write(part, sources, order, loader, host, index))
    except Exception:
        with suppress(errors.StorageError):
            host.run(forget([part.record for part in parts if part.record is not None]))
        raise
    read = sum(s.record.size_bytes for s in sources if s.keep.any())
    return Written(outputs=tuple(outputs), read_bytes=read)


def _source(order: Rewriting, item: Input, loader: Loader) -> Source:
    """Decide which rows stay; of a segment that is not needed at all, nothing is read."""
    record, state, need = item.record, order.state, order.need
    segment = loader.load(record)
    for ts in np.unique(item.when):
        segment.delete(item.rows[item.when == ts], int(ts))
    segment.publish()
    if not kept_rows(state, need, segment, record):
        none = np.zeros(len(segment), np.int64)
        return Source(segment, record, none, none, none.astype(bool))
    inserted = segment.rows.timestamps()
    rows, when = segment.deletes.entries()
    gone = ends(state, need, record.partition, inserted, rows, when)
    return Source(segment, record, inserted, gone, need.keeps(inserted, gone))


def _write(
    part: Part,
    sources: Sequence[Source],
    order: Rewriting,
    loader: Loader,
    host: FilesHost,
    index: Indexing | None,
) -> Output:
    prefix = keys.collection(order.state.collection_id)
    host.run(write_part(part, sources, order.layout, prefix))
    assert part.record is not None
    if part.gone is not None:
        part.record = host.run(_with_ends(part.record, part.gone, prefix, host.mint()))
    elif index is not None:
        old = [source.record for source in sources]
        part.record = index(order.state, old, part.record, loader)
    return Output(record=part.record, is_live=part.gone is None)


def _with_ends(
    record: SegmentRecord, gone: NDArray[np.int64], prefix: str, name: SegmentId
) -> Procedure[SegmentRecord]:
    """Write when each row was gone."""
    order = np.argsort(gone, kind="stable")
    when = gone[order]
    files, written = write_deletes(prefix, record.segment_id, name, order.astype(np.uint32), when)
    for key, data in files:
        yield Put(key, data)
    return replace(record, deletes=written.to_json(), gone_ts=int(when[-1]))


def forget(records: Sequence[SegmentRecord]) -> Procedure[None]:
    """Delete the files of segments that no entry names and none ever will."""
    found = [key for record in records for key in _file_keys(record)]
    yield Delete(list(dict.fromkeys(found)))


def _file_keys(record: SegmentRecord) -> list[str]:
    files: dict[str, Any] = dict(record.files)
    found = [files["scalar"]["key"], *(file["key"] for file in files["vectors"].values())]
    found += [] if record.deletes is None else [record.deletes["key"]]
    return found + [f["key"] for index in record.indexes.values() for f in index.files.values()]
