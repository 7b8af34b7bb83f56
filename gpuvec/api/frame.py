"""`Frame`: a lazy query. Each method adds a node to a plan and checks it; nothing runs yet."""

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gpuvec import errors
from gpuvec.api.display import frame_html, frame_text
from gpuvec.api.frame_output import Outputs
from gpuvec.api.inputs import checked_names, query_set, source_of
from gpuvec.api.result import Result
from gpuvec.expr.parse import as_filter
from gpuvec.expr.tree import Expr, lit
from gpuvec.query import build, build_search
from gpuvec.query.collect import collect_rows, count_rows, stream_rows
from gpuvec.query.plan import Columns, Plan, Project
from gpuvec.query.session import Session, default_session
from gpuvec.rows import Rows

if TYPE_CHECKING:
    import pyarrow as pa

    from gpuvec.api.grouping import GroupBy
    from gpuvec.api.job import Job
    from gpuvec.api.report import RecallReport
    from gpuvec.query.explain import PlanText

ENGINES = ("auto", "local")


class Frame(Outputs):
    """A query that has not run: methods return new frames, only `collect` and its like run it.

    The order of the chain is its meaning: `filter` before `search` chooses the candidates, after it
        thins the
    answers. Columns that nothing uses are not read. Each run sees one version of the data.
    """

    def __init__(self, plan: Plan, session: Session) -> None:
        self._plan = plan
        self._session = session

    @property
    def plan(self) -> Plan:
        """What was asked, as a tree."""
        return self._plan

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in the order in which they leave."""
        return self.plan.columns.visible

    @property
    def schema(self) -> Any:
        """The columns with their types: `schema.fields`, `schema.primary_key`."""
        return self._output

    @property
    def _output(self) -> Columns:
        return self.plan.columns.leaving

    def _with(self, plan: Plan) -> "Frame":
        return Frame(plan, self._session)

    # rows

    def filter(self, predicate: str | Expr, *, params: Mapping[str, Any] | None = None) -> "Frame":
        """Return the rows for which the predicate is true; null counts as false.

        Args:
            predicate: filter text or an expression.
            params: values of the `{name}` in the text.

        Raises:
            FilterError: syntax, types, parameters.
            NotFoundError: `GV-104`, an unknown column.
        """
        return self._with(build.filter_rows(self.plan, as_filter(predicate, params)))

    def get(self, ids: Iterable[Any]) -> "Frame":
        """Return the rows with these primary keys, in this order, leaving out keys of no row."""
        return self._with(build.get(self.plan, ids))

    def sort(self, *names: str, descending: bool | Sequence[bool] = False) -> "Frame":
        """Return the rows ordered by columns; equal rows keep their order, nulls come last."""
        return self._with(build.sort(self.plan, checked_names("sort", names), descending))

    def limit(self, n: int) -> "Frame":
        """Return the first `n` rows."""
        return self._with(build.limit(self.plan, n))

    def sample(self, n: int, *, seed: int | None = None) -> "Frame":
        """Return `n` rows drawn without replacement, in the order of the frame."""
        return self._with(build.sample(self.plan, n, seed))

    def distinct(self, *names: str) -> "Frame":
        """Return the first row of each combination of these columns; of all columns by default."""
        return self._with(build.distinct(self.plan, checked_names("distinct", names)))

    def concat(self, *others: "Frame") -> "Frame":
        """Return the rows of this frame, then those of others with the same columns."""
        return self._with(build.concat([self.plan, *(frame(other).plan for other in others)]))

    def join(
        self,
        right: Any,
        on: str | Sequence[str] | None = None,
        *,
        left_on: str | Sequence[str] | None = None,
        right_on: str | Sequence[str] | None = None,
        how: str = "inner",
        suffix: str = "_right",
    ) -> "Frame":
        """Return the pairs of rows with equal keys, in this frame's order. Null equals nothing.

        Args:
            right: a frame, or whatever `gv.frame` takes.
            on: columns of both; or `left_on` and `right_on`.
            left_on: columns of this frame.
            right_on: columns of the other.
            how: `inner`, `left`, `semi` (rows with a partner) or `anti` (rows without).
            suffix: of right columns whose names are taken.
        """
        sides = [side for side in (left_on, right_on) if side is not None]
        if len(sides) != (2 if on is None else 0):
            raise errors.unclear_join_keys()
        keys = [_names(on if on is not None else side) for side in (left_on, right_on)]
        other = frame(right).plan
        return self._with(build.join(self.plan, other, *keys, how=how, suffix=suffix))

    # columns

    def select(self, *columns: str | Expr) -> "Frame":
        """Return only these columns, in this order. Expressions need a name: `.alias("name")`."""
        return self._with(build.select(self.plan, columns))

    def drop(self, *names: str) -> "Frame":
        """Return all columns but these."""
        return self._with(build.drop(self.plan, checked_names("drop", names)))

    def with_columns(self, **computed: Any) -> "Frame":
        """Return the frame with columns added or replaced: `with_columns(half=c("price") / 2)`."""
        for name, value in computed.items():
            if value is None:
                raise errors.untyped_nulls(name)
        made = {name: lit(value) for name, value in computed.items()}
        return self._with(build.with_columns(self.plan, made))

    def group_by(self, *names: str) -> "GroupBy":
        """Return groups of rows with equal values, for `.agg(...)` or `.head(n)`."""
        from gpuvec.api.grouping import GroupBy

        build.group_head(self.plan, checked_names("group_by", names), 1)
        return GroupBy(self, names)

    def describe(self) -> "Frame":
        """Return one row per column: count, nulls, min, max, mean, standard deviation."""
        return self._with(build.describe(self.plan))

    # search

    def search(
        self,
        queries: Any,
        k: int | None = build_search.DEFAULT_K,
        *,
        on: str | None = None,
        query_on: str | None = None,
        query_id: str | None = None,
        radius: float | tuple[float, float] | None = None,
        group_by: str | None = None,
        group_size: int = 1,
        exclude_self: bool = False,
        metric: str | None = None,
        recall: float | None = None,
        exact: bool = False,
        params: Mapping[str, Any] | None = None,
    ) -> "Frame":
        """Return the nearest rows of this frame for each query.

        The answer has one row per query and neighbour: `query_id`, `rank` from 1, the primary key
        (or `row`, the row number, without one), `distance`, then the other columns; vectors leave
        only when selected. Rows come in query order, then by rank, equal distances by primary key.
        Without an index the answer is exact.

        With an index, `recall` is the mean share, over the queries, of the true `k` nearest rows
        among those the prefilter leaves. Segment by segment the search takes the fastest setting
        of the index that was measured to reach it, with the lower end of a 95 % interval, at a `k`
        and a share of passing rows as hard as its own, for filters that follow the queries too;
        where none does, where the scan is as fast, and on rows newer than the index, the scan is
        exact. Rows that an index leaves a query short of are found by a scan. What was measured on
        rows may not hold for queries of another kind, so a few are answered exactly too (those of
        a first batch before the rest); while the database is open, a setting that falls short on
        them makes way for a more thorough one, and the more were checked, the nearer to the target
        it comes. So which one is taken may depend on the queries before, but none that the measured
        curve does not allow. `explain` tells the ways,
        `collect().metrics.recall` what is expected, `evaluate` measures it.

        Searches with `radius` but no `k`, with `group_by`, with `k=None`, by another metric, on a
        GPU, and of rows that were sorted, limited, sampled or joined are always exact.

        Args:
            queries: one vector, a 2-D array, or rows with vectors: a frame, a Parquet glob,
                anything `gv.frame` takes.
            k: neighbours per query, or groups with `group_by`; None: all. With a radius and no `k`:
                all within it.
            on: the vector field, needed if there are several.
            query_on: the vector column of a query frame; by default its only one.
            query_id: the column that names its queries; by default its primary key or the row
                number.
            radius: only rows within this distance; a pair (low, high) asks for low < distance <=
                high.
            group_by: count groups of equal values, not rows: the `k` nearest groups.
            group_size: rows of each group.
            exclude_self: leave out the row with the query's own primary key.
            metric: another than the field's.
            recall: the share of the true neighbours that is enough; None: what the index was made
                for.
            exact: the true answer; no index is used.
            params: the index's own knobs, whatever recall they give; segments without an index that
                has them are scanned.

        Raises:
            QueryError: options that contradict one another, or cannot be; `GV-318`, `GV-351`,
                `GV-372`, knobs that no index of the field has, or that this search cannot use.
            SchemaError: `GV-113`, queries of another dimension.
            NotFoundError: `GV-104`, an unknown column.
        """
        node = self.plan
        field = build_search.vector_field(node.columns, on)
        asked = query_set(queries, node.columns, field, query_on, query_id)
        plan = build_search.search(
            node, asked, field,
            k=k, radius=radius, group_by=group_by, group_size=group_size,
            exclude_self=exclude_self, metric=metric, recall=recall, exact=exact, params=params,
        )  # fmt: skip
        return self._with(plan)

    def evaluate(self, sample: int = 1000, *, seed: int = 0) -> "RecallReport":
        """Measure the recall of this frame's search against an independent exact answer.

        The search runs as it would, with its filters and indexes; the answer it is held against is
        computed without them, in double precision.

        Args:
            sample: queries to draw; all, if there are no more.
            seed: of the draw.

        Warns:
            RecallWarning: the recall is below the one wanted, by its whole interval.
        """
        from gpuvec.api.report import RecallReport
        from gpuvec.query.recall import measure

        report = RecallReport.of(measure(self.plan, self._session, sample, seed))
        if report.falls_short:
            warnings.warn(report.warning(), errors.RecallWarning, stacklevel=2)
        return report

    def explain(self, *, analyze: bool = False) -> "PlanText":
        """Return how the frame would run; `analyze` runs it and adds what was measured."""
        from gpuvec.query.explain import explain

        return explain(self.plan, self._session, analyze=analyze)

    # answers

    def collect(self, *, engine: str = "auto") -> Result:
        """Run, and return the rows.

        Args:
            engine: where: `auto` or `local` (this process).

        Raises:
            ResultTooLargeError: `GV-420`, the answer is larger than host memory.
        """
        if engine not in ENGINES:
            raise errors.bad_choice("engine", engine, ENGINES)
        rows, metrics = collect_rows(self.plan, self._session)
        return Result(rows, self._output, metrics)

    def head(self, n: int = 10) -> Result:
        """Run, and return the first `n` rows."""
        return self.limit(n).collect()

    def count(self) -> int:
        """Run, and return the number of rows."""
        return count_rows(self.plan, self._session)

    def to_cudf(self) -> Any:
        """Run, and return a cuDF DataFrame; vectors, as lists, only where `select` names them.

        On a device, rows of a collection that filters chose do not leave it.

        Raises:
            UnsupportedError: `GV-930`, cuDF is not installed; `GV-910`, a vector column is larger
                than cuDF can hold.
        """
        from gpuvec.query.device_frame import frame_on_device

        vectors = [] if isinstance(self.plan, Project) else list(self.plan.columns.vectors)
        slim = self.drop(*vectors) if vectors else self
        found = frame_on_device(slim.plan, self._session)
        return slim.collect().to_cudf() if found is None else found.frame

    def to_batches(self, n: int | None = None) -> Iterator["pa.RecordBatch"]:
        """Yield the rows in order, as Arrow batches of `n` rows, computed as they are read.

        A search is answered query by query in bounded memory; with `k=None` neighbours come in
        order for as long as one reads.
        """
        from gpuvec.api.output import arrow_batches

        size = None if n is None else build.whole_number("n", n, least=1)
        return arrow_batches(stream_rows(self.plan, self._session, size), self._output)

    def to_parquet(self, path: str | os.PathLike[str], *, partition_by: Any = None) -> None:
        """Run, and write the rows as they are computed.

        Args:
            path: a file, if it ends in `.parquet`, else a folder; local or any fsspec URL.
            partition_by: columns by whose values rows go to folders `column=value`.

        Raises:
            AlreadyExistsError: `GV-366`, the folder is not empty.
        """
        from gpuvec.api.output import write_parquet

        names = () if partition_by is None else _names(partition_by)
        build.check_names(names, self._output)
        rows = stream_rows(self.plan, self._session, None)
        write_parquet(rows, self._output, os.fspath(path), names)

    def submit(
        self, path: str | os.PathLike[str] | None = None, *, part_rows: int | None = None
    ) -> "Job[Frame]":
        """Run as a batch job: rows go to Parquet files, part by part, and a kill loses no part.

        What is done is noted in the database, so any process can watch the job, end it or go on:
        `db.jobs()`, `db.job(id)`. It reads the versions of now, whatever is written meanwhile;
        files it reads must stay as they are. Its result is a frame of the written rows: those of
        `collect`, in its order; where a collection gives the queries, in the order of its keys.

        Args:
            path: an empty or new folder, local or any fsspec URL; None: with the database.
            part_rows: queries of one part, or rows where nothing is searched for; None: as many as
                take about two seconds.

        Raises:
            AlreadyExistsError: `GV-366`, the folder is not empty.
            UnsupportedError: `GV-771`, the frame reads no collection, or of several databases.
        """
        from gpuvec.api.jobs import submit

        return submit(self.plan, self._session, path, part_rows)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Run, and hand the rows to any reader of Arrow streams."""
        from gpuvec.api.output import arrow_stream

        rows = stream_rows(self.plan, self._session, None)
        return arrow_stream(rows, self._output).__arrow_c_stream__(requested_schema)

    def __gpuvec_rows__(self) -> Rows:
        """Run, and return the rows as gpuvec holds them: what `insert` takes without copies."""
        return self.collect().rows

    def __len__(self) -> int:
        raise errors.frame_is_lazy("it has no length", "frame.count() runs it")

    def __bool__(self) -> bool:
        raise errors.frame_is_lazy("it is neither true nor false", "frame.count() > 0 runs it")

    def __iter__(self) -> Iterator[Any]:
        raise errors.frame_is_lazy("it has no rows to walk", "for batch in frame.to_batches(4096)")

    def __repr__(self) -> str:
        return frame_text(self.plan)

    def _repr_html_(self) -> str:
        return frame_html(self.plan)


def frame(data: Any, *, primary_key: str | None = None) -> Frame:
    """Return data as a frame: a dataframe, arrays, rows, or a path, URL or glob of files.

    Args:
        data: a frame comes back as it is.
        primary_key: the column whose values name the rows; not null, not checked for duplicates.
    """
    if isinstance(data, Frame):
        return data
    return Frame(build.scan(source_of(data, primary_key)), default_session())


def _names(names: Any) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
