"""What imports and files of others do to a collection's state, and what must hold for that."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gpuvec.errors import manifest_conflict
from gpuvec.meta import changes_import
from gpuvec.meta.external import External
from gpuvec.meta.files import with_files

if TYPE_CHECKING:
    from gpuvec.meta.catalog import CollectionState

_Changed = dict[str, Any]  # the fields of a `CollectionState` that a change replaces


def add_segments(state: "CollectionState", change: changes_import.AddSegments) -> _Changed:
    """See `AddSegments`; its write is not in the history yet."""
    channels = dict(state.channels)
    for name, (epoch, flushed_lsn) in change.channels.items():
        channel = channels.get(name)
        if channel is None or channel.epoch != epoch:
            raise manifest_conflict(f"channel {name} has a newer owner")
        if channel.flushed_lsn != flushed_lsn or channel.flushed_ts >= change.write.ts:
            raise manifest_conflict(f"channel {name} is flushed to {channel.flushed_lsn}")
        channels[name] = replace(channel, flushed_ts=change.write.ts)
    segments = with_files(
        state.segments, change.segments, change.deletes, dead=state.dead, what="import"
    )
    return {"segments": segments, "channels": channels}


def follow_files(state: "CollectionState", change: changes_import.FollowFiles) -> _Changed:
    """See `FollowFiles`; its write is not in the history yet."""
    if missing := [name for name in change.removed if name not in state.segments]:
        raise manifest_conflict(f"segment {missing[0]} is gone")
    ts = change.write.ts
    before = state.external
    since = ts if before is None or change.removed else before.since
    gone = set(change.removed)
    segments = {name: record for name, record in state.segments.items() if name not in gone}
    segments.update((record.segment_id, record) for record in change.added)
    channels = {
        name: replace(channel, flushed_ts=max(channel.flushed_ts, ts))
        for name, channel in state.channels.items()
    }
    past = replace(state.past, forgotten=max(state.past.forgotten, since))
    external = External(pattern=change.pattern, since=since)
    return {"segments": segments, "channels": channels, "external": external, "past": past}
