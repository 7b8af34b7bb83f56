"""What stays on a card between searches: made when wanted, let go when others need the room."""

import gc
import itertools
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from gpuvec import telemetry
from gpuvec.device import allocator
from gpuvec.device.budget import Budget
from gpuvec.device.library import cupy_module, out_of_memory
from gpuvec.device.memory import Memory, card_memory
from gpuvec.device.turns import Turns
from gpuvec.errors import GpuvecError, device_budget_exceeded, device_ran_out
from gpuvec.meters import Reading

T = TypeVar("T")
Key = tuple[Hashable, ...]  # begins with segment id and generation
_HALVINGS = 4  # a card that has run out is tried again with so many sizes of scratch


@dataclass(slots=True, eq=False)
class _Entry:
    scope: int
    part: str
    size_bytes: int
    owner: str
    value: Any = None
    made: bool = False
    users: int = 0
    used: int = 0  # when, by the count of uses
    lock: threading.Lock = field(default_factory=threading.Lock)


class Residency:
    """All that lies on one card, of whatever database; what was used longest ago goes first.

    Args:
        budget: of the card.
        tidy: gives memory that libraries keep for later back to the card.
    """

    def __init__(self, budget: Budget, tidy: Callable[[], None]) -> None:
        self.budget = budget
        self.turns = Turns()
        self._tidy = tidy
        self._entries: dict[Key, _Entry] = {}
        self._generations: dict[Key, Hashable] = {}
        self._loaded: set[tuple[int, str]] = set()  # scope and owner
        self._uses = itertools.count(1)
        self._gone: deque[int] = deque()  # scopes whose stores nobody has any more
        budget.make_room = self.let_go

    def enter(
        self, scope: int, key: Key, size_bytes: int, make: Callable[[], Any], part: str, owner: str
    ) -> _Entry:
        """Return an entry that stays until it is left; see `DeviceStore.use`."""
        name = (scope, *key)
        with self.budget.lock:
            self.sweep()
            self._forget_older(scope, key)
            entry = self._entries.get(name)
            if entry is None:
                entry = self._entries[name] = _Entry(scope, part, size_bytes, owner)
            entry.users += 1
            entry.used = next(self._uses)
        if entry.made:
            return entry
        try:
            with entry.lock:
                if not entry.made:
                    self._make(entry, make, key)
        except BaseException:
            with self.budget.lock:
                entry.users -= 1
                if not entry.users and self._entries.get(name) is entry:
                    del self._entries[name]
            raise
        return entry

    def leave(self, entry: _Entry) -> None:
        """Let an entry go, as far as one use of it is meant."""
        with self.budget.lock:
            entry.users -= 1
            if not entry.users and entry.scope < 0:  # put out while it was used
                self._drop_value(entry)

    def has(self, scope: int, key: Key) -> bool:
        """Return whether an entry is there."""
        entry = self._entries.get((scope, *key))
        return entry is not None and entry.made

    def fits(self, size_bytes: int) -> bool:
        """Return whether so much could stay on the card, were nothing but the pinned there."""
        with self.budget.lock:
            pinned = sum(e.size_bytes for e in self._entries.values() if e.made and self._kept(e))
            return pinned + size_bytes <= self.budget.resident_limit

    def let_go(self, size_bytes: int) -> None:
        """Let go of at least so many bytes, if there are so many that nobody uses or has pinned."""
        with self.budget.lock:
            self.sweep()
            idle = [
                (entry.used, name)
                for name, entry in self._entries.items()
                if entry.made and not entry.users and not self._kept(entry)
            ]
            for _, name in sorted(idle, key=lambda pair: pair[0]):
                if size_bytes <= 0:
                    return
                size_bytes -= self._entries[name].size_bytes
                self._drop(name)

    def clear(self) -> None:
        """Let go of all that nobody uses, pinned or not."""
        with self.budget.lock:
            for name in [n for n, e in self._entries.items() if e.made and not e.users]:
                self._drop(name)

    def forget(self, scope: int, owner: str | None = None) -> None:
        """Let go of what a scope holds, or of one owner's; what is in use goes when it is left."""
        with self.budget.lock:
            pairs = self._entries.items()
            mine = [n for n, e in pairs if e.scope == scope and owner in (None, e.owner)]
            for name in mine:
                self._drop(name)
            self._loaded = {
                pair for pair in self._loaded if pair[0] != scope or owner not in (None, pair[1])
            }
            if owner is None:
                self._generations = {n: g for n, g in self._generations.items() if n[0] != scope}

    def abandon(self, scope: int) -> None:
        """Note that nobody has a scope's store any more; called by the collector, in any thread."""
        self._gone.append(scope)

    def sweep(self) -> None:
        """Let go of abandoned scopes."""
        while self._gone:
            self.forget(self._gone.popleft())

    def pin(self, scope: int, owner: str) -> None:
        """Let nothing of an owner go to make room, from now on."""
        with self.budget.lock:
            self._loaded.add((scope, owner))

    def run(self, work: Callable[[], T], *, what: str, kind: str) -> T:
        """Do work on the card; see `DeviceStore.run`."""
        if self.turns.inside:
            return work()
        begin = time.perf_counter()
        try:
            return self._run(work, what)
        finally:
            telemetry.DEVICE_SECONDS.add(time.perf_counter() - begin, kind)

    def _run(self, work: Callable[[], T], what: str) -> T:
        try:
            with self.turns.shared():
                return work()
        except Exception as error:
            if not _lacks_memory(error):
                raise
        with self.turns.alone():
            return self._run_alone(work, what)

    def _run_alone(self, work: Callable[[], T], what: str) -> T:
        cause = ""
        for halved in range(_HALVINGS + 1):
            self._tidy()
            self.budget.measure()
            try:
                with self.budget.halved(halved):
                    return work()
            except Exception as error:
                if not _lacks_memory(error) or (not halved and isinstance(error, GpuvecError)):
                    raise
                cause = str(error) or type(error).__name__
            gc.collect()  # arrays in the frames of the error
            self.clear()
        self._tidy()
        self.budget.measure()
        card = self.budget.card
        raise device_ran_out(
            what, cause, free=card.free, total=card.total, parts=self.budget.parts()
        )

    def _make(self, entry: _Entry, make: Callable[[], Any], key: Key) -> None:
        what = f"{entry.part} of segment {key[0]}" if isinstance(key[0], str) else entry.part
        with self.budget.lock:
            self._check_resident(entry, what)
            self.budget.take(entry.part, entry.size_bytes, what=what)
        try:
            entry.value = make()
        except BaseException:
            self.budget.give_back(entry.part, entry.size_bytes)
            raise
        entry.made = True

    def _check_resident(self, entry: _Entry, what: str) -> None:
        """Keep the share of scratch free of what stays."""
        limit, parts = self.budget.resident_limit, self.budget.parts()
        stays = sum(parts.values()) - parts["scratch"] + entry.size_bytes
        if stays > limit:
            self.let_go(stays - limit)
            parts = self.budget.parts() | {"scratch": 0}
            if sum(parts.values()) + entry.size_bytes > limit:
                raise device_budget_exceeded(
                    what, needed=entry.size_bytes, limit=limit, parts=parts
                )

    def _kept(self, entry: _Entry) -> bool:
        return (entry.scope, entry.owner) in self._loaded

    def _forget_older(self, scope: int, key: Key) -> None:
        own, generation = (scope, key[0]), key[1]
        before = self._generations.get(own, generation)
        self._generations[own] = generation
        if before != generation:
            for name in [n for n in self._entries if n[:3] == (*own, before)]:
                self._drop(name)

    def _drop(self, name: Key) -> None:
        entry = self._entries.pop(name)
        if entry.users:
            entry.scope = -1  # of no scope: it goes when it is left
        else:
            self._drop_value(entry)

    def _drop_value(self, entry: _Entry) -> None:
        if entry.made:
            entry.value, entry.made = None, False
            self.budget.give_back(entry.part, entry.size_bytes)


