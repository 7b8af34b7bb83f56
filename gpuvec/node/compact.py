"""From some segments to others: fewer, larger, without what no version needs.

Steps, and what a death after each leaves behind:

1. `_take`: under the channel's lock, note the segments, their deletes, and the versions needed.
   → Nothing was written.
2. `_write`: write the new segments, one after the other: live rows, sorted by key; rows of old
   versions apart from them, each with the time of its deletion. Build their indexes, where most of
   their rows had one: searches of the new segments shall not be slower than those of the old.
   → Orphan files; they are marked dead and deleted later.
3. While no flush runs: write deletion files for the new segments, with what was deleted since 1.
   → As after 2.
4. Commit one entry: the versions that are forgotten with the rows, if any were left out, and
   `ReplaceSegments`; unless a segment went away meanwhile, when the new files become orphans.
   → Answer lost: the log is read before anything else is done, and says whether it is there.
5. Under the lock, new segments take the place of old ones; what was deleted since 3 is carried
   over. Running reads go on with the old ones, whose files stay for the collection's grace.
   → A restart reads the manifest and finds the same.

Only 1, 4 and 5 hold the channel's lock: reads are never blocked, writes for a commit.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gpuvec import errors, telemetry
from gpuvec.meta.catalog import CollectionState, SegmentRecord
from gpuvec.meta.changes import Change
from gpuvec.meta.changes_compaction import ReplaceSegments
from gpuvec.meta.past import definition_for_rows
from gpuvec.meta.retention import Needed, ends
from gpuvec.node.channel import Channel
from gpuvec.node.delegator import ShardDelegator
from gpuvec.node.loader import Loader
from gpuvec.node.rewrite import Part, Room, Source, divide, write_part
from gpuvec.node.weigh import kept_rows, remembering
from gpuvec.segment.sealed import SealedSegment
from gpuvec.segment.visible import Layout
from gpuvec.storage import keys
from gpuvec.storage.object_store import Delete, Procedure, Put
from gpuvec.storage.segment_files import write_deletes
from gpuvec.types import SegmentId

T = TypeVar("T")
_Deletes = tuple[NDArray[np.int64], NDArray[np.int64]]  # rows and when, rising


class CompactHost(Protocol):
    """What compaction needs of the process that writes to the database."""

    def run(self, procedure: Procedure[T]) -> T:
        """Run a procedure on the store."""

    def mint(self) -> SegmentId:
        """Make a name that is never reused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacted:
    """What one step did.

    Attributes:
        removed_rows: that no version needs any more.
    """

    inputs: int = 0
    outputs: int = 0
    removed_rows: int = 0
    read_bytes: int = 0
    written_bytes: int = 0

    def __add__(self, other: "Compacted") -> "Compacted":
        return Compacted(
            inputs=self.inputs + other.inputs,
            outputs=self.outputs + other.outputs,
            removed_rows=self.removed_rows + other.removed_rows,
            read_bytes=self.read_bytes + other.read_bytes,
            written_bytes=self.written_bytes + other.written_bytes,
        )

    def tell(self, collection_id: str, seconds: float) -> None:
        """Count a step that was done."""
        telemetry.COMPACTION_SECONDS.observe(seconds)
        telemetry.COMPACTION_BYTES.add(self.read_bytes, "read")
        telemetry.COMPACTION_BYTES.add(self.written_bytes, "written")
        telemetry.note(
            "compaction",
            collection=collection_id,
            segments=f"{self.inputs} to {self.outputs}",
            removed_rows=self.removed_rows,
            bytes=self.written_bytes,
            seconds=seconds,
        )


@dataclass(frozen=True, slots=True)
class _Taken:
    state: CollectionState
    need: Needed
    sources: tuple[tuple[SealedSegment, SegmentRecord, int], ...]
    layout: Layout
    forgets: bool  # whether rows are judged by what is remembered of fewer versions


