"""What simulations of processes on one store share: processes live, die and start anew."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from gpuvec.errors import ConflictError, CorruptError, StorageError, UnavailableError
from gpuvec.storage.object_store import Procedure
from gpuvec.testing.sim import Faults, Process, Violation, World


@dataclass(eq=False)
class Lives(ABC):
    """One run: `run` does everything, and raises `Violation` when a promise was broken.

    Args:
        seed: of everything random.
        appendable: medium of the log: append files, or one object per group.
        steps: operations before the final restart.
    """

    seed: int
    appendable: bool
    steps: int = 1200

    moods: ClassVar[Sequence[Faults]]  # one of them for all processes of a run
    casts: ClassVar[Sequence[Sequence[str]]]  # which roles there are, likewise
    rest: ClassVar[int]  # steps between a process's lives, at most

    def __post_init__(self) -> None:
        self.world = World(self.seed, Faults(), on_end=self._ended, on_kill=self._restart)
        self._roles = self.roles()

    @abstractmethod
    def roles(self) -> Mapping[str, Callable[[], Procedure[None]]]:
        """Return what a process of each role does in one life."""

    @abstractmethod
    def create(self) -> Procedure[None]:
        """Begin the collection, before there are faults."""

    @abstractmethod
    def finish(self) -> Procedure[None]:
        """Read what there is at last, when faults are over."""

    @abstractmethod
    def check(self) -> None:
        """Compare what was promised and read with what is there at last."""

    def run(self) -> None:
        """Let processes live and die, restart the machine, compare all reads with the last."""
        chance = self.world.chance
        self.world.start("creator", self.create())
        self.world.run(100)
        self.world.faults = chance.choice(self.moods)
        for role in chance.choice(self.casts):
            self.world.start(role, self._roles[role]())
        self.world.run(self.steps)
        self.world.kill_all(power_cut=chance.random() < 0.5)
        self.world.processes.clear()  # and nobody starts anew
        self.world.faults = Faults()
        self.world.start("last", self.finish())
        self.world.run(10_000)
        self.check()

    def fail(self, what: str) -> Violation:
        """Return the error for a broken promise."""
        medium = "files" if self.appendable else "slots"
        return Violation(f"seed {self.seed} on {medium}, step {self.world.step}: {what}")

    def _ended(self, process: Process, failure: Exception | None) -> None:
        benign = isinstance(failure, ConflictError | UnavailableError | StorageError)
        if isinstance(failure, CorruptError) or (failure and not benign):
            raise self.fail(f"{process.name} ended with {failure!r}") from failure
        self._restart(process)

    def _restart(self, process: Process) -> None:
        if process.name in self._roles:
            delay = self.world.chance.randrange(self.rest)
            self.world.start(process.name, self._roles[process.name](), delay)
