"""What a group of a log says besides its writes, where a transaction spans channels.

A transaction is a group of writes that several channels share; its name is its timestamp, the last
of its writes. Every channel but the lowest holds its part as *prepared*; the lowest one, its
*home*, holds its own part as the *commit*, without which none of it counts. A *close* says that no
transaction of this home up to its timestamp will be committed any more.

The bytes of a marked group are a length, a JSON directory of that length, and the bytes of its
records, at a multiple of 64.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from gpuvec.storage.object_store import Buffer
from gpuvec.types import ChannelName, Timestamp
from gpuvec.wal.frame import Frame, FrameKind
from gpuvec.wal.record import WriteRecord, decode_records, encode_records

_ALIGNMENT = 64
_LENGTH_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The part that a group has in a transaction.

    Attributes:
        kind: `PREPARED`, `COMMIT` or `CLOSE`.
        ts: the transaction's name; of a close, the timestamp up to which it closes.
        channels: a prepared part's home; a commit's other channels, rising.
    """

    kind: FrameKind
    ts: Timestamp
    channels: tuple[ChannelName, ...] = ()

    @classmethod
    def prepared(cls, ts: Timestamp, home: ChannelName) -> Self:
        """Make the mark of a part that counts once its home says so."""
        return cls(kind=FrameKind.PREPARED, ts=ts, channels=(home,))

    @classmethod
    def commit(cls, ts: Timestamp, others: Sequence[ChannelName]) -> Self:
        """Make the mark with which a home lets the prepared parts of others count."""
        return cls(kind=FrameKind.COMMIT, ts=ts, channels=tuple(others))

    @classmethod
    def close(cls, ts: Timestamp) -> Self:
        """Make the mark that ends all undecided transactions of a home up to `ts`."""
        return cls(kind=FrameKind.CLOSE, ts=ts)

    @property
    def home(self) -> ChannelName:
        """Of a prepared part: where its commit is, if there is one."""
        assert self.kind is FrameKind.PREPARED
        return self.channels[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The writes of one frame."""

    lsn: int
    last_ts: Timestamp
    records: tuple[WriteRecord, ...]
    mark: Mark | None = None  # None: it counts by itself

    @property
    def is_prepared(self) -> bool:
        """Whether it counts only if its home says so."""
        return self.mark is not None and self.mark.kind is FrameKind.PREPARED

    @property
    def is_commit(self) -> bool:
        """Whether it lets the prepared parts of other channels count."""
        return self.mark is not None and self.mark.kind is FrameKind.COMMIT


def encode_group(
    records: Sequence[WriteRecord], mark: Mark | None
) -> tuple[FrameKind, list[Buffer]]:
    """Return the kind and the body of a group's frame."""
    body = encode_records(records)
    if mark is None:
        return FrameKind.GROUP, body
    text = json.dumps({"channels": mark.channels}, separators=(",", ":")).encode()
    text += b" " * (-(_LENGTH_BYTES + len(text)) % _ALIGNMENT)
    return mark.kind, [len(text).to_bytes(_LENGTH_BYTES, "little"), text, *body]


def group_of(frame: Frame) -> Group:
    """Return the writes in a frame, and their mark."""
    assert frame.kind.has_records
    body, mark = frame.body, None
    if frame.kind is not FrameKind.GROUP:
        start = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "little")
        channels = json.loads(bytes(body[_LENGTH_BYTES:start]))["channels"]
        mark = Mark(kind=frame.kind, ts=frame.last_ts, channels=tuple(channels))
        body = body[start:]
    return Group(lsn=frame.lsn, last_ts=frame.last_ts, records=decode_records(body), mark=mark)
