"""What a manifest keeps of a channel."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from gpuvec.types import ChannelName, Timestamp

# Transactions that were committed: their timestamps, and the channels that hold prepared parts.
Commits = tuple[tuple[Timestamp, tuple[ChannelName, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelState:
    """How far a channel's log is in files, and who owns it."""

    epoch: int = 0
    flushed_lsn: int = 0  # every log position up to here is in files; 0: none
    flushed_ts: Timestamp = 0
    fences: tuple[int, ...] = ()  # flushed positions that hold fences
    commits: Commits = ()  # flushed commit records that a prepared part in some log still needs

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal state."""
        return {
            "epoch": self.epoch,
            "flushed_lsn": self.flushed_lsn,
            "flushed_ts": self.flushed_ts,
            "fences": list(self.fences),
            **(
                {"commits": [[ts, list(names)] for ts, names in self.commits]}
                if self.commits
                else {}
            ),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the state from its fields."""
        commits = commits_from_json(data.get("commits", ()))
        return cls(**{**data, "fences": tuple(data["fences"]), "commits": commits})


def commits_from_json(data: Iterable[Any]) -> Commits:
    """Make the commits that were written as lists."""
    return tuple((ts, tuple(names)) for ts, names in data)


def without_settled_commits(
    channels: Mapping[ChannelName, ChannelState],
) -> Mapping[ChannelName, ChannelState]:
    """Return the channels without commits that no prepared part needs: all of them are flushed."""
    if not any(channel.commits for channel in channels.values()):
        return channels
    return {
        name: replace(
            channel,
            commits=tuple(
                (ts, parts)
                for ts, parts in channel.commits
                if any(channels[part].flushed_ts < ts for part in parts)
            ),
        )
        for name, channel in channels.items()
    }
