"""The words of a channel's log, whatever it is stored on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol, TypeVar

from gpuvec.errors import CorruptError, StorageError
from gpuvec.storage import keys
from gpuvec.storage.object_store import Get, Procedure, PutIfAbsent, Sleep
from gpuvec.types import ChannelName, Timestamp
from gpuvec.wal.mark import Group, Mark, group_of
from gpuvec.wal.record import WriteRecord

__all__ = [
    "ATTEMPTS", "RETRY_S", "Channel", "ChannelPosition", "Group", "Mark", "Position", "Recovery",
    "WriteAheadLog", "check_order", "create", "group_of", "settle",
]  # fmt: skip

ATTEMPTS = 4  # how often a store may fail in a row before a procedure gives up
RETRY_S = 0.05

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """Where a channel's log lies: `prefix` is `keys.collection(id)`."""

    prefix: str
    name: ChannelName

    @property
    def folder(self) -> str:
        """Prefix of all its files or slots."""
        return keys.wal_folder(self.prefix, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelPosition:
    """What the newest manifest entry says of a channel."""

    epoch: int
    flushed_lsn: int


# Reads the manifest log to its end; whoever passes it in keeps the view that it saw last.
Position = Callable[[], Procedure[ChannelPosition]]


class WriteAheadLog(Protocol):
    """A channel's log in the hands of its owner. One procedure at a time."""

    @property
    def epoch(self) -> int:
        """Of the owner."""

    @property
    def lsn(self) -> int:
        """The last position in use; every group up to here is durable."""

    @property
    def last_ts(self) -> Timestamp:
        """Of the last group; 0 when none was found or written."""

    @property
    def closed(self) -> bool:
        """Whether nothing can be appended any more: claim the channel again."""

    def append(self, records: Sequence[WriteRecord], mark: Mark | None = None) -> Procedure[int]:
        """Write a group; when this returns it is durable and stays, and may be acknowledged.

        Args:
            records: at least one, or a mark; their timestamps rise and are above `last_ts`.
            mark: of a group that belongs to a transaction; its timestamp is not below theirs.

        Returns:
            The group's position. Positions rise, but not by one.

        Raises:
            UnavailableError: `GV-527` another owner has the channel (`details["outcome"]` tells
            whether the group can
                be in the log), `GV-528` the store failed and the outcome is unknown. The log is
                closed then; the next claim decides what is in it.
        """

    def fences(self, to_lsn: int) -> tuple[int, ...]:
        """Return the fences' positions up to `to_lsn`, for the entry that flushes up to there."""

    def truncate(self, flushed_lsn: int, fences: Sequence[int]) -> Procedure[None]:
        """Delete what lies in segment files, after the entry that says so.

        Args:
            flushed_lsn: of the channel, by the manifest.
            fences: positions that were ever flushed and hold fences: they stay.
        """

    def close(self) -> Procedure[None]:
        """End writing; note where the log ends, so that what is later cut off is missed.

        A store that fails keeps the note from being written, and raises nothing.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """A claimed channel: its log, and the groups after the flushed position."""

    log: WriteAheadLog
    groups: tuple[Group, ...]


def settle(position: Position, attempt: Callable[[ChannelPosition], Procedure[T]]) -> Procedure[T]:
    """Run `attempt`, again with a newer position when it finds part of the log missing or damaged.

    Owners delete parts of the log only after the entry that flushed them, and stopped owners may
    leave rubbish where they were. Whoever meets either finds a newer position, or a newer listing
    the next time. If neither helps, the log is damaged.
    """
    last: ChannelPosition | None = None
    patience = ATTEMPTS
    while True:
        at = yield from position()
        patience = patience - 1 if at == last else ATTEMPTS
        last = at
        try:
            return (yield from attempt(at))
        except CorruptError:
            if not patience:
                raise


def create(key: str, data: bytes) -> Procedure[bytes | None]:
    """Create an object; None when it holds `data` afterwards, else the bytes that it holds instead.

    A store that fails, or says "exists", may have written: the key is read back to learn it.

    Raises:
        StorageError: the store kept failing; the object may or may not be there.
    """
    failure: StorageError | None = None
    for _ in range(ATTEMPTS):
        try:
            if (yield PutIfAbsent(key, data)):
                return None
        except StorageError as error:
            failure = error
        try:
            stored: bytes = yield Get(key)
        except StorageError as error:
            failure = failure or error
            yield Sleep(RETRY_S)
        else:
            return None if stored == data else stored
    assert failure is not None
    raise failure


def check_order(
    records: Sequence[WriteRecord], last_ts: Timestamp, mark: Mark | None = None
) -> tuple[Timestamp, Timestamp]:
    """Return the first and the last timestamp of a group; it is a bug when they do not rise."""
    stamps = [last_ts, *(record.ts for record in records)]
    if mark is not None and (not records or mark.ts != stamps[-1]):
        stamps.append(mark.ts)
    if any(later <= earlier for earlier, later in pairwise(stamps)):
        raise AssertionError(f"timestamps must rise, got {stamps}")
    return stamps[1], stamps[-1]
