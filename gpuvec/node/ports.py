"""What a channel needs of its host."""

from typing import Protocol, TypeVar

from gpuvec.storage.object_store import Procedure
from gpuvec.types import Timestamp

T = TypeVar("T")


class Runner(Protocol):
    """Runs a procedure to its end."""

    def __call__(self, procedure: Procedure[T]) -> T:
        """Return what the procedure returns."""


class Stamps(Protocol):
    """The timestamp oracle, as nodes see it."""

    def next(self) -> Timestamp:
        """Return a timestamp above all others."""

    def observe(self, timestamp: Timestamp) -> None:
        """Note a timestamp that is in use."""
