"""What a `Collection` does with indexes: make, drop, list and tune them."""

from collections.abc import Iterable, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from gpuvec import errors
from gpuvec.api.engine import Engine
from gpuvec.api.index_report import IndexReport
from gpuvec.api.index_work import IndexWork, current_report
from gpuvec.api.job import Job
from gpuvec.api.progress import progress
from gpuvec.index.spec import SPECS, Bitmap, IndexSpec
from gpuvec.meta.catalog import CollectionState, IndexDefinition
from gpuvec.meta.changes import Change, DropIndex
from gpuvec.node.loader import AUTO
from gpuvec.query.build import whole_number
from gpuvec.schema import FieldType, Schema, SparseVector
from gpuvec.settings import parse_memory
from gpuvec.types import Timestamp

if TYPE_CHECKING:
    from gpuvec.api.frame import Frame
    from gpuvec.api.source import CollectionSource
    from gpuvec.api.tuning import Tuning

_POLL_S = 0.1
_TABLE = pa.schema(
    [
        ("field", pa.string()),
        ("spec", pa.string()),
        ("recall", pa.float64()),
        ("target", pa.float64()),
        ("rows_covered", pa.int64()),
        ("rows", pa.int64()),
        ("waiting", pa.int64()),
        ("failure", pa.string()),
        ("wish", pa.string()),
        ("segments", pa.int64()),
        ("size_bytes", pa.int64()),
    ]
)


class Indexed:
    """The part of `Collection` that is about indexes."""

    _source: "CollectionSource"

    def create_index(
        self,
        field: str,
        index: str | IndexSpec = AUTO,
        *,
        recall: float = 0.95,
        k: int = 10,
        max_memory: int | str | None = None,
        wait: bool = True,
    ) -> "IndexReport | Job[IndexReport]":
        """Have an index of a field, in every segment of now and later.

        Rows that are only in the log are saved in files first, so that they get the index too. Each
        segment's index is built beside reads and writes, measured on rows that it had not been
        given, and used from then on; rows written later are scanned exactly until their segment has
        its own, which this call does not wait for. The same wish again changes nothing, and builds
        what is missing or damaged. Another one takes its place: what was built before serves until
        the new index of a segment is there, and stays if no part of that can be built. Ctrl-C, like
        `Job.cancel`, undoes this call's wish, and puts the one that it replaced back.

        Args:
            field: a vector field, or a scalar one.
            index: `auto` builds what is fastest at `recall` on this data, or nothing where the
                exact scan is as fast; or one of `gv.index`.
            recall: of vector fields: what searches want which name none; above 0, below 1.
            k: of vector fields: neighbours for which that is chosen.
            max_memory: bytes, or a text such as "20GiB", that the field's indexes may hold.
            wait: False returns a `Job` at once.

        Raises:
            NotFoundError: `GV-104`, no such field.
            QueryError: `GV-616` to `GV-621`, a wish that cannot be; `GV-340`, one that does not fit
                the field.
            UnsupportedError: `GV-614` sparse vectors, `GV-320` the index's library is missing.
            DeviceMemoryError: `GV-401`, `GV-402`, it does not fit `max_memory` or this process's.

        Warns:
            RecallWarning: no setting of the index that was asked for reaches `recall`; searches
                that want it scan exactly.
        """
        schema = self._engine.state(self._id).schema
        wish = _definition(schema, self._source.name, field, index, recall, k, max_memory)
        work = IndexWork(self._engine, self._id, self._source.name, wish)
        job: Job[IndexReport] = Job(work.definition.index_id, work)
        if work.is_new:
            self._engine.own_works.cancels(job.id, work.cancel)
        if not wait:
            return job
        try:
            if job.status == "running":
                show_building(work, job)
            return job.wait()
        except KeyboardInterrupt:
            if work.is_new:
                job.cancel()
            raise

    def drop_index(self, field: str) -> None:
        """Forget the index of a field; searches of it scan exactly again.

        Raises:
            NotFoundError: `GV-618`, it has none.
        """
        _check_name(field)

        def decide(state: CollectionState, _: Timestamp) -> list[Change]:
            if field not in state.indexes:
                raise errors.no_such_index(field, state.indexes)
            return [DropIndex(field=field)]

        self._engine.change(self._id, decide)
        self._engine.builds.tend()

    def indexes(self) -> "Frame":
        """Return one row per index: what was asked for, chosen, covered and measured."""
        from gpuvec.api.frame import frame

        rows = [
            {
                "field": report.field,
                "wish": report.wish,
                "spec": report.chosen,
                "segments": len(report.segments),
                "waiting": report.waiting,
                "rows_covered": report.rows_covered,
                "rows": report.rows,
                "recall": report.recall,
                "target": report.target,
                "size_bytes": report.size_bytes,
                "failure": report.failure or None,
            }
            for report in self._index_reports()
        ]
        return frame(pa.Table.from_pylist(rows, schema=_TABLE))

    def tune(
        self,
        field: str,
        *,
        recall: Sequence[float] = (0.9, 0.95, 0.99),
        k: Sequence[int] = (10, 100),
        queries: Any = None,
    ) -> "Tuning":
        """Measure the index of a field again, and let searches go by what is found.

        Args:
            field: a vector field that has an index.
            recall: the targets to tell settings for.
            k: neighbours to measure with.
            queries: real ones, as `search` takes them: the best there is, since rows may be easier
                than what is asked for. None: some of the rows, hidden from the answers; an `HNSW`
                is built once more without them, and thrown away.

        Raises:
            NotFoundError: `GV-104`, `GV-618` no such field or index.
            QueryError: `GV-623`, there is nothing to measure; `GV-354`, `GV-620`, `GV-625` no
                numbers or queries to measure with.

        Warns:
            RecallWarning: of so few queries nothing can be promised: searches go by what was
                measured before.
        """
        from gpuvec.api.tuning import tune

        _check_name(field)
        targets = [_target(one) for one in _some("recall", recall)]
        ks = [whole_number("k", one, least=1) for one in _some("k", k)]
        return tune(self._engine, self._id, field, recall=targets, ks=ks, queries=queries)

    # Inside

    @property
    def _engine(self) -> Engine:
        return self._source.engine

    @property
    def _id(self) -> str:
        return self._source.collection_id

    def _index_reports(self) -> list[IndexReport]:
        """Return the reports of all indexes, from metadata."""
        state = self._engine.state(self._id)
        return [current_report(self._engine, self._id, state, name) for name in state.indexes]


