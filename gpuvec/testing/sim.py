"""A deterministic world for procedures: one store, one clock, and all that can go wrong.

Processes are generators that yield the operations of `gpuvec.storage.object_store`. A seeded
scheduler performs one operation at a time of a process that it draws. Before or after its effect an
operation may fail, its process may stall for long, or be killed; the power may go, which also takes
appended bytes that no sync made durable. The same seed gives the same world.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gpuvec.errors import StorageError, missing_object
from gpuvec.storage import keys
from gpuvec.storage.object_store import (
    Append,
    Delete,
    Get,
    GetRange,
    List,
    Nonce,
    Now,
    Operation,
    Procedure,
    Put,
    PutIfAbsent,
    Size,
    Sleep,
    Sync,
)

STEPS_PER_SECOND = 100
_EPOCH_MS = 1_700_000_000_000


class Violation(AssertionError):
    """A promise was broken; the seed is in the message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Chances per operation, and lengths of stalls in steps."""

    error: float = 0.0  # half of them after the effect
    stall: float = 0.0
    kill: float = 0.0
    power_cut: float = 0.0
    stalls: tuple[int, ...] = (5, 50, 400)


@dataclass(slots=True)
class SimStore:
    """Objects and append files; appended bytes are safe from power cuts only once synced.

    Asserts what must hold of every key: nothing is overwritten but hints, names are used once or
    below a mark, marks never fall.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    durable: dict[str, int] = field(default_factory=dict)  # bytes that survive, where not all do
    ever: set[str] = field(default_factory=set)

    def perform(self, operation: Operation) -> Any:
        """Do an operation on objects; those on time are the world's."""
        match operation:
            case Get(key):
                return self._get(key)
            case GetRange(key, start, length):
                data = self._get(key)[start : start + length]
                if len(data) < length:
                    raise missing_object(key)
                return data
            case Size(key):
                return len(self.objects[key]) if key in self.objects else None
            case List(prefix, start_after):
                return sorted(k for k in self.objects if k.startswith(prefix) and k > start_after)
            case PutIfAbsent(key, data):
                return self._create(key, data)
            case Put(key, parts):
                data = b"".join(bytes(part) for part in parts)
                if self.objects.get(key, data) != data and not key.endswith("/hint"):
                    raise Violation(f"{key} was overwritten")
                self.objects[key] = data
            case Sync(key):
                self._get(key)
                self.durable.pop(key, None)
            case Delete(names):
                for key in names:
                    self._delete(key)
        return None

    def write(self, key: str, data: bytes) -> None:
        """Append without sync."""
        old = self.objects.get(key, b"")
        self.durable.setdefault(key, len(old))
        self.objects[key] = old + data

    def cut_power(self, chance: random.Random) -> None:
        """Lose part of what is not durable, or keep its length with zeros in it."""
        for key, length in self.durable.items():
            data = self.objects[key]
            kept = chance.randint(length, len(data))
            zeros = chance.choice((0, len(data) - kept))
            self.objects[key] = data[:kept] + bytes(zeros)
        self.durable.clear()

    def _get(self, key: str) -> bytes:
        if key not in self.objects:
            raise missing_object(key)
        return self.objects[key]

    def _create(self, key: str, data: bytes) -> bool:
        if key in self.objects:
            return False
        if key in self.ever and not self._superseded(key):
            raise Violation(f"{key} was created again")
        self.ever.add(key)
        self.objects[key] = data
        return True

    def _delete(self, key: str) -> None:
        if "/gc/" in key and self._highest(key.rpartition("/")[0]) == keys.parse_number(key):
            raise Violation(f"the mark {key} fell")
        self.objects.pop(key, None)
        self.durable.pop(key, None)

    def _superseded(self, key: str) -> bool:
        """Whether readers pass over this key, so that a sleeper may create it again."""
        folder = key.rpartition("/")[0]
        if own := keys.parse_wal_file(key):
            names = (keys.parse_wal_file(k) for k in self.objects if k.startswith(f"{folder}/"))
            return any(name > own for name in names if name and name[1])
        number = keys.parse_number(key)
        if number is None:
            return False
        if "/gc/" in key:
            return number < self._highest(folder)
        is_slot = "/wal/" in key
        prefix = folder.removesuffix("/manifest")
        marks = keys.wal_mark_folder(folder) if is_slot else keys.manifest_mark_folder(prefix)
        return number <= self._highest(marks)

    def _highest(self, folder: str) -> int:
        marks = (keys.parse_number(k) or 0 for k in self.objects if k.startswith(f"{folder}/"))
        return max(marks, default=0)


