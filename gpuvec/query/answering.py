"""The node's side of a read: answers to questions about some segments of a snapshot."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc

from gpuvec.once import cached_property
from gpuvec.query import questions as q
from gpuvec.query.branch import found_by, joined
from gpuvec.query.execute import Run, empty_part
from gpuvec.query.fragment import Given, has_filters, unpack, unpack_search, without_filters
from gpuvec.query.measurements import Measurements
from gpuvec.query.part import Part
from gpuvec.query.partial import grouped_alike, groups_of, heads_of
from gpuvec.query.reduce import IntArray
from gpuvec.query.row_set import RowSet
from gpuvec.query.search import Searcher
from gpuvec.query.session import Session
from gpuvec.query.target import make_targets
from gpuvec.segment.view import SegmentView, Snapshot
from gpuvec.types import SegmentId


class UnknownSegmentError(LookupError):
    """A question names rows that are only in the log, as another node called them."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """What a question is about.

    Attributes:
        snapshot: whose `segments` are those that are asked about, in their order.
        growing: which of them are only in the log.
        after: for each growing one, the segment in files before it.
        session: memory, threads and caches.
        version: names what is visible, with the segment: a key for caches.
    """

    snapshot: Snapshot
    growing: frozenset[SegmentId]
    after: Mapping[SegmentId, str]
    session: Session
    version: tuple[Any, ...]


def answer(question: Any, asked: Asked) -> q.Answer:
    """Return the answer to a question of `gpuvec.query.questions`.

    Raises:
        UnknownSegmentError: the read is to begin anew.
        GpuvecError: what the rows themselves raise.
    """
    start = time.perf_counter()
    rows = _Rows(question, asked)
    with rows.running():
        found: q.Answer = _ANSWERS[type(question)](question, rows)
    rows.metrics.seconds = time.perf_counter() - start
    return replace(found, metrics=rows.metrics)


@dataclass(frozen=True, slots=True, eq=False)
class _Passing:
    """Which rows of a segment pass the filters of a fragment; None: all, if there are any."""

    rows: RowSet | None
    count: int
    pruned: bool


def _passing_bytes(passing: _Passing) -> int:
    return 0 if passing.rows is None else passing.rows.nbytes


class _Rows:
    """The rows of a fragment in the segments that are asked about."""

    def __init__(self, question: Any, asked: Asked) -> None:
        self.asked = asked
        self.session = asked.session
        self._fragment = question.fragment
        self._searches = _ANSWERS[type(question)] is _search
        partition = self._fragment.partition
        own = asked.snapshot.segments
        if partition is not None:
            own = tuple(view for view in own if getattr(view, "partition", None) == partition)
        self.views: Sequence[SegmentView] = own
        self._source = Given(replace(asked.snapshot, segments=own))
        self.plan = unpack(self._fragment, self._source)
        self._run: Run | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Hold what is read."""
        with Run(self.session) as self._run:
            yield

    @property
    def run(self) -> Run:
        """Of this question."""
        assert self._run is not None
        return self._run

    @property
    def metrics(self) -> Measurements:
        """What was measured."""
        return self.run.metrics

    @cached_property
    def parts(self) -> dict[SegmentId, Part]:
        """The rows that pass, by segment; those of which none does are left out."""
        if not has_filters(self.plan):
            parts = self.run.parts(self.plan)
            return {_view(part).segment_id: part for part in parts if part.num_rows}
        found = {}
        for part in self.run.parts(without_filters(self.plan)):
            passing = self._passing(_view(part))
            self.metrics.segments_pruned += passing.pruned
            if passing.count:
                assert part.origin is not None
                found[_view(part).segment_id] = part.origin.part(passing.rows)
        return found

    def _passing(self, view: SegmentView) -> _Passing:
        def make() -> _Passing:
            some = Given(replace(self.asked.snapshot, segments=(view,)))
            with Run(self.session, for_search=self._searches) as run:
                parts = list(run.parts(unpack(self._fragment, some)))
            self.metrics.stages.update(run.metrics.stages)
            if not parts or not parts[0].num_rows:
                return _Passing(None, 0, run.metrics.segments_pruned > 0)
            assert parts[0].origin is not None
            return _Passing(parts[0].origin.rows, parts[0].num_rows, False)

        if self.session.device_store is not None:  # bits lie there, under their own name
            return make()
        key = (view.segment_id, view.generation, "passing", self._fragment.key)
        found: _Passing = self.session.cache.get((*key, *self.asked.version), make, _passing_bytes)
        return found

    def piece(self, segment: SegmentId) -> q.Piece:
        """Return what is said of the rows of a segment."""
        part, asked = self.parts.get(segment), self.asked
        return q.Piece(
            segment_id=segment,
            growing=segment in asked.growing,
            after=asked.after.get(segment, ""),
            num_rows=self._sizes[segment],
            passing=0 if part is None else part.num_rows,
        )

    @cached_property
    def _sizes(self) -> dict[SegmentId, int]:
        return {view.segment_id: view.num_rows for view in self.views}

    def growing(self, segments: Sequence[SegmentId]) -> tuple[bool, ...]:
        """Return which segments are only in the log."""
        return tuple(segment in self.asked.growing for segment in segments)


