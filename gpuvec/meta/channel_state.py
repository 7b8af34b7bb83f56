"""What a manifest keeps of a channel."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from gpuvec.types import Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelState:
    """How far a channel's log is in files, and who owns it."""

    epoch: int = 0
    flushed_lsn: int = 0  # every log position up to here is in files; 0: none
    flushed_ts: Timestamp = 0
    fences: tuple[int, ...] = ()  # flushed positions that hold fences

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the state from its fields."""
        return cls(**{**data, "fences": tuple(data["fences"])})