def _lacks_memory(error: Exception) -> bool:
    if isinstance(error, GpuvecError):
        return error.code == "GV-903"
    return out_of_memory(error) and not type(error).__module__.startswith("numpy")


class DeviceStore:
    """What one database has on a card. Let go of as a whole with the last reference to it.

    Keys begin with a segment's id and generation; another generation of a segment puts the things
    of the former one out.
    """

    _scopes = itertools.count(1)

    def __init__(self, residency: Residency) -> None:
        self._residency = residency
        self._scope = next(self._scopes)
        self._common: dict[tuple[str, Hashable], Any] = {}
        weakref.finalize(self, residency.abandon, self._scope).atexit = False

    @property
    def budget(self) -> Budget:
        """Of the card, shared with all others of this process."""
        return self._residency.budget

    @contextmanager
    def use(
        self,
        key: Key,
        size_bytes: int,
        make: Callable[[], Any],
        *,
        part: str = "vectors",
        owner: str = "",
    ) -> Iterator[Any]:
        """Hold something on the card while a block runs; it is made if it is not there.

        Args:
            key: see the class.
            size_bytes: that it takes on the card, at most. Booked before it is made.
            make: called by one thread at a time for one key; may use `use` and scratch itself.
            part: one of `budget.PARTS`.
            owner: the collection, which may be pinned.

        Raises:
            DeviceMemoryError: `GV-903`, there is no room for it beside what is in use.
        """
        entry = self._residency.enter(self._scope, key, size_bytes, make, part, owner)
        try:
            yield entry.value
        finally:
            self._residency.leave(entry)

    def common(self, owner: str, what: Hashable, make: Callable[[], T]) -> T:
        """Return something small that all segments of a collection share; it is not booked.

        Args:
            owner: the collection.
            what: its name.
            make: called if it is not there.
        """
        try:
            found: T = self._common[owner, what]
        except KeyError:
            found = self._common.setdefault((owner, what), make())
        return found

    def has(self, key: Key) -> bool:
        """Return whether something is on the card."""
        return self._residency.has(self._scope, key)

    def fits(self, size_bytes: int) -> bool:
        """Return whether something of that size could stay on the card."""
        return self._residency.fits(size_bytes)

    def scope(self) -> "DeviceStore":
        """Return a store for things that shall go sooner: with the last reference to it."""
        return DeviceStore(self._residency)

    def pin(self, owner: str) -> None:
        """Let nothing of a collection go to make room, until `release`."""
        self._residency.pin(self._scope, owner)

    def release(self, owner: str) -> None:
        """Let go of all that a collection has on the card."""
        self._residency.forget(self._scope, owner)
        for name in [name for name in self._common if name[0] == owner]:
            self._common.pop(name, None)

    def close(self) -> None:
        """Let go of everything; what is in use goes when it is left."""
        self._residency.forget(self._scope)
        self._common.clear()

    def run(self, work: Callable[[], T], *, what: str = "a search", kind: str = "search") -> T:
        """Do work on the card, which may be done twice.

        Where memory lacks because others work at the same time, or the card has run out although
        the budget was kept, it is done again alone, with everything else let go and less scratch.

        Args:
            work: uses `use` and `budget.scratch`, and brings its answer to the host.
            what: it is, for messages.
            kind: of work, for metrics: `search` or `load`.

        Raises:
            DeviceMemoryError: `GV-903`, the budget is too small even so; `GV-904`, the card has
                no memory left.
        """
        return self._residency.run(work, what=what, kind=kind)


