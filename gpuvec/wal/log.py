"""The write-ahead log of a channel: who may write it, what it holds, and how others read it.

Two media: append files where the store can append (`wal.files`,
`wal.file_log`), else one object per group
(`wal.slots`).
"""

from dataclasses import dataclass

from gpuvec.storage.object_store import Procedure
from gpuvec.types import ChannelName
from gpuvec.wal import file_log, files, slots
from gpuvec.wal.channel import (
    Channel,
    ChannelPosition,
    Group,
    Mark,
    Position,
    Recovery,
    WriteAheadLog,
)

__all__ = [
    "ChannelPosition",
    "Cursor",
    "Group",
    "Mark",
    "Position",
    "Recovery",
    "Tail",
    "WriteAheadLog",
    "claim",
    "read_tail",
]

Cursor = files.FileCursor | slots.SlotCursor


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """What a reader in another process has found."""

    groups: tuple[Group, ...]
    cursor: Cursor


def claim(
    prefix: str, channel: ChannelName, epoch: int, position: Position, *, appendable: bool
) -> Procedure[Recovery]:
    """Take a channel, after `epoch` was committed for it; owners of lower epochs are stopped.

    Args:
        prefix: `keys.collection(id)`.
        channel: of that collection.
        epoch: the new owner's; no other process uses it.
        position: the groups that come back continue the view that it read last.
        appendable: as the store says.

    Raises:
        UnavailableError: `GV-529`, a higher epoch has the channel.
        CorruptError: `GV-526`, part of the log is missing or damaged.
    """
    medium = file_log.claim if appendable else slots.claim
    return (yield from medium(Channel(prefix=prefix, name=channel), epoch, position))


def newest_log(prefix: str, channel: ChannelName, cursor: Cursor | None) -> list[str]:
    """Return the key of the log that is appended to, as far as a reader knows; none for slots."""
    if not isinstance(cursor, files.FileCursor) or not cursor.spans:
        return []
    return [files.file_key(Channel(prefix=prefix, name=channel), cursor.spans[-1].file)]


def read_tail(
    prefix: str,
    channel: ChannelName,
    position: Position,
    *,
    appendable: bool,
    cursor: Cursor | None = None,
) -> Procedure[Tail]:
    """Read every group that was acknowledged before this call, perhaps more, without owning it.

    Groups that come back stay in the log whatever happens, and come back once.

    Args:
        prefix: `keys.collection(id)`.
        channel: of that collection.
        position: the groups continue the view that it read last.
        appendable: as the store says.
        cursor: of the last call; without it, groups begin after the flushed position.

    Raises:
        UnavailableError: `GV-530`, a take-over is under way and does not end.
        CorruptError: `GV-526`, part of the log is missing or damaged.
    """
    where = Channel(prefix=prefix, name=channel)
    if appendable:
        assert not isinstance(cursor, slots.SlotCursor)
        groups, file_cursor = yield from files.read_tail(where, position, cursor)
        return Tail(groups=groups, cursor=file_cursor)
    assert not isinstance(cursor, files.FileCursor)
    groups, slot_cursor = yield from slots.read_tail(where, position, cursor)
    return Tail(groups=groups, cursor=slot_cursor)
