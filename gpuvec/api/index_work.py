"""`IndexWork`: from a wish for an index to the indexes of all segments, or back."""

import warnings
from dataclasses import replace

from gpuvec import errors
from gpuvec.api.builds import Progress
from gpuvec.api.engine import Engine
from gpuvec.api.index_report import IndexReport, report_of
from gpuvec.api.job import Status
from gpuvec.coord.data_coord import is_hidden, least_rows, wants_index
from gpuvec.meta.catalog import CollectionState, IndexDefinition
from gpuvec.meta.changes import AddIndex, Change, DropIndex, SetIndex
from gpuvec.node.damaged import damaged
from gpuvec.node.loader import AUTO
from gpuvec.types import SegmentId, SegmentState, Timestamp

_UNSAVED = (SegmentState.GROWING, SegmentState.SEALED)


def current_report(
    engine: Engine, collection_id: str, state: CollectionState, name: str
) -> IndexReport:
    """Return the report of an index, with the last failure in this process."""
    error = engine.builds.progress(collection_id, name).error
    return report_of(state, name, "" if error is None else str(error).splitlines()[0])


class IndexWork:
    """Building the indexes of one definition; see `gpuvec.api.job.Work`.

    Making one commits the definition, unless it is there already, and begins.

    Attributes:
        definition: of the index.
        former: the one that it replaced; None: there was none.
        is_new: whether this work committed it.
        rows: that waited for their index at the start, at least 1.
    """

    def __init__(
        self, engine: Engine, collection_id: str, name: str, wish: IndexDefinition
    ) -> None:
        self._engine = engine
        self._id = collection_id
        self._field = wish.field
        self.definition = replace(wish, index_id=engine.mint())
        self.former: IndexDefinition | None = None
        self.is_new = True
        self._is_cancelled = False
        self.what = f'index of "{wish.field}" in "{name}"'
        self._damaged = self._find_damaged()
        engine.change(collection_id, self._decide)
        self._flush()
        engine.builds.tend(retry=collection_id)
        self._segments = engine.builds.waiting(collection_id, wish.field)
        self.rows = max(1, self._progress().waiting)

    def _decide(self, state: CollectionState, _: Timestamp) -> list[Change]:
        if self._field not in state.schema.fields:
            raise errors.unknown_field(self._field, state.schema.fields)
        known = state.indexes.get(self._field)
        if known is not None and known.same_wish(self.definition):
            self.definition, self.is_new = known, False
            return self._without_damaged(state, known)
        self.former = known
        return [_setting(state, self.definition)]

    def _find_damaged(self) -> set[SegmentId]:
        """Return the segments whose index cannot be read, if the same was wanted before."""
        channel = self._engine.channel(self._id)
        known = channel.state.indexes.get(self._field)
        if known is None or not known.same_wish(self.definition):
            return set()
        return damaged(channel.shard, self._field, channel.state.schema[self._field])

    def _without_damaged(self, state: CollectionState, known: IndexDefinition) -> list[Change]:
        """Return the changes that take damaged indexes out, and leave the others in."""
        if not self._damaged & state.segments.keys():
            return []
        whole = [
            AddIndex(segment_id=segment.segment_id, record=record)
            for segment in state.segments.values()
            if segment.segment_id not in self._damaged
            and (record := segment.indexes.get(self._field)) is not None
            and record.definition_id == known.index_id
        ]
        return [SetIndex(definition=known), *whole]

    def _flush(self) -> None:
        """Save growing rows, unless they are too few for an index."""
        least = least_rows(self.definition)
        infos = self._engine.channel(self._id).shard.infos()
        unsaved = [info.row_count for info in infos if info.state in _UNSAVED]
        if least is not None and max(unsaved, default=0) >= least:
            self._engine.flush(self._id)

    @property
    def size(self) -> int:
        """What there is to do: rows."""
        return self.rows

    @property
    def _state(self) -> CollectionState:
        return self._engine.channel(self._id).state

    def _current(self, state: CollectionState) -> bool:
        found = state.indexes.get(self._field)
        return found is not None and found.index_id == self.definition.index_id

    def _progress(self) -> Progress:
        """Return how far the segments are that lacked the index at the start."""
        return self._engine.builds.progress(self._id, self._field, self._segments)

    def status(self) -> Status:
        """See `Work.status`."""
        if self._is_cancelled or not self._current(self._state):
            return "cancelled"
        found = self._progress()
        if not found.waiting:
            return "done"
        return "running" if found.error is None else "failed"

    def _has_part(self, state: CollectionState) -> bool:
        records = [s.indexes.get(self._field) for s in state.segments.values()]
        name = self.definition.index_id
        return any(record is not None and record.definition_id == name for record in records)

    def share(self) -> float:
        """See `Work.share`."""
        found = self._progress()
        return min(1.0, max(0.0, 1 - (found.waiting - found.done) / self.rows))

    def pause(self, timeout_s: float) -> None:
        """See `Work.pause`."""
        self._engine.builds.wait(timeout_s)

    def result(self) -> IndexReport:
        """See `Work.result`. A new wish of which no part could be built is undone."""
        state = self._state
        if self._is_cancelled or not self._current(state):
            raise errors.job_cancelled(self.what)
        error = self._progress().error
        if error is not None:
            if self.is_new and not self._has_part(state):
                self.cancel()
            raise errors.as_build_error(self._field, error) from error
        report = current_report(self._engine, self._id, state, self._field)
        if report.wish != AUTO:
            _warn_if_short(report)
        return report

    def cancel(self) -> None:
        """See `Work.cancel`: put back what this work replaced; a wish of before it stays."""
        self._is_cancelled = True
        if not self.is_new:
            return

        def decide(state: CollectionState, _: Timestamp) -> list[Change]:
            if not self._current(state):
                return []
            if self.former is not None:
                return [_setting(state, self.former)]
            return [DropIndex(field=self._field)]

        self._engine.change(self._id, decide)
        self._engine.builds.tend()


def _setting(state: CollectionState, wish: IndexDefinition) -> SetIndex:
    """Return the change to a wish; what was built serves until then, where all of it is replaced.

    Without that, an index would stay for good where the new wish is for the exact scan.
    """
    later = replace(state, indexes={**state.indexes, wish.field: wish})
    seen = [s for s in state.segments.values() if not is_hidden(state, s)]
    having = [segment for segment in seen if wish.field in segment.indexes]
    keeps = all(wants_index(later, segment, wish.field) for segment in having)
    return SetIndex(definition=wish, keeps=keeps)


def _warn_if_short(report: IndexReport) -> None:
    """Warn of segments whose settings miss the target, not of those too small to show it."""
    target = report.target or 0.0
    short = [s for s in report.short if s.recall is not None and s.recall < target]
    if not short:
        return
    most = min(short, key=lambda segment: segment.recall or 0.0)
    text = (
        f'{report.wish} of "{report.field}" reaches recall {most.recall:.3f} at most, not '
        f"{target:g} (k={report.k}, a segment of {most.rows:,} rows): searches that want "
        f"{target:g} scan exactly there. Build it larger, or ask for less"
    )
    warnings.warn(text, errors.RecallWarning, stacklevel=5)
