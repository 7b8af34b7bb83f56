"""How new a read must be, by level; every level is exact about the one version that it reads."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from gpuvec.types import Timestamp, Version


class Consistency(StrEnum):
    """The setting `consistency`: what a read sees of the writes before it."""

    STRONG = "strong"  # every write that was acknowledged anywhere
    BOUNDED = "bounded"  # all but those of the last `staleness_s`, and this client's own
    SESSION = "session"  # this client's own, and what any replica knows of others
    EVENTUAL = "eventually"  # what any replica knows


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarantee:
    """What the plan of a read must keep.

    Attributes:
        seen: it is not older than this timestamp.
        looked: the node that makes it knows that nothing newer was there when it was asked.
        reuse_s: a plan that was asked for at most so long ago will do.
    """

    seen: Timestamp
    looked: bool
    reuse_s: float


def guarantee(level: Consistency, *, seen: Timestamp, staleness_s: float) -> Guarantee:
    """Return what a level asks of a plan.

    Args:
        level: of the read.
        seen: the newest version of the collection that this client wrote or read.
        staleness_s: of `bounded` reads.
    """
    match level:
        case Consistency.STRONG:
            return Guarantee(seen=seen, looked=True, reuse_s=0.0)
        case Consistency.BOUNDED:
            return Guarantee(seen=seen, looked=True, reuse_s=staleness_s)
        case Consistency.SESSION:
            return Guarantee(seen=seen, looked=False, reuse_s=0.0)
        case Consistency.EVENTUAL:
            return Guarantee(seen=0, looked=False, reuse_s=0.0)


class Seen:
    """The newest version of each collection that this client knows of. Thread-safe."""

    def __init__(self) -> None:
        self._versions: Mapping[str, Version] = {}  # replaced, so that it is read without the lock
        self._lock = threading.Lock()

    def note(self, collection_id: str, version: Version) -> None:
        """Take in a version that was written or read."""
        with self._lock:
            if version > self._versions.get(collection_id, 0):
                self._versions = {**self._versions, collection_id: version}

    def of(self, collection_id: str) -> Version:
        """Return the newest one; 0: none was seen."""
        return self._versions.get(collection_id, 0)

    def newest(self) -> Version:
        """Return the newest one of all collections; 0: none was seen."""
        return max(self._versions.values(), default=0)

    def forget(self, collection_id: str) -> None:
        """Let go of a collection that was dropped."""
        with self._lock:
            self._versions = {k: v for k, v in self._versions.items() if k != collection_id}
