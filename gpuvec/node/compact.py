"""From some segments to others: fewer, larger, without what no version needs.

Steps, and what a death after each leaves behind:

1. `_take`: under the channel's lock, note the segments, their deletes, and the versions needed.
   → Nothing was written.
2. `rewriting.rewrite`, here or in another process: write the new segments, one after the other:
   live rows, sorted by key; rows of old versions apart from them, each with the time of its
   deletion. Build their indexes, where most of their rows had one: searches of the new segments
   shall not be slower than those of the old.
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

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec import errors, telemetry
from gpuvec.meta.catalog import CollectionState, SegmentRecord
from gpuvec.meta.changes import Change
from gpuvec.meta.changes_compaction import ReplaceSegments
from gpuvec.meta.past import definition_for_rows
from gpuvec.meta.retention import Needed
from gpuvec.node.channel import Channel
from gpuvec.node.delegator import ShardDelegator
from gpuvec.node.loader import Loader
from gpuvec.node.ports import FilesHost, Progress
from gpuvec.node.rewrite import Room
from gpuvec.node.rewriting import (
    Indexing,
    Input,
    Output,
    Rewriting,
    Written,
    forget,
    rewrite,
    slim,
)
from gpuvec.node.weigh import remembering
from gpuvec.segment.keys import one_array
from gpuvec.segment.sealed import SealedSegment
from gpuvec.segment.visible import Layout
from gpuvec.storage import keys
from gpuvec.storage.object_store import Procedure, Put
from gpuvec.storage.segment_files import write_deletes
from gpuvec.types import SegmentId

_Deletes = tuple[NDArray[np.int64], NDArray[np.int64]]  # rows and when, rising


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
    sources: tuple[tuple[SealedSegment, SegmentRecord, int], ...]  # and deletes that were known
    layout: Layout
    forgets: bool  # whether rows are judged by what is remembered of fewer versions

    def order(self, room: Room) -> Rewriting:
        """Return what is to be written."""
        inputs = []
        for segment, record, known in self.sources:
            rows, when = segment.deletes.entries(segment.saved_deletes, known)
            inputs.append(Input(record=record, rows=rows.copy(), when=when.copy()))
        return Rewriting(
            state=slim(self.state, [record.segment_id for _, record, _ in self.sources]),
            need=self.need,
            layout=self.layout,
            inputs=tuple(inputs),
            size_bytes=room.size_bytes,
            rows=room.rows,
        )


def compact(
    channel: Channel,
    inputs: Sequence[SegmentId],
    *,
    need: Callable[[CollectionState], Needed],
    room: Room,
    host: FilesHost,
    generation: int,
    index: Indexing | None = None,
    progress: Progress | None = None,
    elsewhere: Callable[[Rewriting], Written | None] = lambda order: None,
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
        elsewhere: has another process do step 2, or returns None: this one shall.

    Raises:
        DeviceMemoryError: `GV-400`, see `divide`.
        StorageError, UnavailableError: the store cannot be written.
    """
    taken = channel.peek(lambda state, shard: _take(state, shard, inputs, need), generation)  # 1
    if taken is None:
        return None
    order = taken.order(room)
    written = elsewhere(order)  # 2
    if written is None:
        written = rewrite(
            order,
            channel.loader,
            host=host,
            memory_bytes=room.memory_bytes,
            index=index,
            progress=progress,
        )
    return _install(channel, taken, written, host, generation, progress)


