"""From a sealed segment to its index.

Steps, and what a death after each leaves behind:

1. `plan_build`: take the segment and the definition as they are now.
   → Nothing was written; whoever writes to the collection next builds again.
2. `make`: build and measure in memory, within a budget that is checked first.
   → As after 1.
3. `write`: put the files under a new name.
   → Orphan files; they are marked dead and deleted later.
4. Commit `adding(...)`, one entry: unless the definition was replaced or the segment
   went away in the meantime, when the files become orphans.
   → Answer lost: the log is read before anything else is done, and says whether it is there.
5. The same commit makes the delegator follow the manifest: reads from then on have the index.
   → A restart reads the manifest and finds the same.

No step holds the channel's lock but the commit: writes and flushes go on meanwhile. Steps 2 and 3
need the store alone, so any process can do them (`carry_out`).
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from gpuvec import errors
from gpuvec.device.residency import device_store
from gpuvec.index.curve import CurvePoint, RecallCurve
from gpuvec.index.spec import Flat, IndexSpec, spec_from_json
from gpuvec.meta.catalog import CollectionState, IndexDefinition, IndexRecord, SegmentRecord
from gpuvec.meta.changes import AddIndex, Change
from gpuvec.node.loader import AUTO, CURVE_FILES, Loader
from gpuvec.node.ports import FilesHost, Progress
from gpuvec.node.shards import Channels
from gpuvec.rows import DenseVectors, VectorColumn
from gpuvec.schema import BinaryVector, FieldType, SparseVector, Vector
from gpuvec.segment.sealed import SealedRows
from gpuvec.storage import keys
from gpuvec.storage.index_files import write_index_files
from gpuvec.storage.object_store import Buffer, Delete, Procedure
from gpuvec.types import Metric, SegmentId, Timestamp


class BuildHost(FilesHost, Protocol):
    """What a build needs of the process that writes to the database."""

    def change(
        self,
        collection_id: str,
        decide: Callable[[CollectionState, Timestamp], Sequence[Change]],
    ) -> None:
        """Commit changes of a collection."""

    def at_work(self) -> AbstractContextManager[None]:
        """Keep files that are born meanwhile from being taken for those of work that died."""


def build_index(
    channel: Channels,
    segment_id: SegmentId,
    field: str,
    definition_id: str,
    *,
    host: BuildHost,
    threads: int = 0,
    memory_limit: int | None = None,
    progress: Progress | None = None,
    elsewhere: "Callable[[BuildPlan], IndexRecord | None]" = lambda plan: None,
    here: AbstractContextManager[object] | None = None,
    device: str = "cpu",
) -> bool:
    """Give a segment the index that a definition wants, if it still does; return whether.

    Args:
        channel: of the collection.
        segment_id: whose rows.
        field: of the definition.
        definition_id: what was wanted when the build was decided on.
        host: commits and writes.
        threads: see `make`.
        memory_limit: see `make`.
        progress: see `make`.
        elsewhere: has another process do steps 2 and 3, or returns None: this one shall.
        here: held while this process does them.
        device: of this process, see `make`.

    Raises:
        What `make` raises; StorageError, UnavailableError: the store cannot be written.
    """
    plan = plan_build(channel.state, segment_id, field)  # 1
    if plan is None or plan.definition.index_id != definition_id:
        return False
    changes: list[AddIndex] = []

    def decide(state: CollectionState, ts: Timestamp) -> Sequence[AddIndex]:
        assert record is not None
        changes[:] = adding(segment_id, record)(state, ts)
        return changes

    with host.at_work():
        record = elsewhere(plan)
        if record is None:
            with here or nullcontext():
                record = carry_out(
                    plan,
                    channel.holding(segment_id).loader,
                    host=host,
                    threads=threads,
                    memory_limit=memory_limit,
                    progress=progress,
                    device=device,
                )
        host.change(channel.collection_id, decide)  # 4, 5
    if not changes:
        host.run(forget(record))
    return bool(changes)


def carry_out(
    plan: "BuildPlan",
    loader: Loader,
    *,
    host: FilesHost,
    threads: int = 0,
    memory_limit: int | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> IndexRecord:
    """Do steps 2 and 3; return what the manifest shall keep.

    Args:
        plan: what to build.
        loader: opens segments of the collection.
        host: writes.
        threads: see `make`, as for all that follows.
        memory_limit: bytes.
        progress: told how far the work is.
        device: see `make`.
    """
    rows = loader.load(plan.segment).rows
    made = make(  # 2
        plan, rows, threads=threads, memory_limit=memory_limit, progress=progress, device=device
    )
    if progress is not None:
        progress(1.0)
    prefix = keys.collection(plan.collection_id)
    return host.run(write(plan, made, prefix, host.mint()))  # 3


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildPlan:
    """What is to be built, of what; it travels between processes.

    Attributes:
        metric: of a vector field; None: a scalar one.
        max_memory: bytes that the index may hold; None: no limit.
    """

    collection_id: str
    definition: IndexDefinition
    segment: SegmentRecord
    metric: Metric | None
    max_memory: int | None

    @property
    def field(self) -> str:
        """The field that gets the index."""
        return self.definition.field

    @property
    def spec(self) -> IndexSpec | None:
        """What was asked for; None where the choice is ours."""
        wish = self.definition.spec
        return None if wish["kind"] == AUTO else spec_from_json(wish)


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An index in memory, ready to be written."""

    spec: IndexSpec
    files: Mapping[str, Sequence[Buffer]]
    summary: Mapping[str, Any]