@dataclass(eq=False, slots=True)
class Process:
    """A running procedure."""

    name: str
    procedure: Procedure[Any]
    wake: int  # step
    operation: Operation | None = None  # None before it began
    written: bool = False  # an append whose bytes are written and not yet synced
    result: Any = None
    error: Exception | None = None


class World:
    """A store, a clock and processes.

    Args:
        seed: of all that is random.
        faults: what may go wrong.
        on_end: called with a process that ended and what ended it: None, or an error that its role
        did not catch. on_kill: called with a process that was killed.
    """

    def __init__(
        self,
        seed: int,
        faults: Faults,
        *,
        on_end: Callable[[Process, Exception | None], None],
        on_kill: Callable[[Process], None],
    ) -> None:
        self.chance = random.Random(seed)
        self.store = SimStore()
        self.faults = faults
        self.step = 0
        self.processes: list[Process] = []
        self._on_end = on_end
        self._on_kill = on_kill

    def start(self, name: str, procedure: Procedure[Any], delay: int = 0) -> None:
        """Add a process."""
        self.processes.append(Process(name, procedure, self.step + delay))

    def run(self, steps: int) -> None:
        """Perform operations until so many steps have passed or no process is left."""
        end = self.step + steps
        while self.processes and self.step < end:
            self.step += 1
            ready = [process for process in self.processes if process.wake <= self.step]
            if not ready:
                self.step = min(process.wake for process in self.processes)
                continue
            self._advance(ready[int(self.chance.random() * len(ready))])

    def kill_all(self, *, power_cut: bool) -> None:
        """End every process, as a restart of the machine does."""
        for process in list(self.processes):
            self._kill(process)
        if power_cut:
            self.store.cut_power(self.chance)

    def _advance(self, process: Process) -> None:
        operation, luck, faults = process.operation, self.chance.random(), self.faults
        if operation is None:
            self._resume(process)
        elif luck < faults.power_cut:
            self.kill_all(power_cut=True)
        elif (luck := luck - faults.power_cut) < faults.kill:
            if isinstance(operation, Append) and not process.written:
                torn = operation.data[: self.chance.randrange(len(operation.data))]
                self.store.write(operation.key, torn)
            self._kill(process)
        elif (luck := luck - faults.kill) < faults.stall:
            process.wake = self.step + self.chance.choice(faults.stalls)
        else:
            self._perform(process, operation, luck - faults.stall)

    def _perform(self, process: Process, operation: Operation, luck: float) -> None:
        fails = luck < self.faults.error and not isinstance(operation, Sleep | Now | Nonce)
        before = fails and luck < self.faults.error / 2
        if not before:
            match operation:
                case Sleep(seconds):
                    process.wake = self.step + int(seconds * STEPS_PER_SECOND)
                case Now():
                    process.result = _EPOCH_MS + self.step
                case Nonce():
                    process.result = f"{self.chance.getrandbits(128):032x}"
                case Append(key, data) if not process.written:
                    self.store.write(key, data)
                    process.written = not fails
                    if not fails:
                        return  # and sync in another step
                case Append(key):
                    process.result = self.store.durable.pop(key, None) and None
                    process.written = False
                case _:
                    try:
                        process.result = self.store.perform(operation)
                    except StorageError as error:
                        process.error = error
        if fails:
            process.written = False
            process.error = StorageError("GV-599", f"simulated failure of {operation}")
        self._resume(process)

    def _resume(self, process: Process) -> None:
        result, error = process.result, process.error
        process.result = process.error = None
        try:
            if error is None:
                process.operation = process.procedure.send(result)
            else:
                process.operation = process.procedure.throw(error)
        except StopIteration:
            self._end(process, None)
        except Exception as failure:
            self._end(process, failure)

    def _end(self, process: Process, failure: Exception | None) -> None:
        self.processes.remove(process)
        self._on_end(process, failure)

    def _kill(self, process: Process) -> None:
        self.processes.remove(process)
        process.procedure.close()
        self._on_kill(process)