def _install(
    channel: Channel,
    taken: _Taken,
    written: Written,
    host: FilesHost,
    generation: int,
    progress: Progress | None,
) -> Compacted | None:
    """Do steps 3 to 5; None where something changed meanwhile."""
    swap = _Swap(taken, written.outputs, channel.loader, keys.collection(channel.collection_id))
    try:
        swap.warm()
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
    except Exception as error:
        if not swap.asked or errors.is_not_committed(error):  # a full disk shall not stay full
            with suppress(errors.StorageError):
                host.run(forget(swap.records))
        raise
    if not done:
        host.run(forget(swap.records))
        return None
    return Compacted(
        inputs=len(taken.sources),
        outputs=len(written.outputs),
        removed_rows=swap.removed_rows,
        read_bytes=written.read_bytes,
        written_bytes=sum(output.record.size_bytes for output in written.outputs),
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


class _Swap:
    """Steps 3 to 5: the deletes that came meanwhile, the entry, and the place in memory.

    Only live rows are deleted, and a live row is alone with its key among the live ones of a
    channel: so its key tells where it is now.
    """

    def __init__(
        self, taken: _Taken, outputs: Sequence[Output], loader: Loader, prefix: str
    ) -> None:
        self._need, self._forgets = taken.need, taken.forgets
        self.asked = False  # whether an entry may name the files
        self._sources = taken.sources
        self._outputs = outputs
        self._loader = loader
        self._prefix = prefix
        self._known = [known for _, _, known in taken.sources]  # deletes that outputs have
        self._inputs: Mapping[SegmentId, str | None] = {}
        self.records = [output.record for output in outputs]

    @property
    def removed_rows(self) -> int:
        """Rows that are in no new segment."""
        before = sum(record.row_count for _, record, _ in self._sources)
        return before - sum(record.row_count for record in self.records)

    def warm(self) -> None:
        """Read the keys of the new segments, before any lock is taken."""
        for output in self._outputs:
            rows = self._loader.load(output.record).rows
            if not len(rows.keys):
                rows.keys.add(rows.files.primary_keys())

    def look(self, state: CollectionState, shard: ShardDelegator) -> bool:
        """Note what was deleted by now; return whether all segments are still there."""
        self._inputs = {
            record.segment_id: _deletes_key(state.segments.get(record.segment_id))
            for _, record, _ in self._sources
        }
        return self._is_there(state, shard)

    def _is_there(self, state: CollectionState, shard: ShardDelegator) -> bool:
        sealed = {id(segment) for segment in shard.sealed()}
        return all(
            id(segment) in sealed and record.segment_id in state.segments
            for segment, record, _ in self._sources
        )

    def write_deletes(self, mint: Callable[[], SegmentId]) -> Procedure[None]:
        """Do step 3."""
        for number, (rows, when) in enumerate(self._late()):
            if not len(rows):
                continue
            record = self.records[number]
            files, written = write_deletes(
                self._prefix, record.segment_id, mint(), rows.astype(np.uint32), when
            )
            for key, data in files:
                yield Put(key, data)
            gone_ts = int(when[-1]) if len(rows) == record.row_count else None
            self.records[number] = replace(record, deletes=written.to_json(), gone_ts=gone_ts)

    def _late(self) -> list[_Deletes]:
        """Return what was deleted of each new segment since it was last asked."""
        none = np.empty(0, np.int64)
        gone: list[pa.Array] = []
        times: list[NDArray[np.int64]] = []
        for number, (segment, _, _) in enumerate(self._sources):
            stop = len(segment.deletes)
            rows, when = segment.deletes.entries(self._known[number], stop)
            self._known[number] = stop
            if len(rows):
                found = segment.rows.files.primary_keys()
                gone.append(one_array(found.take(pa.array(rows))))
                times.append(when)
        if not gone:
            return [(none, none)] * len(self.records)
        all_keys, all_times = pa.concat_arrays(gone), np.concatenate(times)
        late = []
        for output in self._outputs:
            if not output.is_live:  # what is gone is gone
                late.append((none, none))
                continue
            rows = self._loader.load(output.record).rows.find(all_keys)
            hit = np.flatnonzero(rows >= 0)  # nobody needs the others
            order = hit[np.argsort(all_times[hit], kind="stable")]
            late.append((rows[order], all_times[order]))
        return late

    def changes(self, state: CollectionState, shard: ShardDelegator) -> list[Change]:
        """Return step 4; nothing when a segment is not there as it was."""
        if not self._is_there(state, shard):
            return []
        found: list[Change] = [
            ReplaceSegments(inputs=self._inputs, outputs=tuple(self.records)),
        ]
        if self._forgets or self.removed_rows:
            found.insert(0, self._need.forget())
        try:
            for change in found:
                state = state.apply(change)
        except errors.ConflictError:
            return []
        return found

    def fill(self, shard: ShardDelegator, loader: Loader) -> None:
        """Do step 5."""
        new = [loader.load(record) for record in self.records]
        for segment, (rows, when) in zip(new, self._late(), strict=True):
            for ts in np.unique(when):
                segment.delete(rows[when == ts], int(ts))
        shard.replace({record.segment_id for _, record, _ in self._sources}, new)
        loader.keep_only({segment.segment_id for segment in shard.sealed()})


def _deletes_key(record: SegmentRecord | None) -> str | None:
    return None if record is None or record.deletes is None else str(record.deletes["key"])
