"""`compact` and `vacuum`: what maintenance does by itself, at once and in full."""

import datetime
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gpuvec import errors
from gpuvec.api.maintenance import Maintenance
from gpuvec.coord.compaction import Rewrite, Wanted, plan_all, plan_vacuum
from gpuvec.messages import SegmentWeight
from gpuvec.meta.past import definition_for_rows
from gpuvec.node.shards import Channels
from gpuvec.settings import config
from gpuvec.types import SegmentState

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gpuvec.api.source import CollectionSource

_AGE = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])\Z")
_AGE_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_LEAST_GRACE_S = 60.0  # another process may read what was current so long ago
_SOON_S = 1.0  # what waits no longer is waited for


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactReport:
    """What `compact` did, or with `dry_run` would do.

    Attributes:
        segments_before: in files; with `dry_run` also those that rows in the log would become.
        segments_after: the same, afterwards; those that hold old versions only are counted too.
        rows_removed: deleted ones that no version needs.
        bytes_read: of the segments that were replaced.
        bytes_written: of those that took their place; 0 with `dry_run`.
        dry_run: whether nothing was changed.
    """

    segments_before: int
    segments_after: int
    rows_removed: int
    bytes_read: int
    bytes_written: int
    dry_run: bool

    def __repr__(self) -> str:
        made, removed = ("would make", "remove") if self.dry_run else ("made", "removed")
        text = (
            f"CompactReport({made} {self.segments_after:,} of "
            f"{_count(self.segments_before, 'segment')}, {removed} "
            f"{_count(self.rows_removed, 'row')}, read {_size(self.bytes_read)}"
        )
        return f"{text})" if self.dry_run else f"{text}, wrote {_size(self.bytes_written)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class VacuumReport:
    """What `vacuum` did, or with `dry_run` would do.

    Attributes:
        rows_removed: that no version needs any more.
        segments_rewritten: because they held some of these.
        files_deleted: that no version needs; with `dry_run` those that are unused now.
        bytes_deleted: of these.
        files_waiting: unused, but a read may still use them; a later `vacuum`, or maintenance,
            deletes them.
        bytes_waiting: of these.
        wait_s: until all of them can be deleted, unless a read or a pin lasts longer.
        dry_run: whether nothing was changed.
    """

    rows_removed: int
    segments_rewritten: int
    files_deleted: int
    bytes_deleted: int
    files_waiting: int
    bytes_waiting: int
    wait_s: float
    dry_run: bool

    def __repr__(self) -> str:
        verb = "would remove" if self.dry_run else "removed"
        text = (
            f"VacuumReport({verb} {_count(self.rows_removed, 'row')} and "
            f"{_count(self.files_deleted, 'file')} of {_size(self.bytes_deleted)}"
        )
        if self.files_waiting:
            text += (
                f"; {_count(self.files_waiting, 'file')} of {_size(self.bytes_waiting)} "
                f"wait{'s' if self.files_waiting == 1 else ''} up to "
                f"{math.ceil(self.wait_s):,} s for reads to end"
            )
        return text + ")"


class Maintained:
    """The methods of a collection that put its segments and files in order."""

    _source: "CollectionSource"

    def compact(self, *, dry_run: bool = False) -> CompactReport:
        """Bring all rows into as few segments as `compact.size_bytes` allows, per partition.

        Small segments are merged, deleted rows leave, and indexes are built for the new segments.
        Much of it happens by itself too. Reads and writes go on meanwhile; a running compaction or
        vacuum of the same database is waited for.

        Args:
            dry_run: change nothing, tell what would be done.

        Raises:
            QueryError: `GV-631`, the collection reads files of others in place.
        """
        engine = self._source.engine
        with engine.owning(self._source.collection_id) as (channel, generation):
            maintenance = engine.maintenance
            if channel.state.external is not None:
                raise errors.read_only_files("compact()", self._source.name)
            if not dry_run:
                channel.own(generation)
                channel.flush(generation)
            before = maintenance.weights(channel)
            wanted = maintenance.wanted
            if dry_run:
                before = (*before, *_unsaved(channel))
                return _foretold(before, plan_all(before, wanted), wanted)
            done = maintenance.compact(channel, lambda weights: plan_all(weights, wanted))
            engine.builds.tend()
            return CompactReport(
                segments_before=len(before),
                segments_after=len(maintenance.weights(channel)),
                rows_removed=done.removed_rows,
                bytes_read=done.read_bytes,
                bytes_written=done.written_bytes,
                dry_run=False,
            )

    def vacuum(
        self, older_than: float | str | datetime.timedelta | None = None, *, dry_run: bool = False
    ) -> VacuumReport:
        """Forget old versions, remove the rows that only they had, delete files nobody needs.

        Tagged versions stay, and those that a running read has pinned: what `at` returned in this
        process; in other processes, where the version is older than half the retention. Their
        younger ones raise `GV-640` from then on, unless `older_than` keeps them. Files that a read
        may still use are deleted later: 15 minutes after they fell out of use (setting
        `store.grace_s`), or after `older_than`, where that is less, but not before a minute.

        Args:
            older_than: keep versions that were the newest so long ago: `7d`, `12h`, `0s`, seconds
                or a timedelta; None: as long as the retention says, which also is the longest.
            dry_run: change nothing, tell what would be done.
        """
        age_s = None if older_than is None else _seconds(older_than)
        grace_s = float(config["store.grace_s"])
        if age_s is not None:
            grace_s = min(grace_s, max(age_s, _LEAST_GRACE_S))
        engine = self._source.engine
        with engine.owning(self._source.collection_id) as (channel, generation):
            maintenance = engine.maintenance
            if not dry_run:
                channel.own(generation)
                channel.flush(generation)
            weights = maintenance.weights(channel, age_s)
            plan = plan_vacuum(weights)
            planned = {name for rewrite in plan for name in rewrite.inputs}
            removed = sum(w.rows - w.kept for w in weights if w.segment_id in planned)
            if not dry_run:
                engine.leases.tend(at_once=True)  # this process's `at` handles stay readable
                maintenance.forget_versions(channel, age_s)
                removed = maintenance.compact(channel, plan_vacuum, age_s).removed_rows
            return _collected(maintenance, channel, grace_s, removed, len(planned), dry_run=dry_run)