def plan_build(state: CollectionState, segment_id: SegmentId, field: str) -> BuildPlan | None:
    """Do step 1; None when the index is no longer wanted, or the segment is gone."""
    definition, segment = state.indexes.get(field), state.segments.get(segment_id)
    if definition is None or segment is None:
        return None
    return BuildPlan(
        collection_id=state.collection_id,
        definition=definition,
        segment=segment,
        metric=metric_of(state.schema[field]),
        max_memory=memory_share(state, definition, segment),
    )


def metric_of(kind: FieldType) -> Metric | None:
    """Return the metric of a vector field, None for a scalar one."""
    if isinstance(kind, Vector | BinaryVector | SparseVector):
        return Metric(kind.metric)
    return None


def memory_share(
    state: CollectionState, definition: IndexDefinition, segment: SegmentRecord
) -> int | None:
    """Return the part of a definition's memory that a segment's index may take.

    What the segments that have their index leave is shared by those that lack it, in proportion to
    their rows; so that all together never hold more than was allowed. Indexes that serve until
    theirs is built are not counted.
    """
    if definition.max_memory is None:
        return None
    left, rows = definition.max_memory, 0
    for other in state.segments.values():
        record = other.indexes.get(definition.field)
        is_built = record is not None and record.definition_id == definition.index_id
        if record is not None and is_built and other.segment_id != segment.segment_id:
            left -= int(record.summary.get("bytes", record.size_bytes))
        else:
            rows += other.row_count
    return max(0, left) * segment.row_count // max(1, rows)