def _view(part: Part) -> SegmentView:
    assert part.origin is not None
    return part.origin.view


def _base(part: Part) -> Part:
    assert part.origin is not None
    return part.origin.base


def _count(question: q.CountRows, rows: _Rows) -> q.Counted:
    return q.Counted(pieces=tuple(rows.piece(view.segment_id) for view in rows.views))


def _take(question: q.TakeRows, rows: _Rows) -> q.ColumnsRead:
    found = []
    for segment, numbers in (*question.sealed.items(), *question.growing.items()):
        if segment not in rows.parts:
            raise UnknownSegmentError(segment)
        part = rows.parts[segment]
        whole = part if question.passing else _base(part)
        every = isinstance(numbers, range) and len(numbers) == whole.num_rows
        found.append((segment, whole if every else whole.take(np.asarray(numbers, np.int64))))
    return _columns(question.names, rows, found)


def _columns(
    names: Sequence[str], rows: _Rows, parts: Sequence[tuple[SegmentId, Part]]
) -> q.ColumnsRead:
    with rows.metrics.stage("fetch"):
        for _, part in parts:
            part.prepare(names)
        read = {name: joined([part.column(name) for _, part in parts]) for name in names if parts}
    return q.ColumnsRead(
        segments=tuple(segment for segment, _ in parts),
        counts=tuple(part.num_rows for _, part in parts),
        columns=read or {name: empty_part(rows.plan.columns).column(name) for name in names},
    )


def _group(question: q.GroupRows, rows: _Rows) -> q.Grouped:
    keys, steps = question.keys, question.steps
    together = list(grouped_alike(rows.parts.items(), rows.asked.after))
    with rows.metrics.stage("group"):
        found = [groups_of(part, keys, steps) for _, part in together]
        if not found:
            found = [groups_of(empty_part(rows.plan.columns), keys, steps)]
        columns = {n: joined([groups.columns[n] for groups in found]) for n in found[0].columns}
    return q.Grouped(
        pieces=tuple(rows.piece(segment) for segment, _ in together),
        counts=tuple(groups.count for groups in found[: len(together)]),
        columns=columns,
    )


def _first(question: q.FirstRows, rows: _Rows) -> q.Grouped:
    names, parts = question.keys, rows.parts
    with rows.metrics.stage("group"):
        found = [
            heads_of([part.column(name) for name in names], names, question.count)
            for part in parts.values()
        ]
        heads = [part.take(own) for part, own in zip(parts.values(), found, strict=True)]
        if not heads:
            heads = [empty_part(rows.plan.columns)]
        columns = {name: joined([head.column(name) for head in heads]) for name in names}
    return q.Grouped(
        pieces=tuple(rows.piece(segment) for segment in parts),
        counts=tuple(map(len, found)),
        columns=columns,
        rows=np.concatenate([_NONE, *found]),
    )


def _find(question: q.FindKeys, rows: _Rows) -> q.KeysFound:
    segments: list[SegmentId] = []
    whose, numbers, places = [_NONE], [_NONE], [_NONE]
    for segment, part in rows.parts.items():
        place = pc.index_in(part.column(question.key), value_set=question.wanted)
        found = np.flatnonzero(np.asarray(place.is_valid()))
        if not len(found):
            continue
        assert part.origin is not None
        keep = part.origin.keep
        places.append(np.asarray(place.drop_null()).astype(np.int64))
        whose.append(np.full(len(found), len(segments), np.int64))
        numbers.append(found if keep is None else np.flatnonzero(keep)[found])
        segments.append(segment)
    return q.KeysFound(
        segments=tuple(segments),
        growing=rows.growing(segments),
        segment=np.concatenate(whose),
        row=np.concatenate(numbers),
        place=np.concatenate(places),
    )


def _search(question: q.SearchRows, rows: _Rows) -> q.RowsFound:
    node = unpack_search(question.search)
    targets = make_targets(rows.parts.values(), node, rows.session)
    searcher = Searcher(node, targets, rows.session, rows.metrics)
    rows.metrics.rows_passed += searcher.total
    rows.metrics.note_search()
    with rows.metrics.stage("search"):
        found = found_by(searcher, question)
    segments, used = list(rows.parts), np.unique(found.hits.part)
    own = tuple(segments[number] for number in used)
    hits = replace(found.hits, part=np.searchsorted(used, found.hits.part))
    return replace(found, segments=own, growing=rows.growing(own), hits=hits)


_NONE: IntArray = np.empty(0, np.int64)
_ANSWERS: dict[type[Any], Callable[[Any, _Rows], q.Answer]] = {
    q.CountRows: _count,
    q.TakeRows: _take,
    q.FindKeys: _find,
    q.GroupRows: _group,
    q.FirstRows: _first,
    q.SearchRows: _search,
    q.SearchGroups: _search,
    q.FillGroups: _search,
}