def compact(
    channel: Channel,
    inputs: Sequence[SegmentId],
    *,
    need: Callable[[CollectionState], Needed],
    room: Room,
    host: CompactHost,
    generation: int,
    index: Callable[
        [CollectionState, Sequence[SegmentRecord], SegmentRecord, Loader], SegmentRecord
    ]
    | None = None,
    progress: Callable[[float], None] | None = None,
) -> Compacted | None:
    """Put new segments in the place of some; None when they, or what is needed, changed meanwhile.

    Args:
        channel: whose segments, all of one partition unless they hold nothing that is needed.
        inputs: their ids.
        need: tells which versions are needed.
        room: how large new segments may be.
        host: writes.
        generation: of this process as the coordinator.
        index: from old records and a new one to the new one with its indexes.
        progress: told the share that is done; may raise, to stop the work.

    Raises:
        DeviceMemoryError: `GV-400`, see `divide`.
        StorageError, UnavailableError: the store cannot be written.
    """
    taken = channel.peek(lambda state, shard: _take(state, shard, inputs, need), generation)  # 1
    if taken is None:
        return None
    sources = [_source(taken, *item) for item in taken.sources]
    parts = divide(sources, taken.layout, room, host.mint)
    prefix = keys.collection(channel.collection_id)
    swap = _Swap(taken, sources, parts, prefix)
    try:
        _write(channel, taken, sources, parts, host, prefix, index, progress)  # 2
        with channel.unflushed():
            if progress is not None:
                progress(1.0)
            done = channel.peek(swap.look, generation)
            if done:
                host.run(swap.write_deletes(host.mint))  # 3
                swap.asked = True
                try:
                    done = channel.replace(swap.changes, swap.fill, generation)  # 4, 5
                except errors.ConflictError:  # a reader pinned a version meanwhile
                    done = False
    except Exception:
        if not swap.asked:  # a full disk shall not stay full of it
            with suppress(errors.StorageError):
                host.run(swap.forget())
        raise
    if not done:
        host.run(swap.forget())
        return None
    return Compacted(
        inputs=len(sources),
        outputs=len(parts),
        removed_rows=sum(s.record.row_count for s in sources) - sum(map(len, parts)),
        read_bytes=sum(s.record.size_bytes for s in sources if s.keep.any()),
        written_bytes=sum(part.record.size_bytes for part in parts if part.record is not None),
    )


def _take(
    state: CollectionState,
    shard: ShardDelegator,
    inputs: Sequence[SegmentId],
    need: Callable[[CollectionState], Needed],
) -> _Taken | None:
    """Do step 1; None when a segment is not there."""
    sealed = {segment.segment_id: segment for segment in shard.sealed()}
    if not sealed.keys() & state.segments.keys() >= set(inputs):
        return None
    found = tuple((sealed[i], state.segments[i], len(sealed[i].deletes)) for i in inputs)
    needed = need(state)
    later = remembering(state, needed)
    shape = definition_for_rows(later, max(record.schema_version for _, record, _ in found))
    layout = Layout(shape.schema, shape.schema_version, shape.field_versions)
    return _Taken(later, needed, found, layout, forgets=later.past != state.past)


def _source(taken: _Taken, segment: SealedSegment, record: SegmentRecord, count: int) -> Source:
    """Decide which rows stay; of a segment that is not needed at all, nothing is read."""
    rows, when = segment.deletes.entries(0, count)
    state, need = taken.state, taken.need
    if not kept_rows(state, need, segment, record):
        none = np.zeros(len(segment), np.int64)
        return Source(segment, record, count, none, none, none.astype(bool))
    inserted = segment.rows.timestamps()
    gone = ends(state, need, record.partition, inserted, rows, when)
    return Source(segment, record, count, inserted, gone, need.keeps(inserted, gone))


def _write(
    channel: Channel,
    taken: _Taken,
    sources: Sequence[Source],
    parts: Sequence[Part],
    host: CompactHost,
    prefix: str,
    index: Callable[..., SegmentRecord] | None,
    progress: Callable[[float], None] | None,
) -> None:
    """Do step 2."""
    for number, part in enumerate(parts):
        if progress is not None:
            progress(number / len(parts))
        host.run(write_part(part, sources, taken.layout, prefix))
        assert part.record is not None
        loader = channel.loader
        loader.load(part.record).rows.keys.add(loader.load(part.record).rows.files.primary_keys())
        if index is not None and part.gone is None:
            old = [source.record for source in sources]
            part.record = index(taken.state, old, part.record, loader)


