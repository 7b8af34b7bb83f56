"""A log of append files, for stores that can append.

A file `e<epoch>-<lsn>.log` begins with an OPEN frame that holds position `lsn` and names the
*spans*: which frames of which older files come before. So the log is: the spans of the newest file
(by epoch, then position), then its own frames. A file is created whole, with its OPEN frame; only
the owner of its epoch appends to it. `e<epoch>-0.log` is a fence.

Append: 1. append the frame, which makes it durable; 2. list the folder: a file or fence of a higher
epoch means that the frame may have come too late to count. Only then may it be acknowledged. A
failed append poisons the file: nobody knows what is in it. The group goes into a new file, whose
OPEN frame ends the poisoned one before the failed frame.

Claim, after the epoch was committed to the manifest: 1. read the log and create the fence; 2. read
the manifest's position and what the log has gained; every frame that can have been acknowledged is
there now, since its owner listed no fence;
3. sync what was read; 4. create the first file of the epoch.

| died after | left behind | cured by |
|---|---|---|
| 1 | a fence without a file: the old owner has stopped | the next claim |
| 4 | a log without new groups | the next claim |

A reader in another process trusts a last frame once it has made it durable itself and then seen no
fence. If it sees one, a claim is under way: a fence says up to where its claimer had seen the log
*before* fencing, all of which will count. Whether a later frame counts only the claimer's file will
tell, so the reader waits for it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpuvec.errors import (
    StorageError,
    append_unknown,
    channel_fenced,
    claim_lost,
    damaged_log,
    log_undecided,
)
from gpuvec.storage import keys
from gpuvec.storage.object_store import (
    Append,
    Delete,
    Get,
    GetRange,
    List,
    Nonce,
    Procedure,
    Size,
    Sleep,
    Sync,
)
from gpuvec.types import Timestamp
from gpuvec.wal.channel import (
    ATTEMPTS,
    RETRY_S,
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
from gpuvec.wal.frame import Frame, FrameKind, decode_frame, encode_frame, scan_frames
from gpuvec.wal.record import WriteRecord, encode_records

_WAITS = 40  # times RETRY_S that a reader gives a claimer

FileName = tuple[int, int]  # epoch, position of the OPEN frame; a fence has position 0


@dataclass(frozen=True, slots=True)
class Span:
    """The frames of a file that belong to the log: up to position `last`, before byte `end`."""

    file: FileName
    last: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCursor:
    """How far a log was read."""

    spans: tuple[Span, ...] = ()  # older files, then the newest as far as it was read
    lsn: int = 0
    last_ts: Timestamp = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chain:
    groups: tuple[Group, ...]
    cursor: FileCursor

    @property
    def newest(self) -> FileName | None:
        return self.cursor.spans[-1].file if self.cursor.spans else None


def read_tail(
    channel: Channel, position: Position, cursor: FileCursor | None
) -> Procedure[tuple[tuple[Group, ...], FileCursor]]:
    """Return the groups after `cursor`, or after what is flushed, and the cursor behind them."""
    for _ in range(_WAITS):
        chain, trusted = yield from _look(channel, position, cursor)
        if trusted == chain.cursor.lsn:
            return chain.groups, chain.cursor
        yield Sleep(RETRY_S)
    raise log_undecided(channel.folder)


def claim(channel: Channel, epoch: int, position: Position) -> Procedure[Recovery]:
    """Take the channel for `epoch`; see the module for the steps."""
    before, trusted = yield from _look(channel, position, None)  # 1
    cursor = before.cursor if trusted == before.cursor.lsn else None
    body = json.dumps({"intact": trusted}).encode()
    fence = encode_frame(FrameKind.FENCE, [body], epoch=epoch, lsn=0, nonce=(yield Nonce()))
    if (yield from create(_key(channel, (epoch, 0)), fence)) is not None:
        raise claim_lost(channel.name, mine=epoch, newest=epoch)

    def attempt(at: ChannelPosition) -> Procedure[tuple[ChannelPosition, _Chain]]:
        if at.epoch != epoch:
            raise claim_lost(channel.name, mine=epoch, newest=at.epoch)
        names = yield from _names(channel)
        _check_highest(channel, names, epoch)
        older = [name for name in names if name[0] < epoch]
        chain = yield from _read(channel, older, at, cursor)
        if chain.newest is not None:
            yield Sync(_key(channel, chain.newest))  # 3
        return at, chain

    at, chain = yield from settle(position, attempt)  # 2
    groups = chain.groups if cursor is None else before.groups + chain.groups
    log = FileLog(channel, epoch, chain.cursor, at.flushed_lsn)
    yield from log.open()  # 4
    return Recovery(log=log, groups=tuple(g for g in groups if g.lsn > at.flushed_lsn))


class FileLog:
    """See `WriteAheadLog`."""

    def __init__(self, channel: Channel, epoch: int, cursor: FileCursor, flushed_lsn: int) -> None:
        self._channel = channel
        self._epoch = epoch
        self._lsn = max(cursor.lsn, flushed_lsn)
        self._last_ts = cursor.last_ts
        self._spans = tuple(span for span in cursor.spans if span.last > flushed_lsn)
        self._file: FileName = (epoch, 0)
        self._end = 0
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

    def open(self) -> Procedure[None]:
        """Create the first file."""
        yield from self._begin_file(self._spans)

    def append(self, records: Sequence[WriteRecord]) -> Procedure[int]:
        """See `WriteAheadLog.append`."""
        if self._closed:
            raise append_unknown(self._channel.name, "an earlier write failed")
        first_ts, last_ts = check_order(records, self._last_ts)
        body = encode_records(records)
        nonce = yield Nonce()

        def frame(lsn: int) -> bytes:
            return encode_frame(
                FrameKind.GROUP,
                body,
                epoch=self._epoch,
                lsn=lsn,
                nonce=nonce,
                first_ts=first_ts,
                last_ts=last_ts,
            )

        self._closed = True  # until the outcome is known
        data = frame(self._lsn + 1)
        try:
            yield Append(_key(self._channel, self._file), data)  # 1
        except StorageError as error:
            yield from self._begin_again(frame, error)
        else:
            self._lsn += 1
            self._end += len(data)
        yield from self._check_fence()  # 2
        self._last_ts = last_ts
        self._closed = False
        return self._lsn

    def fences(self, to_lsn: int) -> tuple[int, ...]:
        """Return nothing: fences of append files have files of their own."""
        return ()

    def truncate(self, flushed_lsn: int, fences: Sequence[int]) -> Procedure[None]:
        """See `WriteAheadLog.truncate`. A file that holds both flushed and newer groups stays."""
        if self._closed:
            return
        spans = tuple(span for span in self._all_spans() if span.last > flushed_lsn)
        if self._file[1] < flushed_lsn:
            self._closed = True
            yield from self._begin_file(spans)
            self._closed = False
        else:
            self._spans = tuple(span for span in spans if span.file != self._file)
        names = yield from _names(self._channel)
        kept = {span.file for span in self._spans} | {self._file}
        gone = [name for name in names if name[0] <= self._epoch and name not in kept]
        yield Delete([_key(self._channel, name) for name in gone])

    def _all_spans(self) -> tuple[Span, ...]:
        return (*self._spans, Span(self._file, self._lsn, self._end))

    def _begin_again(self, frame: Callable[[int], bytes], cause: StorageError) -> Procedure[None]:
        """Write a group whose append failed into a new file."""
        try:
            yield from self._begin_file(self._all_spans(), frame)
        except StorageError as error:
            raise append_unknown(self._channel.name, error) from cause

    def _begin_file(
        self, spans: tuple[Span, ...], frame: Callable[[int], bytes] | None = None
    ) -> Procedure[None]:
        """Create the next file, with its OPEN frame and perhaps a group in it."""
        name, nonce = (self._epoch, self._lsn + 1), (yield Nonce())
        body = json.dumps([[*span.file, span.last, span.end] for span in spans]).encode()
        data = encode_frame(FrameKind.OPEN, [body], epoch=self._epoch, lsn=name[1], nonce=nonce)
        if frame is not None:
            data += frame(name[1] + 1)
        if (yield from create(_key(self._channel, name), data)) is not None:
            raise AssertionError(f"epoch {self._epoch} of {self._channel.name} has two owners")
        self._spans, self._file, self._end = spans, name, len(data)
        self._lsn = name[1] + (frame is not None)

    def _check_fence(self) -> Procedure[None]:
        for _ in range(ATTEMPTS):
            try:
                names = yield from _names(self._channel)
            except StorageError as error:
                cause = error
                yield Sleep(RETRY_S)
                continue
            highest = max(names)[0]
            if highest > self._epoch:
                raise channel_fenced(
                    self._channel.name, mine=self._epoch, newest=highest, outcome="unknown"
                )
            return
        raise append_unknown(self._channel.name, cause)


def _look(
    channel: Channel, position: Position, cursor: FileCursor | None
) -> Procedure[tuple[_Chain, int]]:
    """Read the log; also return up to where it can be trusted to stay as it is."""

    def attempt(at: ChannelPosition) -> Procedure[tuple[_Chain, int]]:
        while True:
            chain = yield from _read(channel, (yield from _names(channel)), at, cursor)
            if chain.newest is None or chain.cursor == cursor:
                return chain, chain.cursor.lsn  # nothing new
            yield Sync(_key(channel, chain.newest))
            names = yield from _names(channel)
            if max((name for name in names if name[1]), default=None) == chain.newest:
                break
        trusted = chain.cursor.lsn
        for name in names:
            if not name[1] and name[0] > chain.newest[0]:
                trusted = min(trusted, (yield from _intact(channel, name)))
        return chain, max(trusted, cursor.lsn if cursor else 0)

    return (yield from settle(position, attempt))


def _read(
    channel: Channel, names: Sequence[FileName], at: ChannelPosition, cursor: FileCursor | None
) -> Procedure[_Chain]:
    """Read, of the log that `names` make, the groups after the cursor or what is flushed."""
    newest = max((name for name in names if name[1]), default=None)
    known = cursor or FileCursor()
    after = max(at.flushed_lsn, known.lsn)
    if newest is None:
        if at.flushed_lsn:
            raise damaged_log(channel.folder, "all its files are missing")
        return _Chain(groups=(), cursor=known)
    if known.spans and known.spans[-1].file == newest:
        old, start = known.spans[:-1], known.spans[-1]
        frames = yield from _read_more(channel, start)
    else:
        start = Span(newest, newest[1] - 1, 0)
        frames = yield from _read_more(channel, start)
        if not frames or frames[0].kind is not FrameKind.OPEN:
            raise damaged_log(_key(channel, newest), "its first frame is unreadable")
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
    groups, last_ts = _fresh_groups(frames, after, known.last_ts)
    spans = (*old, Span(newest, last, end))
    return _Chain(groups=groups, cursor=FileCursor(spans=spans, lsn=last, last_ts=last_ts))


def _fresh_groups(
    frames: Sequence[Frame], after: int, last_ts: Timestamp
) -> tuple[tuple[Group, ...], Timestamp]:
    """Return the groups after a position; one written twice, after a failed append, once."""
    groups = []
    for frame in frames:
        if frame.kind is FrameKind.GROUP:
            if frame.lsn > after and frame.last_ts > last_ts:
                groups.append(group_of(frame))
            last_ts = max(last_ts, frame.last_ts)
    return tuple(groups), last_ts


def _read_more(channel: Channel, start: Span) -> Procedure[list[Frame]]:
    """Return the frames that the newest file has after `start`."""
    key = _key(channel, start.file)
    size = yield Size(key)
    if size is None:
        raise damaged_log(key, "it is missing")
    if size <= start.end:
        return []
    data = yield GetRange(key, start.end, size - start.end)
    return list(scan_frames(key, data, start.last + 1, start.file[0]))


def _read_span(channel: Channel, span: Span) -> Procedure[list[Frame]]:
    """Return the frames of an older file; all of them must be there."""
    key = _key(channel, span.file)
    data = yield GetRange(key, 0, span.end)
    frames = list(scan_frames(key, data, span.file[1], span.file[0]))
    if not frames or frames[-1].lsn != span.last:
        position = frames[-1].lsn + 1 if frames else span.file[1]
        raise damaged_log(key, f"the frame at position {position} is unreadable")
    return frames


def _intact(channel: Channel, fence: FileName) -> Procedure[int]:
    key = _key(channel, fence)
    frame = decode_frame(key, (yield Get(key)))
    intact: int = json.loads(bytes(frame.body))["intact"]
    return intact


def _names(channel: Channel) -> Procedure[list[FileName]]:
    found = yield List(f"{channel.folder}/")
    return [name for key in found if (name := keys.parse_wal_file(key))]


def _check_highest(channel: Channel, names: Sequence[FileName], epoch: int) -> None:
    highest = max(names, default=(0, 0))[0]
    if highest > epoch:
        raise claim_lost(channel.name, mine=epoch, newest=highest)


def _key(channel: Channel, name: FileName) -> str:
    return keys.wal_file(channel.folder, *name)
