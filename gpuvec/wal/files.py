"""A log of append files, for stores that can append: what lies there, and how it is read.

A file `e<epoch>-<lsn>.log` begins with an OPEN frame that holds position `lsn` and names the
*spans*: which frames of which older files come before. So the log is: the spans of the newest file
(by epoch, then position), then its own frames. A file is created whole, with its OPEN frame; only
the owner of its epoch appends to it (`wal.file_log`). `e<epoch>-0.log` is a fence. `hint` names a
file that was once the newest and how long it was when its owner began or closed it: with it, a log
whose newest file is gone is told from a shorter one, and a file that was cut from a torn tail. It
is read before the log is, so it never speaks of what is yet to come.

A reader in another process trusts a last frame once it has made it durable itself and then seen no
fence. If it sees one, a claim is under way: a fence says up to where its claimer had seen the log
*before* fencing, all of which will count. Whether a later frame counts only the claimer's file will
tell, so the reader waits for it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from gpuvec.errors import CorruptError, damaged_log, log_of_another_kind, log_undecided
from gpuvec.storage import keys
from gpuvec.storage.checksum import crc32c
from gpuvec.storage.object_store import Get, GetRange, List, Procedure, Size, Sleep, Sync
from gpuvec.types import Timestamp
from gpuvec.wal.channel import RETRY_S, Channel, ChannelPosition, Group, Position, group_of, settle
from gpuvec.wal.frame import Frame, FrameKind, decode_frame, scan_frames

_WAITS = 40  # times RETRY_S that a reader gives a claimer

FileName = tuple[int, int]  # epoch, position of the OPEN frame; a fence has position 0


@dataclass(frozen=True, slots=True)
class Span:
    """The frames of a file that belong to the log: up to position `last`, before byte `end`."""

    file: FileName
    last: int
    end: int


@dataclass(frozen=True, slots=True)
class Hint:
    """A file that was once the newest, and a byte up to which it was whole and durable."""

    file: FileName = (0, 0)
    end: int = 0

    def encode(self, channel: Channel) -> bytes:
        """Return the bytes of a hint, with their checksum: a damaged one is worth nothing."""
        text = f"{file_key(channel, self.file)} {self.end}"
        return f"{text} {crc32c([text.encode()]):08x}".encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCursor:
    """How far a log was read."""

    spans: tuple[Span, ...] = ()  # older files, then the newest as far as it was read
    lsn: int = 0
    last_ts: Timestamp = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """The groups that a look at the log found, and how far it looked."""

    groups: tuple[Group, ...]
    cursor: FileCursor

    @property
    def newest(self) -> FileName | None:
        """The file that was the newest."""
        return self.cursor.spans[-1].file if self.cursor.spans else None


def read_tail(
    channel: Channel, position: Position, cursor: FileCursor | None
) -> Procedure[tuple[tuple[Group, ...], FileCursor]]:
    """Return the groups after `cursor`, or after what is flushed, and the cursor behind them."""
    for _ in range(_WAITS):
        chain, trusted = yield from look(channel, position, cursor)
        if trusted == chain.cursor.lsn:
            return chain.groups, chain.cursor
        yield Sleep(RETRY_S)
    raise log_undecided(channel.folder)


def look(
    channel: Channel, position: Position, cursor: FileCursor | None
) -> Procedure[tuple[Chain, int]]:
    """Read the log; also return up to where it can be trusted to stay as it is."""

    def attempt(at: ChannelPosition) -> Procedure[tuple[Chain, int]]:
        hint = (yield from read_hint(channel)) if cursor is None else Hint()
        while True:
            names = yield from file_names(channel, hint)
            chain = yield from read_chain(channel, names, at, cursor, hint)
            if chain.newest is None or chain.cursor == cursor:
                return chain, chain.cursor.lsn  # nothing new
            yield Sync(file_key(channel, chain.newest))
            names = yield from file_names(channel)
            if max((name for name in names if name[1]), default=None) == chain.newest:
                break
        trusted = chain.cursor.lsn
        for name in names:
            if not name[1] and name[0] > chain.newest[0]:
                trusted = min(trusted, (yield from _intact(channel, name)))
        return chain, max(trusted, cursor.lsn if cursor else 0)

    return (yield from settle(position, attempt))


def read_chain(
    channel: Channel,
    names: Sequence[FileName],
    at: ChannelPosition,
    cursor: FileCursor | None,
    hint: Hint,
) -> Procedure[Chain]:
    """Read, of the log that `names` make, the groups after the cursor or what is flushed."""
    newest = max((name for name in names if name[1]), default=None)
    known = cursor or FileCursor()
    after = max(at.flushed_lsn, known.lsn)
    if newest is None:
        found = yield List(f"{channel.folder}/")
        if any((keys.parse_number(key) or 0) > at.flushed_lsn for key in found):
            raise log_of_another_kind(channel.folder, in_files=False)
        if at.flushed_lsn:
            raise damaged_log(channel.folder, "all its files are missing")
        return Chain(groups=(), cursor=known)
    if known.spans and known.spans[-1].file == newest:
        old, start = known.spans[:-1], known.spans[-1]
        frames = yield from _read_more(channel, start)
    else:
        start = Span(newest, newest[1] - 1, 0)
        frames = yield from _read_more(channel, start)
        if not frames or frames[0].kind is not FrameKind.OPEN:
            raise damaged_log(file_key(channel, newest), "its first frame is unreadable")
        old = tuple(
            Span((e, n), last, end) for e, n, last, end in json.loads(bytes(frames[0].body))
        )
        first = old[0].file[1] if old else newest[1]
        if first > after + 1:
            raise damaged_log(channel.folder, f"position {after + 1} is missing")
        for span in reversed(old):
            if span.last > after:
                frames = (yield from _read_span(channel, span)) + frames
    last = frames[-1].lsn if frames else start.last
    end = start.end + (frames[-1].end if frames else 0)
    if last < at.flushed_lsn:
        raise damaged_log(channel.folder, f"it ends at {last}, before {at.flushed_lsn}")
    if newest == hint.file and end < hint.end:
        raise damaged_log(
            file_key(channel, newest), f"it is unreadable from byte {end} on, of {hint.end}"
        )
    groups, last_ts = _fresh_groups(frames, after, known.last_ts)
    spans = (*old, Span(newest, last, end))
    return Chain(groups=groups, cursor=FileCursor(spans=spans, lsn=last, last_ts=last_ts))


def _fresh_groups(
    frames: Sequence[Frame], after: int, last_ts: Timestamp
) -> tuple[tuple[Group, ...], Timestamp]:
    """Return the groups after a position; one written twice, after a failed append, once."""
    groups = []
    for frame in frames:
        if frame.kind.has_records:
            if frame.lsn > after and frame.last_ts > last_ts:
                groups.append(group_of(frame))
            last_ts = max(last_ts, frame.last_ts)
    return tuple(groups), last_ts


def _read_more(channel: Channel, start: Span) -> Procedure[list[Frame]]:
    """Return the frames that the newest file has after `start`."""
    key = file_key(channel, start.file)
    size = yield Size(key)
    if size is None:
        raise damaged_log(key, "it is missing")
    if size <= start.end:
        return []
    data = yield GetRange(key, start.end, size - start.end)
    return list(scan_frames(key, data, start.last + 1, start.file[0]))


def _read_span(channel: Channel, span: Span) -> Procedure[list[Frame]]:
    """Return the frames of an older file; all of them must be there."""
    key = file_key(channel, span.file)
    data = yield GetRange(key, 0, span.end)
    frames = list(scan_frames(key, data, span.file[1], span.file[0]))
    if not frames or frames[-1].lsn != span.last:
        position = frames[-1].lsn + 1 if frames else span.file[1]
        raise damaged_log(key, f"the frame at position {position} is unreadable")
    return frames


def _intact(channel: Channel, fence: FileName) -> Procedure[int]:
    key = file_key(channel, fence)
    frame = decode_frame(key, (yield Get(key)))
    intact: int = json.loads(bytes(frame.body))["intact"]
    return intact


def file_names(channel: Channel, hint: Hint | None = None) -> Procedure[list[FileName]]:
    """List files and fences; check that the newest file that a hint knew is there, or a newer."""
    found = yield List(f"{channel.folder}/")
    names = [name for key in found if (name := keys.parse_wal_file(key))]
    if hint is not None and hint.file > max((name for name in names if name[1]), default=(0, 0)):
        raise damaged_log(file_key(channel, hint.file), "it is missing")
    return names


def read_hint(channel: Channel) -> Procedure[Hint]:
    """Return the hint; where there is none, or a damaged one, one that says nothing."""
    try:
        data = yield Get(keys.wal_hint(channel.folder))
    except CorruptError:
        return Hint()
    key, _, end = data.decode(errors="replace").rpartition(" ")[0].rpartition(" ")
    file = keys.parse_wal_file(key)
    hint = Hint(file, int(end)) if file and end.isdecimal() else Hint()
    return hint if data == hint.encode(channel) else Hint()


def file_key(channel: Channel, name: FileName) -> str:
    """Return the key of a file or fence."""
    return keys.wal_file(channel.folder, *name)
