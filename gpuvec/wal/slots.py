"""A log of numbered objects, for stores that cannot append: one object, a *slot*, per group commit.

Slots are consecutive and each is created once, by whoever comes first. Append: create the next
slot. An owner with one group in flight can only write the slot after its last; a claimer puts a
fence exactly there.

Claim, after the epoch was committed to the manifest: 1. create a fence in the first free slot; 2.
read the manifest again: the epoch must still rule; list the marks: the fence must lie above them,
else it went into a collected range; 3. read the slots from the flushed position to the fence; 4.
list the marks again: above the flushed position they mean that slots were collected, perhaps
created again, while they were read: from 2 again.

A log that was copied from a local directory has files beside; writes in them that are in no segment
are refused, GV-562: no slot could come after them.

Truncation creates a mark, deletes the slots below it, then older marks. Fences stay: an owner that
slept must find its next slot taken, whenever it wakes. The slot of the mark stays too: so the
newest slot there is tells every reader in one listing whether any was written since it looked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from gpuvec import telemetry
from gpuvec.errors import (
    StorageError,
    append_unknown,
    channel_fenced,
    claim_lost,
    damaged_log,
    log_of_another_kind,
)
from gpuvec.storage import keys
from gpuvec.storage.object_store import Delete, Get, List, Nonce, Procedure, PutIfAbsent
from gpuvec.types import Timestamp
from gpuvec.wal import files
from gpuvec.wal.channel import (
    Channel,
    ChannelPosition,
    Group,
    Position,
    Recovery,
    check_order,
    create,
    group_of,
    settle,
)
from gpuvec.wal.frame import Frame, FrameKind, decode_frame, encode_frame
from gpuvec.wal.mark import Mark, encode_group
from gpuvec.wal.record import WriteRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotCursor:
    """How far a log was read."""

    lsn: int


def read_tail(
    channel: Channel, position: Position, cursor: SlotCursor | None
) -> Procedure[tuple[tuple[Group, ...], SlotCursor]]:
    """Return the groups after `cursor`, or after what is flushed, and the cursor behind them."""

    def attempt(at: ChannelPosition) -> Procedure[tuple[tuple[Group, ...], SlotCursor]]:
        after = max(at.flushed_lsn, cursor.lsn if cursor else 0)
        last = yield from _last_slot(channel, after, at if cursor is None else None)
        frames = yield from _read(channel, after, last)
        yield from _check_marks(channel, at)
        groups = tuple(group_of(frame) for frame in frames if frame.kind.has_records)
        return groups, SlotCursor(lsn=last)

    return (yield from settle(position, attempt))


def claim(channel: Channel, epoch: int, position: Position) -> Procedure[Recovery]:
    """Take the channel for `epoch`; see the module for the steps."""

    def attempt(at: ChannelPosition) -> Procedure[Recovery]:
        if at.epoch != epoch:
            raise claim_lost(channel.name, mine=epoch, newest=at.epoch)
        fence = yield from _fence(channel, epoch, at)  # 1
        at = yield from position()  # 2
        if at.epoch != epoch:
            raise claim_lost(channel.name, mine=epoch, newest=at.epoch)
        if fence <= at.flushed_lsn or fence <= (yield from _mark(channel)):
            raise damaged_log(channel.folder, f"slot {fence} lies in a collected range")
        frames = yield from _read(channel, at.flushed_lsn, fence)  # 3
        yield from _check_marks(channel, at)  # 4
        return Recovery(
            log=SlotLog(channel, epoch, frames),
            groups=tuple(group_of(frame) for frame in frames if frame.kind.has_records),
        )

    return (yield from settle(position, attempt))


class SlotLog:
    """See `WriteAheadLog`."""

    def __init__(self, channel: Channel, epoch: int, frames: Sequence[Frame]) -> None:
        self._channel = channel
        self._epoch = epoch
        self._lsn = frames[-1].lsn
        self._last_ts = max(frame.last_ts for frame in frames)
        self._fences = tuple(frame.lsn for frame in frames if frame.kind is FrameKind.FENCE)
        self._closed = False

    @property
    def epoch(self) -> int:
        """See `WriteAheadLog.epoch`."""
        return self._epoch

    @property
    def lsn(self) -> int:
        """See `WriteAheadLog.lsn`."""
        return self._lsn

    @property
    def last_ts(self) -> Timestamp:
        """See `WriteAheadLog.last_ts`."""
        return self._last_ts

    @property
    def closed(self) -> bool:
        """See `WriteAheadLog.closed`."""
        return self._closed

    def append(self, records: Sequence[WriteRecord], mark: Mark | None = None) -> Procedure[int]:
        """See `WriteAheadLog.append`."""
        if self._closed:
            raise append_unknown(self._channel.name, "an earlier write failed")
        first_ts, last_ts = check_order(records, self._last_ts, mark)
        kind, body = encode_group(records, mark)
        lsn = self._lsn + 1
        data = encode_frame(
            kind,
            body,
            epoch=self._epoch,
            lsn=lsn,
            nonce=(yield Nonce()),
            first_ts=first_ts,
            last_ts=last_ts,
        )
        self._closed = True  # until the outcome is known
        key = _key(self._channel, lsn)
        try:
            stored = yield from create(key, data)
        except StorageError as error:
            raise append_unknown(self._channel.name, error) from error
        if stored is not None:
            other = decode_frame(key, stored).epoch
            if other <= self._epoch:
                raise AssertionError(f"epoch {self._epoch} of {self._channel.name} has two owners")
            raise channel_fenced(self._channel.name, mine=self._epoch, newest=other, outcome="none")
        self._lsn, self._last_ts, self._closed = lsn, last_ts, False
        telemetry.WAL_APPENDS.add()
        telemetry.WAL_BYTES.add(len(data))
        return lsn

    def fences(self, to_lsn: int) -> tuple[int, ...]:
        """See `WriteAheadLog.fences`: those that this owner's entries have yet to name."""
        return tuple(lsn for lsn in self._fences if lsn <= to_lsn)

    def truncate(self, flushed_lsn: int, fences: Sequence[int]) -> Procedure[None]:
        """See `WriteAheadLog.truncate`."""
        folder = self._channel.folder
        if not flushed_lsn:
            return
        yield PutIfAbsent(keys.wal_mark(folder, flushed_lsn), b"collected\n")
        slots = yield List(f"{folder}/")
        numbered = [(keys.parse_number(key) or 0, key) for key in slots]
        yield Delete([key for lsn, key in numbered if lsn < flushed_lsn and lsn not in fences])
        marks = yield List(f"{keys.wal_mark_folder(folder)}/")
        yield Delete([key for key in marks if (keys.parse_number(key) or 0) < flushed_lsn])
        self._fences = tuple(lsn for lsn in self._fences if lsn > flushed_lsn)

    def close(self) -> Procedure[None]:
        """See `WriteAheadLog.close`: each group is an object, of which no part can be missing."""
        self._closed = True
        yield from ()


