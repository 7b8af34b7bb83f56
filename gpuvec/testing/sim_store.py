"""The store of a simulated cluster: per collection a manifest and a log, in the fewest words.

The manifest has entries, each committed only upon the one before; owners take epochs there. A log
takes records of its newest epoch only, once that owner has fenced it. What these words stand for is
simulated in `sim_log` and `sim_channels`; here they are atomic.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from gpuvec.types import SegmentId

Record = tuple[int, str]  # version, request


class Fenced(Exception):
    """Another owner has fenced the log, or another entry was committed first."""


@dataclass(frozen=True, slots=True)
class Look:
    """What the manifest and the log said at one moment.

    Attributes:
        entry_id: of the newest entry.
        epoch: of the newest owner.
        segments: flushed records, by segment.
        tail: records that are only in the log.
    """

    entry_id: int
    epoch: int
    segments: dict[SegmentId, tuple[Record, ...]]
    tail: tuple[Record, ...]

    @property
    def version(self) -> int:
        """The newest version."""
        return max((version for version, _ in self.records()), default=0)

    def records(self) -> Iterable[Record]:
        """Iterate over all records."""
        for records in self.segments.values():
            yield from records
        yield from self.tail


@dataclass(eq=False)
class Shelf:
    """What the store has of one collection."""

    name: str
    entry_id: int = 1
    generation: int = 0  # of the newest entry
    epoch: int = 0
    fenced: int = 0  # the epoch that the log takes records of
    segments: dict[SegmentId, tuple[Record, ...]] = field(default_factory=dict)
    tail: tuple[Record, ...] = ()

    def look(self) -> Look:
        """Read the manifest and the log."""
        return Look(self.entry_id, self.epoch, dict(self.segments), self.tail)

    def claim(self, after: Look, generation: int) -> int:
        """Commit the next epoch upon the entry that was looked at; return it."""
        if generation < self.generation or self.entry_id != after.entry_id:
            raise Fenced
        self.entry_id += 1
        self.generation = generation
        self.epoch += 1
        return self.epoch

    def fence(self, epoch: int) -> Look:
        """Let the log take records of an epoch, and of none before; return what there is."""
        if epoch < self.fenced:
            raise Fenced
        self.fenced = epoch
        return self.look()

    def append(self, epoch: int, record: Record) -> None:
        """Log a record, durably."""
        if epoch != self.fenced:
            raise Fenced
        self.tail = (*self.tail, record)

    def flush(self, epoch: int, upto: int) -> Look:
        """Commit the log's records up to a version as a segment; return what there is then."""
        if epoch != self.epoch:
            raise Fenced
        flushed = tuple(record for record in self.tail if record[0] <= upto)
        if flushed:
            self.entry_id += 1
            self.segments[SegmentId(f"{self.name}-{self.entry_id:06d}")] = flushed
            self.tail = tuple(record for record in self.tail if record[0] > upto)
        return self.look()


@dataclass(eq=False)
class SimStore:
    """The store of one database."""

    shelves: dict[str, Shelf] = field(default_factory=dict)
    generation: int = 0

    def take_generation(self) -> int:
        """Become the coordinator that rules."""
        self.generation += 1
        return self.generation