class Building(Protocol):
    """A job that builds an index."""

    what: str
    rows: int

    def pause(self, timeout_s: float) -> None:
        """See `gpuvec.api.job.Work.pause`."""


def show_building(work: Building, job: "Job[IndexReport]") -> None:
    """Show how far a job is until it ends."""
    with progress(work.what, work.rows, "rows") as tell:
        shown = 0
        while job.status == "running":
            done = int(job.progress * work.rows)
            if done > shown:
                tell(done - shown)
                shown = done
            work.pause(_POLL_S)
        if job.status == "done":
            tell(work.rows - shown)


def _definition(
    schema: Schema,
    name: str,
    field: str,
    index: Any,
    recall: Any,
    k: Any,
    max_memory: Any,
) -> IndexDefinition:
    """Return a wish, checked; see `Indexed.create_index`."""
    _check_name(field)
    if field not in schema.fields:
        raise errors.unknown_field(field, schema.fields, where=f'collection "{name}"')
    if index != AUTO and not isinstance(index, IndexSpec):
        raise errors.not_an_index(index, (cls.__name__ for cls in SPECS.values()))
    _check_fit(None if index == AUTO else index, field, schema[field])
    return IndexDefinition(
        index_id="",
        field=field,
        spec={"kind": AUTO} if index == AUTO else index.to_json(),
        recall=_target(recall) if schema[field].is_vector else None,
        k=whole_number("k", k, least=1),
        max_memory=_bytes(max_memory),
    )


def _check_name(field: Any) -> None:
    if not isinstance(field, str):
        raise errors.bad_number("field", field, "the name of a field")


def _check_fit(index: IndexSpec | None, field: str, kind: FieldType) -> None:
    if isinstance(kind, SparseVector):
        raise errors.no_sparse_index(field)
    if index is not None and not index.SCALAR:
        if not kind.is_vector:
            raise errors.vector_index_for(type(index).__name__, field, repr(kind))
    elif index is not None or not kind.is_vector:
        from gpuvec.index.scalar import check_field

        check_field(index or Bitmap(), field, kind)


def _some(option: str, given: Any) -> list[Any]:
    """Return the items of a list that is not empty, or of one number."""
    listed = isinstance(given, Iterable) and not isinstance(given, str | bytes)
    items = list(given) if listed else [given]
    if not items:
        raise errors.bad_number(option, given, "a number, or a list of some")
    return items


def _target(recall: Any) -> float:
    number = isinstance(recall, Real) and not isinstance(recall, bool)
    if not number or not 0 < float(recall) < 1:
        raise errors.bad_target(recall)
    return float(recall)


def _bytes(max_memory: Any) -> int | None:
    try:
        found = parse_memory(max_memory)
    except ValueError:
        raise errors.bad_max_memory(max_memory) from None
    part = isinstance(max_memory, Real) and float(max_memory) % 1 != 0
    if part or isinstance(found, float):  # a share says nothing of indexes that others open too
        raise errors.bad_max_memory(max_memory)
    return found