def _fence(channel: Channel, epoch: int, at: ChannelPosition) -> Procedure[int]:
    """Create a fence in the first free slot; return its number."""
    lsn = yield from _last_slot(channel, at.flushed_lsn, at)
    if lsn > at.flushed_lsn:
        (frame,) = yield from _read(channel, lsn - 1, lsn)
        if frame.epoch > epoch:
            raise claim_lost(channel.name, mine=epoch, newest=frame.epoch)
    nonce = yield Nonce()
    while True:
        lsn += 1
        data = encode_frame(FrameKind.FENCE, [], epoch=epoch, lsn=lsn, nonce=nonce)
        stored = yield from create(_key(channel, lsn), data)
        if stored is None:
            return lsn
        other = decode_frame(_key(channel, lsn), stored).epoch
        if other > epoch:
            raise claim_lost(channel.name, mine=epoch, newest=other)


def _last_slot(channel: Channel, after: int, at: ChannelPosition | None) -> Procedure[int]:
    """Return the last of the consecutive slots after a number, or that number.

    Args:
        channel: whose log it is.
        after: a number at or above the flushed one.
        at: set to look also for files of a local directory, from which the log was copied.
    """
    found = yield List(f"{channel.folder}/", _key(channel, after))
    if at is not None and any(keys.parse_wal_file(key) for key in found):
        yield from _check_files(channel, at)
    numbers = [number for key in found if (number := keys.parse_number(key))]
    for expected, number in enumerate(numbers, after + 1):
        if number != expected:
            raise damaged_log(channel.folder, f"slot {expected} is missing")
    return after + len(numbers)


def _check_files(channel: Channel, at: ChannelPosition) -> Procedure[None]:
    """Refuse to go on without writes that lie in files; those that are in segments do no harm."""
    found = yield List(f"{channel.folder}/")
    newest_file = max(first for key in found for _, first in [keys.parse_wal_file(key) or (0, 0)])
    if newest_file <= max(keys.parse_number(key) or 0 for key in found):
        return  # slots came after them

    def known() -> Procedure[ChannelPosition]:
        yield from ()
        return at

    groups, _ = yield from files.read_tail(channel, known, None)
    if groups:
        raise log_of_another_kind(channel.folder, in_files=True)


def _read(channel: Channel, after: int, last: int) -> Procedure[list[Frame]]:
    frames: list[Frame] = []
    for lsn in range(after + 1, last + 1):
        key = _key(channel, lsn)
        frame = decode_frame(key, (yield Get(key)))
        if frame.lsn != lsn or (frames and frame.epoch < frames[-1].epoch):
            raise damaged_log(key, f"it holds slot {frame.lsn} of epoch {frame.epoch}")
        frames.append(frame)
    return frames


def _check_marks(channel: Channel, at: ChannelPosition) -> Procedure[None]:
    if (yield from _mark(channel)) > at.flushed_lsn:
        raise damaged_log(channel.folder, f"slots after {at.flushed_lsn} were collected")


def _mark(channel: Channel) -> Procedure[int]:
    """Return the highest collected slot."""
    found = yield List(f"{keys.wal_mark_folder(channel.folder)}/")
    return max((keys.parse_number(key) or 0 for key in found), default=0)


def _key(channel: Channel, lsn: int) -> str:
    return keys.wal_slot(channel.folder, lsn)
