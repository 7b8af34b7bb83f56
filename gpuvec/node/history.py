"""Older versions of a channel: today's segments, masked by time."""

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from gpuvec.clock import LOGICAL_BITS
from gpuvec.errors import no_such_version, version_expired
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.past import state_at
from gpuvec.meta.retention import readable
from gpuvec.node.delegator import Segment, Visibility
from gpuvec.node.loader import wanted_spec
from gpuvec.segment.sealed import SealedSegment
from gpuvec.segment.view import Snapshot
from gpuvec.segment.visible import Layout, VisibleSegment
from gpuvec.types import Timestamp

_KEPT = 8  # versions whose masks stay


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a version was when it was last asked for; masks are in the views."""

    state: CollectionState
    past: CollectionState  # the same as of the version
    views: dict[int, tuple[Segment, VisibleSegment]]  # by identity of the segment


class History:
    """Reads a channel at older versions. Safe for use by several threads."""

    def __init__(self) -> None:
        self._seen: OrderedDict[Timestamp, _Seen] = OrderedDict()
        self._lock = threading.Lock()

    def snapshots(
        self,
        segments: Sequence[Segment],
        state: CollectionState,
        name: str,
        versions: Sequence[Timestamp],
        now_ms: int | None = None,
    ) -> list[Snapshot]:
        """Return what was visible at some versions.

        Args:
            segments: all that reads see now.
            state: the newest one, which holds what the versions need.
            name: of the collection, for messages.
            versions: closed: every write up to them is published.
            now_ms: decides what has outlived its time; None: the time of each version does.

        Cost: per version, a pass over the insertion times of segments that hold younger rows, once.
        """
        return [self._snapshot(segments, state, name, version, now_ms) for version in versions]

    def _snapshot(
        self,
        segments: Sequence[Segment],
        state: CollectionState,
        name: str,
        version: Timestamp,
        now_ms: int | None,
    ) -> Snapshot:
        seen = self._last(version)
        past = seen.past if seen is not None and seen.state is state else state_at(state, version)
        known = {} if seen is None else seen.views
        views = views_at(segments, past, version, known, now_ms=now_ms)
        with self._lock:
            self._seen[version] = _Seen(state, past, {id(s): (s, view) for s, view in views})
            self._seen.move_to_end(version)
            while len(self._seen) > _KEPT:
                self._seen.popitem(last=False)
        return Snapshot(
            name=name,
            version=version,
            schema=past.schema,
            segments=tuple(view for _, view in views),
            indexes={field: wanted_spec(wish) for field, wish in past.indexes.items()},
        )

    def _last(self, version: Timestamp) -> _Seen | None:
        with self._lock:
            return self._seen.get(version)


def views_at(
    segments: Sequence[Segment],
    past: CollectionState,
    version: Timestamp,
    known: Mapping[int, tuple[Segment, VisibleSegment]] = MappingProxyType({}),
    *,
    now_ms: int | None = None,
) -> list[tuple[Segment, VisibleSegment]]:
    """Return a view of each segment that may have rows visible at a version.

    Args:
        segments: to look at.
        past: the state as of the version.
        version: see `History.snapshots`.
        known: views from before, by identity of the segment: they come back where they still hold.
        now_ms: see `History.snapshots`.
    """
    layout = Layout(past.schema, past.schema_version, past.field_versions)
    visibility = Visibility(past.truncated_ts, dict(past.dropped_partitions), past.ttl_s)
    found = []
    outlived = visibility.outlived(version >> LOGICAL_BITS if now_ms is None else now_ms)
    for segment in segments:
        hidden = max(visibility.hidden_until(segment.partition), outlived)
        if segment.first_ts > version or segment.last_ts <= hidden:
            continue
        view = segment.view(layout, hidden, version=version)
        if view.num_rows == 0 or _is_gone(segment, view):
            continue
        old = known.get(id(segment))
        if old is not None and old[0] is segment and _is_same(old[1], view):
            view = old[1]
        found.append((segment, view))
    return found


def _is_gone(segment: Segment, view: VisibleSegment) -> bool:
    """Return whether all rows of a segment were deleted; what is known without a mask."""
    enough = isinstance(segment, SealedSegment) and view.delete_count >= view.num_rows
    return (
        enough
        and view.delete_count == len(segment.deletes)
        and segment.deletes.hides_all(view.num_rows)
    )


def _is_same(old: VisibleSegment, new: VisibleSegment) -> bool:
    return (old.num_rows, old.delete_count, old.hidden_until, old.generation) == (
        new.num_rows,
        new.delete_count,
        new.hidden_until,
        new.generation,
    ) and old.indexes is new.indexes


def check_readable(
    state: CollectionState, name: str, version: Timestamp, newest: Timestamp
) -> None:
    """Raise when a version cannot be read.

    Raises:
        NotFoundError: `GV-641`, it is above the newest one.
        SnapshotExpiredError: `GV-640`, its rows are gone.
    """
    if version > newest:
        raise no_such_version(name, version, newest=newest)
    if not readable(state, version):
        raise version_expired(name, version, oldest=state.past.forgotten, tags=state.tags)
