"""What a channel needs of its host."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from gpuvec.segment.sealed import SealedSegment
from gpuvec.storage.object_store import Procedure
from gpuvec.types import SegmentId, Timestamp

T = TypeVar("T")
Permit = Callable[[], None]  # raises where this process may not become the owner of channels
Progress = Callable[[float], None]  # told the share that is done; may raise, to stop the work


def always() -> None:
    """Permit it."""


class Segments(Protocol):
    """The segments in files of one channel, or of several."""

    def sealed(self) -> tuple[SealedSegment, ...]:
        """Return them, oldest first."""


class Runner(Protocol):
    """Runs a procedure to its end."""

    def __call__(self, procedure: Procedure[T]) -> T:
        """Return what the procedure returns."""


class FilesHost(Protocol):
    """What writing files of a collection needs of a process."""

    def run(self, procedure: Procedure[T]) -> T:
        """Run a procedure on the store."""

    def mint(self) -> SegmentId:
        """Make a name that is never reused."""


class Stamps(Protocol):
    """The timestamp oracle, as nodes see it."""

    def next(self) -> Timestamp:
        """Return a timestamp above all others."""

    def observe(self, timestamp: Timestamp) -> None:
        """Note a timestamp that is in use."""


class Together(Protocol):
    """All channels of a collection that has several, as each of them sees it."""

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """The one lock of all channels; its holder may take it again."""

    def refresh(self) -> None:
        """Follow another owner, in all channels up to one version."""

    def claim(self, generation: int) -> None:
        """Become the owner of all channels."""

    def publish(self, version: Timestamp) -> None:
        """Let reads see what was applied in all channels, at once."""

    def let_go(self) -> None:
        """Forget what is in memory of all channels, under the lock."""