def device_store() -> DeviceStore:
    """Return a new store on the current card.

    Raises:
        UnsupportedError: `GV-901`, CuPy is missing.
    """
    return DeviceStore(residency_of(int(cupy_module().cuda.runtime.getDevice())))


_cards: dict[int, Residency] = {}
_cards_lock = threading.Lock()


def forget_cards() -> None:
    """Know nothing of any card any more: those that are asked for next are others."""
    with _cards_lock:
        _cards.clear()


def residency_of(device: int) -> Residency:
    """Return what this process has on a card; makes the pool of memory that libraries share."""
    with _cards_lock:
        if device not in _cards:
            allocator.share_pool()
            residency = Residency(Budget(card_memory), allocator.free_blocks)
            telemetry.METERS.watch(residency, lambda one: _readings(one, device))
            _cards[device] = residency
        return _cards[device]


def _readings(residency: Residency, card: int) -> list[Reading]:
    """Return bytes booked by part, and what others have of the card; none of a forgotten one."""
    if _cards.get(card) is not residency:
        return []
    device = str(card)
    with residency.budget.lock:
        residency.sweep()
    parts = residency.budget.parts()
    found = [telemetry.DEVICE_BYTES.at(size, device, part) for part, size in parts.items()]
    cupy = sys.modules.get("cupy")
    if cupy is not None and cupy.is_available():
        memory: Memory = card_memory()
        others = max(0, memory.total - memory.free - sum(parts.values()))
        found.append(telemetry.DEVICE_BYTES.at(others, device, "other"))
    return found
