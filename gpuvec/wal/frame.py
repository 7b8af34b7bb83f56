"""The unit of a log on disk: a header that checks itself, and a body that the header checks.

Frames are padded to 16 bytes. A log file's frames have consecutive numbers (lsn) and one epoch. One
frame is written at a time, the next one only when it is durable: so at most the last frame of a
file can be torn, and a valid frame beyond a bad one means damage, never a torn tail.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum

from gpuvec.errors import damaged_log, newer_file
from gpuvec.storage.checksum import as_bytes, crc32c
from gpuvec.storage.object_store import Buffer
from gpuvec.types import Timestamp

FORMAT = 2  # of frames that belong to a transaction; 1 of all others
_MAGIC = b"gvWL"
_FIELDS = struct.Struct("<4sBBxxQQ16sqqQI")  # all but the header's own checksum
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _FIELDS.size + _CHECKSUM.size
_ALIGNMENT = 16


class FrameKind(IntEnum):
    """What a frame's body is."""

    GROUP = 1  # the records of one group commit
    OPEN = 2  # the first frame of an append file: which frames of older files come before
    FENCE = 3  # no owner of a lower epoch may write any more
    PREPARED = 4  # a channel's part of a transaction: see `wal.mark`
    COMMIT = 5  # the home's part of a transaction, which makes all parts count
    CLOSE = 6  # the end of a home's undecided transactions

    @property
    def has_records(self) -> bool:
        """Whether its body holds writes, perhaps none."""
        return self not in (FrameKind.OPEN, FrameKind.FENCE)

    @property
    def version(self) -> int:
        """Of the format, for readers that do not know this kind."""
        return 1 if self <= FrameKind.FENCE else FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A frame as read."""

    kind: FrameKind
    epoch: int
    lsn: int
    nonce: str  # 32 hex digits; tells whose frame it is
    first_ts: Timestamp  # of the group's first record; 0 without records
    last_ts: Timestamp
    body: memoryview
    end: int  # offset of the byte after the frame


def encode_frame(
    kind: FrameKind,
    body: Sequence[Buffer],
    *,
    epoch: int,
    lsn: int,
    nonce: str,
    first_ts: Timestamp = 0,
    last_ts: Timestamp = 0,
) -> bytes:
    """Return a frame's bytes. The body's parts are copied once."""
    parts = [as_bytes(part) for part in body]
    length = sum(len(part) for part in parts)
    fields = _FIELDS.pack(
        _MAGIC,
        kind.version,
        kind,
        epoch,
        lsn,
        bytes.fromhex(nonce),
        first_ts,
        last_ts,
        length,
        crc32c(parts),
    )
    padding = bytes(-(HEADER_BYTES + length) % _ALIGNMENT)
    return b"".join([fields, _CHECKSUM.pack(crc32c([fields])), *parts, padding])


def decode_frame(where: str, data: bytes) -> Frame:
    """Return the frame that an object consists of; `CorruptError` GV-526 if there is none."""
    frame = _frame_at(where, memoryview(data), 0)
    if frame is None or frame.end != len(data):
        raise damaged_log(where, "it is not one whole frame")
    return frame


def scan_frames(where: str, data: bytes, first_lsn: int, epoch: int) -> Iterator[Frame]:
    """Yield the frames in part of a log file, up to the first that is not whole.

    Args:
        where: the file's key, for messages.
        data: from the start of a frame on.
        first_lsn: the number of the first frame.
        epoch: of the file.

    Raises:
        CorruptError: `GV-526`, there is a valid frame beyond a bad one, or one out of order.
    """
    view, at, lsn = memoryview(data), 0, first_lsn
    while (frame := _frame_at(where, view, at)) is not None:
        if frame.lsn != lsn or frame.epoch != epoch:
            found = f"frame {frame.lsn} of epoch {frame.epoch}"
            raise damaged_log(where, f"{found} stands where {lsn} of {epoch} belongs")
        yield frame
        at, lsn = frame.end, lsn + 1
    _check_torn(where, data, at, lsn, epoch)


def _frame_at(where: str, view: memoryview, at: int) -> Frame | None:
    """Return the frame that begins at `at`, None when there is no whole one."""
    body_at = at + HEADER_BYTES
    if body_at > len(view):
        return None
    fields = view[at : at + _FIELDS.size]
    if _CHECKSUM.unpack_from(view, at + _FIELDS.size)[0] != crc32c([fields]):
        return None
    magic, version, kind, epoch, lsn, nonce, first_ts, last_ts, length, checksum = _FIELDS.unpack(
        fields
    )
    if magic != _MAGIC:
        return None
    if version > FORMAT or kind > max(FrameKind):
        raise newer_file(where, wanted=FORMAT, got=f"{version}, frame kind {kind}")
    body = view[body_at : body_at + length]
    end = body_at + length + -(HEADER_BYTES + length) % _ALIGNMENT
    if end > len(view) or crc32c([body]) != checksum:
        return None
    return Frame(
        kind=FrameKind(kind),
        epoch=epoch,
        lsn=lsn,
        nonce=nonce.hex(),
        first_ts=first_ts,
        last_ts=last_ts,
        body=body,
        end=end,
    )


def _check_torn(where: str, data: bytes, at: int, lsn: int, epoch: int) -> None:
    """Raise when a later frame follows the bad bytes at `at`: they are not a torn tail."""
    view = memoryview(data)
    candidate = data.find(_MAGIC, at + 1)
    while candidate >= 0:
        frame = _frame_at(where, view, candidate)
        if frame is not None and frame.epoch == epoch and frame.lsn > lsn:
            raise damaged_log(where, f"frame {lsn} is unreadable and frame {frame.lsn} follows it")
        candidate = data.find(_MAGIC, candidate + 1)
