"""Changes of a collection that tell which versions are kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from gpuvec.meta.changes import Change
from gpuvec.types import Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTag(Change):
    """Give a version a name; it is kept from now on.

    Conditions: no other version has the name, and the version was not forgotten.
    """

    name: str
    version: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class DropTag(Change):
    """Forget a tag. Condition: it exists."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin(Change):
    """Keep a version and the files in use since a time, for a while; also renews a pin.

    Condition: the version was not forgotten.
    """

    pin_id: str
    version: Timestamp
    since_ms: int
    expires_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DropPin(Change):
    """The read is over; a pin that is gone already stays so."""

    pin_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRetention(Change):
    """Keep every version so long; None: as long as the process's settings say."""

    retention_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptState(Change):
    """The collection is a copy of another one at a version; this is all that it holds.

    Condition: nobody has written to it.

    Attributes:
        state: as `CollectionState.to_json` gives it.
    """

    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget(Change):
    """Only versions from `since` on, and `points`, can be read from now on.

    Goes before a change that drops rows in the same entry. Condition: every tag, and every pin
    that is alive at `time_ms`, is at `since` or later, or among the points; pins that are not go.
    """

    since: Timestamp
    points: tuple[Timestamp, ...]
    time_ms: int

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """See `Change.from_json`."""
        return cls(since=data["since"], points=tuple(data["points"]), time_ms=data["time_ms"])
