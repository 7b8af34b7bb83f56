"""Changes of a collection that name files beside the log: bulk imports, and files of others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from gpuvec.meta.changes import Change, SegmentRecord, WriteSummary
from gpuvec.types import ChannelName, SegmentId


@dataclass(frozen=True, slots=True, kw_only=True)
class AddSegments(Change):
    """Rows that went straight into files are a write like any other.

    Conditions: each of these channels has its epoch, is flushed up to exactly this position and to
    no timestamp beyond `write.ts`; the segments that lose rows are there, and no file is marked
    dead.

    Attributes:
        channels: epoch and flushed position of each channel of the collection.
        segments: new ones.
        deletes: the deletion file of each segment that has another one from now on.
        write: its timestamp is that of all rows.
    """

    channels: Mapping[ChannelName, tuple[int, int]]
    segments: tuple[SegmentRecord, ...]
    write: WriteSummary
    deletes: Mapping[SegmentId, Mapping[str, Any]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """See `Change.to_json`."""
        channels = {name: list(at) for name, at in self.channels.items()}
        return {**super(AddSegments, self).to_json(), "channels": channels}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """See `Change.from_json`."""
        plain = {key: value for key, value in data.items() if key != "change"}
        plain["channels"] = {name: tuple(at) for name, at in data["channels"].items()}
        plain["segments"] = tuple(SegmentRecord.from_json(item) for item in data["segments"])
        plain["write"] = WriteSummary.from_json(data["write"])
        return cls(**plain)


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowFiles(Change):
    """A collection reads files of others, and its segments are what these hold now.

    Versions before a file that changed or vanished cannot be read any more. Condition: the segments
    that go are there.

    Attributes:
        pattern: which files.
        added: segments of new files.
        removed: segments of files that are not what they were.
        write: when, and how many rows came and went.
    """

    pattern: str
    added: tuple[SegmentRecord, ...]
    removed: tuple[SegmentId, ...]
    write: WriteSummary

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """See `Change.from_json`."""
        return cls(
            pattern=data["pattern"],
            added=tuple(SegmentRecord.from_json(item) for item in data["added"]),
            removed=tuple(data["removed"]),
            write=WriteSummary.from_json(data["write"]),
        )
