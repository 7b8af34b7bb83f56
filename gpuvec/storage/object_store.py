"""The port to bytes: what a store can do, as methods and as operations that procedures yield.

A *procedure* is a generator that yields operations and is sent their results; a failed operation is
thrown into it. The same procedure runs on threads (`run`), on an event loop, on a virtual clock and
on a store that fails on schedule, so what the simulation proves is the code that ships.
"""

import secrets
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from gpuvec import telemetry
from gpuvec.clock import Clock

Buffer = Any  # bytes, memoryview, or a C-contiguous array


class ObjectStore(Protocol):
    """Immutable objects under `/`-separated lower-case ASCII keys.

    Every method may raise `StorageError`. When a call returns, its effect is durable; when it
    raises, the effect may or may not have happened. Safe for use by several threads.
    """

    def get(self, key: str) -> bytes:
        """Return the object's bytes; `CorruptError` GV-501 with `details["missing"]` if none."""

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`; `CorruptError` if missing or shorter."""

    def size(self, key: str) -> int | None:
        """Return the object's length in bytes, None when there is none."""

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """Write an object from its parts, replacing any other of that name."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Create a small, non-empty object in one step; False, and no change, if the key exists."""

    def append(self, key: str, data: bytes) -> None:
        """Append to a log file, creating it when missing. Only where `appendable`."""

    def sync(self, key: str) -> None:
        """Make durable what a read of a log file returned, whoever wrote it."""

    def list(self, prefix: str, start_after: str = "") -> list[str]:
        """Return the keys that begin with `prefix` and are larger than `start_after`, sorted."""

    def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; those that do not exist are passed over."""

    def stamp(self, folders: Sequence[str], logs: Sequence[str]) -> Hashable | None:
        """Return what differs once a key was made or deleted in a folder, or a log was appended to.

        None when that cannot be told for less than a listing. Take it before reading: as long as
        it stays the same, what was read is all there is.

        Args:
            folders: keys that other keys begin with, up to a slash; keys further below may change.
            logs: keys that exist.
        """

    def local_path(self, key: str) -> Path | None:
        """Return a path that can be memory mapped, None when the store has no local files."""

    @property
    def appendable(self) -> bool:
        """Whether `append` works; else logs are one object per group commit."""


@dataclass(frozen=True, slots=True)
class Get:
    """Yields the object's bytes."""

    key: str


@dataclass(frozen=True, slots=True)
class GetRange:
    """Yields `length` bytes from `start`."""

    key: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Size:
    """Yields the length in bytes, or None."""

    key: str


@dataclass(frozen=True, slots=True)
class Put:
    """Yields None."""

    key: str
    parts: Sequence[Buffer]


@dataclass(frozen=True, slots=True)
class PutIfAbsent:
    """Yields whether the object was created."""

    key: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Append:
    """Yields None."""

    key: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Sync:
    """Yields None."""

    key: str


@dataclass(frozen=True, slots=True)
class List:
    """Yields sorted keys."""

    prefix: str
    start_after: str = ""


@dataclass(frozen=True, slots=True)
class Delete:
    """Yields None."""

    keys: Sequence[str]


@dataclass(frozen=True, slots=True)
class Sleep:
    """Yields None, later."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Now:
    """Yields wall-clock milliseconds."""


@dataclass(frozen=True, slots=True)
class Nonce:
    """Yields 32 random hex digits."""


@dataclass(frozen=True, slots=True)
class Ask:
    """Yields the coordinator's answer; only where there is one, see `answered`."""

    message: Any


Operation = (
    Get
    | GetRange
    | Size
    | Put
    | PutIfAbsent
    | Append
    | Sync
    | List
    | Delete
    | Sleep
    | Now
    | Nonce
    | Ask
)

_COUNTED_AS: dict[type, str] = {
    Get: "get",
    GetRange: "get",
    Size: "head",
    Put: "put",
    PutIfAbsent: "put",
    Append: "append",
    Sync: "sync",
    List: "list",
    Delete: "delete",
}
_COUNTED = tuple(_COUNTED_AS)

T = TypeVar("T")
Procedure = Generator[Operation, Any, T]


def perform(operation: Operation, store: ObjectStore, clock: Clock) -> Any:
    """Do one operation, count it, and return its result."""
    result = _performed(operation, store, clock)
    if isinstance(operation, _COUNTED):
        telemetry.STORE_REQUESTS.add(1, _COUNTED_AS[type(operation)])
        match operation:
            case Get() | GetRange():
                telemetry.STORE_BYTES.add(len(result), "read")
            case Put(_, parts):
                telemetry.STORE_BYTES.add(sum(map(_size, parts)), "written")
            case PutIfAbsent(_, data) | Append(_, data):
                telemetry.STORE_BYTES.add(len(data), "written")
    return result


def _size(part: Buffer) -> int:
    return int(part.nbytes if hasattr(part, "nbytes") else len(part))


def _performed(operation: Operation, store: ObjectStore, clock: Clock) -> Any:
    match operation:
        case Get(key):
            return store.get(key)
        case GetRange(key, start, length):
            return store.get_range(key, start, length)
        case Size(key):
            return store.size(key)
        case Put(key, parts):
            return store.put(key, parts)
        case PutIfAbsent(key, data):
            return store.put_if_absent(key, data)
        case Append(key, data):
            return store.append(key, data)
        case Sync(key):
            return store.sync(key)
        case List(prefix, start_after):
            return store.list(prefix, start_after)
        case Delete(keys):
            return store.delete(keys)
        case Sleep(seconds):
            return clock.sleep(seconds)
        case Now():
            return clock.now_ms()
        case Nonce():
            return secrets.token_hex(16)
        case Ask(message):
            raise AssertionError(f"nobody here answers {type(message).__name__}")


def run(procedure: Procedure[T], store: ObjectStore, clock: Clock) -> T:
    """Run a procedure to its end on the calling thread."""
    try:
        operation = next(procedure)
        while True:
            try:
                result = perform(operation, store, clock)
            except Exception as error:  # every failure belongs to the procedure
                operation = procedure.throw(error)
            else:
                operation = procedure.send(result)
    except StopIteration as done:
        value: T = done.value
        return value


def answered(procedure: Procedure[T], ask: Callable[[Any], Any]) -> Procedure[T]:
    """Return a procedure whose questions `ask` answers; the store does the rest."""
    try:
        operation = next(procedure)
        while True:
            try:
                result = ask(operation.message) if isinstance(operation, Ask) else (yield operation)
            except Exception as error:  # every failure belongs to the procedure
                operation = procedure.throw(error)
            else:
                operation = procedure.send(result)
    except StopIteration as done:
        value: T = done.value
        return value
