"""Owning a log of append files: how it is claimed, appended to and truncated.

Append: 1. append the frame, which makes it durable; 2. list the folder: a file or fence of a higher
epoch means that the frame may have come too late to count. Only then may it be acknowledged. A
failed append poisons the file: nobody knows what is in it. The group goes into a new file, whose
OPEN frame ends the poisoned one before the failed frame.

Claim, after the epoch was committed to the manifest: 1. read the log and create the fence; 2. read
the manifest's position and what the log has gained: every frame that can have been acknowledged is
there now, since its owner listed no fence; 3. sync what was read; 4. create the epoch's first file.

| died after | left behind | cured by |
|---|---|---|
| 1 | a fence without a file: the old owner has stopped | the next claim |
| 4 | a log without new groups | the next claim |
"""

import json
from collections.abc import Callable, Sequence

from gpuvec import telemetry
from gpuvec.errors import StorageError, append_unknown, channel_fenced, claim_lost
from gpuvec.storage import keys
from gpuvec.storage.object_store import Append, Delete, Nonce, Procedure, Put, Sleep, Sync
from gpuvec.types import Timestamp
from gpuvec.wal.channel import (
    ATTEMPTS,
    RETRY_S,
    Channel,
    ChannelPosition,
    Position,
    Recovery,
    check_order,
    create,
    settle,
)
from gpuvec.wal.files import (
    Chain,
    FileCursor,
    FileName,
    Hint,
    Span,
    file_key,
    file_names,
    look,
    read_chain,
    read_hint,
)
from gpuvec.wal.frame import FrameKind, encode_frame
from gpuvec.wal.mark import Mark, encode_group
from gpuvec.wal.record import WriteRecord


def claim(channel: Channel, epoch: int, position: Position) -> Procedure[Recovery]:
    """Take the channel for `epoch`; see the module for the steps."""
    before, trusted = yield from look(channel, position, None)  # 1
    cursor = before.cursor if trusted == before.cursor.lsn else None
    body = json.dumps({"intact": trusted}).encode()
    fence = encode_frame(FrameKind.FENCE, [body], epoch=epoch, lsn=0, nonce=(yield Nonce()))
    if (yield from create(file_key(channel, (epoch, 0)), fence)) is not None:
        raise claim_lost(channel.name, mine=epoch, newest=epoch)

    def attempt(at: ChannelPosition) -> Procedure[tuple[ChannelPosition, Chain]]:
        if at.epoch != epoch:
            raise claim_lost(channel.name, mine=epoch, newest=at.epoch)
        hint = yield from read_hint(channel)
        names = yield from file_names(channel, hint)
        _check_highest(channel, names, epoch)
        older = [name for name in names if name[0] < epoch]
        chain = yield from read_chain(channel, older, at, cursor, hint)
        if chain.newest is not None:
            yield Sync(file_key(channel, chain.newest))  # 3
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
        self._hinted = 0  # the end that the hint speaks of
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

    def append(self, records: Sequence[WriteRecord], mark: Mark | None = None) -> Procedure[int]:
        """See `WriteAheadLog.append`."""
        if self._closed:
            raise append_unknown(self._channel.name, "an earlier write failed")
        first_ts, last_ts = check_order(records, self._last_ts, mark)
        kind, body = encode_group(records, mark)
        nonce = yield Nonce()

        def frame(lsn: int) -> bytes:
            return encode_frame(
                kind,
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
            yield Append(file_key(self._channel, self._file), data)  # 1
        except StorageError as error:
            yield from self._begin_again(frame, error)
        else:
            self._lsn += 1
            self._end += len(data)
        yield from self._check_fence()  # 2
        self._last_ts = last_ts
        self._closed = False
        telemetry.WAL_APPENDS.add()
        telemetry.WAL_BYTES.add(len(data))
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
        names = yield from file_names(self._channel)
        kept = {span.file for span in self._spans} | {self._file}
        gone = [name for name in names if name[0] <= self._epoch and name not in kept]
        yield Delete([file_key(self._channel, name) for name in gone])

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
        if (yield from create(file_key(self._channel, name), data)) is not None:
            raise AssertionError(f"epoch {self._epoch} of {self._channel.name} has two owners")
        self._spans, self._file, self._end, self._hinted = spans, name, len(data), 0
        self._lsn = name[1] + (frame is not None)
        yield from self._hint()

    def close(self) -> Procedure[None]:
        """See `WriteAheadLog.close`."""
        if not self._closed:
            self._closed = True
            if self._end > self._hinted:
                yield from self._hint()

    def _hint(self) -> Procedure[None]:
        """Note how long the newest file is, all of which is durable."""
        hint = Hint(self._file, self._end)
        try:
            yield Put(keys.wal_hint(self._channel.folder), [hint.encode(self._channel)])
        except StorageError:
            return  # without it, only less damage can be told
        self._hinted = hint.end

    def _check_fence(self) -> Procedure[None]:
        for _ in range(ATTEMPTS):
            try:
                names = yield from file_names(self._channel)
            except StorageError as error:
                cause = error
                yield Sleep(RETRY_S)
                continue
            highest = max(names, default=self._file)[0]
            if highest > self._epoch:
                raise channel_fenced(
                    self._channel.name, mine=self._epoch, newest=highest, outcome="unknown"
                )
            if self._file not in names:
                raise append_unknown(self._channel.name, "its file is no longer there")
            return
        raise append_unknown(self._channel.name, cause)


def _check_highest(channel: Channel, names: Sequence[FileName], epoch: int) -> None:
    highest = max(names, default=(0, 0))[0]
    if highest > epoch:
        raise claim_lost(channel.name, mine=epoch, newest=highest)
