"""The store of a simulated cluster: per collection a manifest and a log of rows.

The manifest is the product's, on objects in memory, with a small state of its own: owners take
epochs there, save rows, and note words that stand for changes of the schema. Its entries are made
step by step, between which others act. A log of rows takes records of its newest epoch only, once
that owner has fenced it; what that stands for is simulated in `sim_log` and `sim_channels`, here it
is one step.
"""

from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gpuvec.errors import GpuvecError, manifest_conflict
from gpuvec.meta.changes import Change
from gpuvec.meta.manifest import LogView, ManifestLog
from gpuvec.storage import keys
from gpuvec.storage.object_store import Ask, Nonce, Now, Procedure, Sleep
from gpuvec.testing import sim
from gpuvec.testing.sim_network import Web
from gpuvec.types import SegmentId

Record = tuple[int, str]  # version, request
STORE_S = 0.01  # of one step at the store


class Fenced(Exception):
    """Another owner has fenced the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeEpoch(Change):
    """A new owner. Condition: `epoch` is the present one + 1."""

    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveRows(Change):
    """Records of the log are now in a segment.

    Conditions: the epoch is `epoch`, and nothing above version `after` is saved.
    """

    epoch: int
    after: int
    segment: SegmentId
    records: tuple[Record, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "SaveRows":
        """See `Change.from_json`."""
        plain = {key: value for key, value in data.items() if key != "change"}
        return cls(**{**plain, "records": tuple((v, r) for v, r in data["records"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteWord(Change):
    """A word is added to the others, whether or not it is there: nothing tells one twice."""

    word: str


@dataclass(frozen=True, slots=True)
class ShelfState:
    """What the manifest of a collection folds into; see `gpuvec.meta.manifest.LogState`."""

    epoch: int = 0
    saved: int = 0  # the newest version in segments
    segments: Mapping[SegmentId, tuple[Record, ...]] = field(default_factory=dict)
    words: tuple[str, ...] = ()

    def apply(self, change: Change) -> "ShelfState":
        """See `LogState.apply`."""
        match change:
            case TakeEpoch(epoch=epoch):
                if epoch != self.epoch + 1:
                    raise manifest_conflict(f"epoch {self.epoch} was taken")
                return replace(self, epoch=epoch)
            case SaveRows(epoch=epoch, after=after, segment=segment, records=records):
                if (epoch, after) != (self.epoch, self.saved):
                    raise manifest_conflict(f"rows up to {self.saved} are saved")
                segments = {**self.segments, segment: records}
                return replace(self, saved=records[-1][0], segments=segments)
            case NoteWord(word=word):
                return replace(self, words=(*self.words, word))
        raise AssertionError(f"no change of a shelf: {change}")

    def to_json(self) -> dict[str, Any]:
        """See `LogState.to_json`."""
        return {
            "epoch": self.epoch,
            "saved": self.saved,
            "segments": dict(self.segments),
            "words": self.words,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ShelfState":
        """See `LogState.from_json`."""
        segments = {
            SegmentId(name): tuple((v, r) for v, r in records)
            for name, records in data["segments"].items()
        }
        return cls(data["epoch"], data["saved"], segments, tuple(data["words"]))


View = LogView[ShelfState]


@dataclass(frozen=True, slots=True)
class Look:
    """What the manifest and the log said at one moment.

    Attributes:
        entry_id: of the newest entry.
        epoch: of the newest owner.
        segments: saved records, by segment.
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

    @property
    def saved(self) -> int:
        """The newest version in segments."""
        return max((v for records in self.segments.values() for v, _ in records), default=0)

    def records(self) -> Iterable[Record]:
        """Iterate over all records."""
        for records in self.segments.values():
            yield from records
        yield from self.tail


@dataclass(eq=False)
class Shelf:
    """What the store has of one collection.

    Attributes:
        objects: of the manifest.
        fenced: the epoch that the log takes records of.
        records: in the log.
    """

    name: str
    objects: sim.SimStore = field(default_factory=sim.SimStore)
    fenced: int = 0
    records: tuple[Record, ...] = ()

    def __post_init__(self) -> None:
        self.log = ManifestLog(keys.collection(self.name), ShelfState())
        self._view: View | None = None

    def view(self) -> View:
        """Read the manifest, at once."""
        procedure = self.log.read(self._view)
        try:
            operation = next(procedure)
            while True:
                try:
                    result = self.objects.perform(operation)
                except GpuvecError as error:
                    operation = procedure.throw(error)
                else:
                    operation = procedure.send(result)
        except StopIteration as done:
            view: View = done.value
        self._view = view
        return view

    def look(self) -> Look:
        """Read the manifest and the log, at once."""
        return self.seen(self.view())

    def seen(self, view: View) -> Look:
        """Return what a manifest and the log say."""
        state = view.state
        tail = tuple(record for record in self.records if record[0] > state.saved)
        return Look(view.entry_id, state.epoch, dict(state.segments), tail)

    @property
    def entry_id(self) -> int:
        """The newest entry."""
        return self.view().entry_id

    @property
    def epoch(self) -> int:
        """Of the newest owner."""
        return self.view().state.epoch

    @property
    def segments(self) -> Mapping[SegmentId, tuple[Record, ...]]:
        """All that are saved."""
        return self.view().state.segments

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
        self.records = (*self.records, record)


@dataclass(eq=False)
class SimStore:
    """The store of one database."""

    shelves: dict[str, Shelf] = field(default_factory=dict)
    generation: int = 0

    def take_generation(self) -> int:
        """Become the coordinator that rules."""
        self.generation += 1
        return self.generation


def stepwise(
    procedure: Procedure[Any], objects: sim.SimStore, web: Web, ask: Any = None
) -> Generator[float, None, Any]:
    """Do a procedure in virtual time, one step at the store after the other.

    Args:
        procedure: see `gpuvec.storage.object_store`.
        objects: of the store.
        web: has the time and chance.
        ask: from a message to the work of having the coordinator answer it.
    """
    try:
        operation = next(procedure)
        while True:
            try:
                match operation:
                    case Ask(message):
                        result = yield from ask(message)
                    case Sleep(seconds):
                        result = yield seconds
                    case Now():
                        result = int(web.now_s * 1000)
                    case Nonce():
                        result = f"{web.chance.getrandbits(128):032x}"
                    case _:
                        yield STORE_S
                        result = objects.perform(operation)
            except GpuvecError as error:
                operation = procedure.throw(error)
            else:
                operation = procedure.send(result)
    except StopIteration as done:
        return done.value