def _collected(
    maintenance: Maintenance,
    channel: Channels,
    grace_s: float,
    rows_removed: int,
    segments_rewritten: int,
    *,
    dry_run: bool,
) -> VacuumReport:
    planned = maintenance.collect(channel, grace_s, dry_run=True)
    sizes = maintenance.sizes([*planned.deleted, *planned.waiting])
    done = planned if dry_run else maintenance.collect(channel, grace_s)
    wait_s = max(done.waiting.values(), default=0) / 1000
    if 0 < wait_s <= _SOON_S and not dry_run:
        maintenance.pause(wait_s)
        later = maintenance.collect(channel, grace_s)
        done = replace(later, deleted=done.deleted + later.deleted)
    return VacuumReport(
        rows_removed=rows_removed,
        segments_rewritten=segments_rewritten,
        files_deleted=len(done.deleted),
        bytes_deleted=sum(sizes.get(key, 0) for key in done.deleted),
        files_waiting=len(done.waiting),
        bytes_waiting=sum(sizes.get(key, 0) for key in done.waiting),
        wait_s=max(done.waiting.values(), default=0) / 1000,
        dry_run=dry_run,
    )


def _unsaved(channel: Channels) -> list[SegmentWeight]:
    """Return what the rows that are only in the log would weigh in files."""
    state = channel.state
    return [
        SegmentWeight(
            segment_id=info.segment_id,
            channel=info.channel,
            partition=info.partition,
            layout=definition_for_rows(state, state.schema_version).schema_version,
            rows=info.row_count,
            live=info.row_count - info.deleted_count,
            kept=info.row_count,
            size_bytes=info.size_bytes,
        )
        for info in channel.shard.infos()
        if info.state in (SegmentState.GROWING, SegmentState.SEALED) and info.row_count
    ]


def _foretold(
    weights: "Sequence[SegmentWeight]", plan: "Sequence[Rewrite]", wanted: Wanted
) -> CompactReport:
    by_id: Mapping[str, SegmentWeight] = {weight.segment_id: weight for weight in weights}
    after, removed, size = len(weights), 0, 0
    for rewrite in plan:
        inputs = [by_id[name] for name in rewrite.inputs]
        has_history = any(weight.kept > weight.live for weight in inputs)
        after += wanted.count(inputs) + has_history - len(inputs)
        removed += sum(weight.rows - weight.kept for weight in inputs)
        size += sum(weight.size_bytes for weight in inputs if weight.kept)
    return CompactReport(
        segments_before=len(weights),
        segments_after=after,
        rows_removed=removed,
        bytes_read=size,
        bytes_written=0,
        dry_run=True,
    )


def _seconds(age: Any) -> float:
    """Return an age in seconds."""
    found: float | None = None
    if isinstance(age, datetime.timedelta):
        found = age.total_seconds()
    elif isinstance(age, str):
        match = _AGE.match(age.strip())
        found = float(match[1]) * _AGE_SECONDS[match[2]] if match else None
    elif type(age) in (int, float):
        found = float(age)
    if found is None or not 0 <= found < float("inf"):
        raise errors.bad_age(age)
    return found


def _count(number: int, what: str) -> str:
    """Return a number of things as text."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _size(count: int) -> str:
    """Return bytes as text, in a unit that shows them."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count:,} bytes"