def make(
    plan: BuildPlan,
    rows: SealedRows,
    *,
    threads: int = 0,
    memory_limit: int | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Made:
    """Do step 2.

    Args:
        plan: what to build.
        rows: of its segment.
        threads: of the host; 0: all cores.
        memory_limit: bytes for the index and all temporary data; None: the process's budget.
        progress: told how far the work is.
        device: "gpu": indexes that a GPU can search are built and measured there.

    Raises:
        DeviceMemoryError: `GV-401`, `GV-402` the index does not fit its memory, or the build its.
        UnsupportedError: `GV-320`, the index's library is missing or does not serve the metric.
        CorruptError: a file of the segment is damaged.
    """
    if plan.metric is None:
        return _make_scalar(plan, rows)
    vectors = rows.vector(plan.field)
    return _make_vector(plan, vectors, plan.metric, threads, memory_limit, progress, device)


def _make_vector(
    plan: BuildPlan,
    vectors: VectorColumn,
    metric: Metric,
    threads: int,
    memory_limit: int | None,
    progress: Progress | None,
    device: str,
) -> Made:
    from gpuvec.index.auto import build_best

    if not isinstance(vectors, DenseVectors):
        raise errors.no_sparse_index(plan.field)
    assert plan.definition.recall is not None
    built = build_best(
        plan.spec,
        vectors,
        metric,
        recall=plan.definition.recall,
        k=plan.definition.k,
        max_memory=plan.max_memory,
        threads=threads,
        memory_limit=memory_limit,
        progress=progress,
        store=device_store() if device == "gpu" else None,
    )
    curve = built.curve
    files = dict(built.index.files()) if built.index is not None else {}
    if curve is not None:
        files[CURVE_FILES[curve.device]] = [json.dumps(curve.to_json()).encode()]
    summary = {
        "rows": len(vectors),
        "bytes": 0 if built.index is None else built.index.nbytes,
        "seconds": sum(c.build_s + c.measure_s for c in built.candidates),
        "source": None if curve is None else curve.source,
        **best_points(curve, plan.definition, built.best),
        "candidates": [
            {"spec": str(c.spec), "built": c.built, "reason": c.reason} for c in built.candidates
        ],
    }
    spec = Flat() if built.index is None else built.index.spec
    return Made(spec=spec, files=files, summary=summary)


def best_points(
    curve: RecallCurve | None, definition: IndexDefinition, best: CurvePoint | None
) -> dict[str, Any]:
    """Return what a summary tells of a curve.

    Returns:
        `best`: the setting that reaches the target, `exact`: the exact scan beside it, `most`: the
        setting that reaches most where none reaches the target; None for what there is not.
    """
    cell = None if curve is None else curve.at(definition.k, 1.0)
    exact = None if cell is None else cell.exact
    most = None
    if best is None and cell is not None:
        most = max(cell.settings, key=lambda point: point.low, default=None)
    found = {"best": best, "exact": exact, "most": most}
    return {name: None if point is None else asdict(point) for name, point in found.items()}


def _make_scalar(plan: BuildPlan, rows: SealedRows) -> Made:
    from gpuvec.index import scalar

    column = rows.table([plan.field])[plan.field]
    spec = plan.spec or scalar.choose(column)
    start = time.perf_counter()
    index = scalar.build(spec, column)
    seconds = time.perf_counter() - start
    size = int(index.nbytes)
    if plan.max_memory is not None and size > plan.max_memory:
        raise errors.index_memory_exceeded(
            f'{spec} of field "{plan.field}"', {"index": size}, plan.max_memory
        )
    summary = {"rows": len(column), "bytes": size, "seconds": seconds}
    return Made(spec=spec, files=index.files(), summary=summary)


def write(plan: BuildPlan, made: Made, prefix: str, index_id: SegmentId) -> Procedure[IndexRecord]:
    """Do step 3; return what the manifest shall keep.

    Args:
        plan: what was built.
        made: the same, built.
        prefix: of the collection, `keys.collection(id)`.
        index_id: a name never used before.
    """
    files = yield from write_index_files(prefix, plan.segment.segment_id, index_id, made.files)
    return IndexRecord(
        index_id=index_id,
        definition_id=plan.definition.index_id,
        field=plan.field,
        spec=made.spec.to_json(),
        files={name: record.to_json() for name, record in files.items()},
        size_bytes=sum(record.length for record in files.values()),
        summary=made.summary,
    )


def adding(
    segment_id: SegmentId, record: IndexRecord
) -> Callable[[CollectionState, Timestamp], list[AddIndex]]:
    """Return what decides on step 4: the change, or none when the index is not wanted any more."""

    def decide(state: CollectionState, _: Timestamp) -> list[AddIndex]:
        definition = state.indexes.get(record.field)
        wanted = definition is not None and definition.index_id == record.definition_id
        if not wanted or segment_id not in state.segments:
            return []
        return [AddIndex(segment_id=segment_id, record=record)]

    return decide


def forget(record: IndexRecord) -> Procedure[None]:
    """Delete the files of an index that no entry names, and none ever will."""
    yield Delete([file["key"] for file in record.files.values()])