class _Swap:
    """Steps 3 to 5: the deletes that came meanwhile, the entry, and the place in memory."""

    def __init__(
        self, taken: _Taken, sources: Sequence[Source], parts: Sequence[Part], prefix: str
    ) -> None:
        self._need, self._forgets = taken.need, taken.forgets
        self.asked = False  # whether an entry may name the files
        self._sources = sources
        self._parts = parts
        self._prefix = prefix
        self._known = [source.deleted for source in sources]  # deletes that parts have in files
        self._inputs: Mapping[SegmentId, str | None] = {}
        self._records: list[SegmentRecord] = []
        self._starts = np.cumsum([0, *map(len, parts)])
        self._places = [np.full(len(source.segment), -1, np.int64) for source in sources]
        for start, part in zip(self._starts, parts, strict=False):
            at = start + np.arange(len(part))
            for number, place in enumerate(self._places):
                here = part.source == number
                place[part.row[here]] = at[here]

    def look(self, state: CollectionState, shard: ShardDelegator) -> bool:
        """Note what was deleted by now; return whether all segments are still there."""
        self._inputs = {
            s.record.segment_id: _deletes_key(state.segments.get(s.record.segment_id))
            for s in self._sources
        }
        return self._is_there(state, shard)

    def _is_there(self, state: CollectionState, shard: ShardDelegator) -> bool:
        sealed = {id(segment) for segment in shard.sealed()}
        return all(
            id(s.segment) in sealed and s.record.segment_id in state.segments for s in self._sources
        )

    def write_deletes(self, mint: Callable[[], SegmentId]) -> Procedure[None]:
        """Do step 3."""
        late = self._late()
        for part, (rows, when) in zip(self._parts, late, strict=True):
            record = part.record
            assert record is not None
            if part.gone is not None:
                order = np.argsort(part.gone, kind="stable")
                rows, when = order, part.gone[order]
            if len(rows):
                files, written = write_deletes(
                    self._prefix, part.segment_id, mint(), rows.astype(np.uint32), when
                )
                for key, data in files:
                    yield Put(key, data)
                gone_ts = int(when[-1]) if len(rows) == len(part) else None
                record = replace(record, deletes=written.to_json(), gone_ts=gone_ts)
            self._records.append(record)

    def _late(self) -> list[_Deletes]:
        """Return what was deleted of each part since it was last asked."""
        rows, times = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for number, source in enumerate(self._sources):
            stop = len(source.segment.deletes)
            found, when = source.segment.deletes.entries(self._known[number], stop)
            self._known[number] = stop
            rows.append(self._places[number][found])
            times.append(when)
        place, when = np.concatenate(rows), np.concatenate(times)
        order = np.argsort(when, kind="stable")
        place, when = place[order], when[order]  # -1: nobody needs the row
        part = np.searchsorted(self._starts, place, side="right") - 1
        return [
            (place[here] - self._starts[number], when[here])
            for number, made in enumerate(self._parts)
            for here in [(part == number) & (made.gone is None)]  # what is gone is gone
        ]

    def changes(self, state: CollectionState, shard: ShardDelegator) -> list[Change]:
        """Return step 4; nothing when a segment is not there as it was."""
        if not self._is_there(state, shard):
            return []
        found: list[Change] = [
            ReplaceSegments(inputs=self._inputs, outputs=tuple(self._records)),
        ]
        rows = sum(len(source.segment) for source in self._sources)
        if self._forgets or sum(map(len, self._parts)) < rows:
            found.insert(0, self._need.forget())
        try:
            for change in found:
                state = state.apply(change)
        except errors.ConflictError:
            return []
        return found

    def fill(self, shard: ShardDelegator, loader: Loader) -> None:
        """Do step 5."""
        new = [loader.load(record) for record in self._records]
        for segment, (rows, when) in zip(new, self._late(), strict=True):
            for ts in np.unique(when):
                segment.delete(rows[when == ts], int(ts))
        shard.replace({source.record.segment_id for source in self._sources}, new)
        loader.keep_only({segment.segment_id for segment in shard.sealed()})

    def forget(self) -> Procedure[None]:
        """Delete the files, which no entry names and none ever will."""
        found: list[str] = []
        for record in [*self._records, *(part.record for part in self._parts)]:
            if record is not None:
                found += _file_keys(record)
        yield Delete(list(dict.fromkeys(found)))


def _deletes_key(record: SegmentRecord | None) -> str | None:
    return None if record is None or record.deletes is None else str(record.deletes["key"])


def _file_keys(record: SegmentRecord) -> list[str]:
    files: dict[str, Any] = dict(record.files)
    found = [files["scalar"]["key"], *(file["key"] for file in files["vectors"].values())]
    found += [] if record.deletes is None else [record.deletes["key"]]
    return found + [f["key"] for index in record.indexes.values() for f in index.files.values()]
