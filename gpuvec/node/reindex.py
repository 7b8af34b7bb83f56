"""Indexes of new segments, built before reads see them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from gpuvec.errors import GpuvecError
from gpuvec.meta.catalog import CollectionState, IndexRecord, SegmentRecord
from gpuvec.node.build import BuildPlan, make, memory_share, metric_of, write
from gpuvec.node.loader import Loader
from gpuvec.node.ports import FilesHost
from gpuvec.query.session import Session
from gpuvec.storage import keys


def with_indexes(
    state: CollectionState,
    old: Sequence[SegmentRecord],
    new: SegmentRecord,
    loader: Loader,
    names: Iterable[str],
    *,
    host: FilesHost,
    session: Session,
    progress: Callable[[float], None],
) -> SegmentRecord:
    """Return the record of a new segment with the indexes that most of its rows had.

    An index that cannot be built is left out: the coordinator wants it then, as of any segment, and
    tells why it fails. One that few rows had would make the others wait.

    Args:
        state: with the old segments.
        old: that the rows come from.
        new: whose files are written.
        loader: of the collection.
        names: fields that shall have an index.
        host: writes.
        session: threads and memory.
        progress: see `make`.
    """
    gone = {segment.segment_id for segment in old}
    segments = {name: record for name, record in state.segments.items() if name not in gone}
    later = replace(state, segments={**segments, new.segment_id: new})
    found: dict[str, IndexRecord] = {}
    for name in names:
        definition = state.indexes[name]
        having = sum(
            segment.row_count
            for segment in old
            if name in segment.indexes
            and segment.indexes[name].definition_id == definition.index_id
        )
        if 2 * having < sum(segment.row_count for segment in old):
            continue
        plan = BuildPlan(
            collection_id=state.collection_id,
            definition=definition,
            segment=new,
            metric=metric_of(state.schema[name]),
            max_memory=memory_share(later, definition, new),
        )
        try:
            made = make(
                plan,
                loader.load(new).rows,
                threads=session.threads,
                memory_limit=session.memory_limit,
                progress=progress,
            )
        except (GpuvecError, MemoryError):
            continue
        prefix = keys.collection(state.collection_id)
        found[name] = host.run(write(plan, made, prefix, host.mint()))
    return replace(new, indexes=found)
