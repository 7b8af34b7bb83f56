"""Keeps what long reads need: pins in the logs of collections, renewed while the reads run.

Files that nobody names any more are deleted a grace after they were marked, and old versions are
forgotten after the retention. A read that lasts longer than half the grace, and a `Collection.at`
of a version older than half the retention, therefore commit a `Pin`, and renew it each quarter of
the grace until they end. Pins of a process that died expire.

| died after | left behind | cured by |
|---|---|---|
| a pin was committed | files and a version are kept for nothing | it expires |
"""

import logging
import secrets
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from gpuvec import errors
from gpuvec.clock import LOGICAL_BITS, Clock
from gpuvec.meta.catalog import CollectionState, file_ulids
from gpuvec.meta.changes import Change
from gpuvec.meta.changes_versions import DropPin, Pin
from gpuvec.meta.retention import newest_version, readable
from gpuvec.settings import config
from gpuvec.types import Timestamp

_CROWD = 1000
_log = logging.getLogger("gpuvec")


class Host(Protocol):
    """What leases need of the engine."""

    def state(self, collection_id: str) -> CollectionState:
        """Return the newest manifest of a collection."""

    def pin(self, collection_id: str, changes: list[Change]) -> None:
        """Commit pins, as a writer or beside one."""


@dataclass(slots=True, eq=False)
class _Lease:
    """A read, or a handle on a version."""

    collection_id: str
    version: Timestamp | None  # None: the newest one when the read began
    since_ms: int
    pin_id: str = ""  # "": not pinned
    over: bool = False

    def end(self) -> None:
        """Note that nobody needs it; the garbage collector may call this at any moment."""
        self.over = True


class Leases:
    """What this process reads. Safe for use by several threads; its own begins with the first read.

    Args:
        host: see `Host`.
        clock: wall time of pins.
    """

    def __init__(self, host: Host, clock: Clock) -> None:
        self._host = host
        self._clock = clock
        self._leases: set[_Lease] = set()
        self._crowd = _CROWD  # so many leases, and those that are over go at once
        self._lock = threading.Lock()
        self._tending = threading.Lock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def reading(self, collection_id: str) -> Iterator[None]:
        """Keep the files that a read may use while the context lasts."""
        lease = self._add(collection_id, None)
        try:
            yield
        finally:
            self._end(lease)

    def hold(self, handle: object, collection_id: str, version: Timestamp) -> None:
        """Keep a version until `handle` is gone."""
        lease = self._add(collection_id, version)
        weakref.finalize(handle, lease.end).atexit = False

    def tend(self, *, at_once: bool = False) -> None:
        """Pin what needs it, renew pins, drop those that are over.

        Args:
            at_once: pin every version that a handle has, since old ones are about to be forgotten.
        """
        by_collection: dict[str, list[_Lease]] = {}
        with self._tending:
            with self._lock:
                for lease in self._leases:
                    if lease.pin_id or not lease.over:
                        by_collection.setdefault(lease.collection_id, []).append(lease)
                self._leases = {lease for lease in self._leases if not lease.over}
            for collection_id, leases in by_collection.items():
                self._commit(collection_id, self._changes(collection_id, leases, at_once))

    def _commit(self, collection_id: str, changes: list[Change]) -> None:
        """Commit all changes at once; where one is refused, each by itself."""
        try:
            if changes:
                self._host.pin(collection_id, changes)
        except errors.ConflictError as error:
            if len(changes) == 1:  # a read that needed it says so itself
                _log.warning("cannot pin a version that is read: %s", error)
                return
            for change in changes:
                self._commit(collection_id, [change])
        except errors.GpuvecError as error:
            _log.warning("cannot pin a version that is read: %s", error)

    def _changes(self, collection_id: str, leases: list[_Lease], at_once: bool) -> list[Change]:
        """Return the pins to set, renew and drop for one collection."""
        now_ms, grace_ms = self._clock.now_ms(), int(config["store.grace_s"] * 1000)
        changes: list[Change] = []
        try:
            state = self._host.state(collection_id)
        except errors.GpuvecError:  # it was dropped: there is nothing to keep
            return changes
        for lease in leases:
            if lease.over:
                changes += [DropPin(pin_id=lease.pin_id)] if lease.pin_id else []
            elif self._needs_pin(state, lease, now_ms - lease.since_ms >= grace_ms // 2, at_once):
                lease.pin_id = lease.pin_id or secrets.token_hex(8)
                newest = max((w.ts for w in state.history), default=state.past.forgotten)
                changes.append(
                    Pin(
                        pin_id=lease.pin_id,
                        version=newest if lease.version is None else lease.version,
                        since_ms=lease.since_ms,
                        expires_ms=now_ms + grace_ms,
                    )
                )
        return changes

    def _needs_pin(
        self, state: CollectionState, lease: _Lease, is_long: bool, at_once: bool
    ) -> bool:
        if lease.version is None:
            return is_long
        if lease.version in state.tags.values() or lease.version >= newest_version(state):
            return False
        if not readable(state, lease.version):
            return False  # it is forgotten: whoever reads it is told
        kept_s = config["store.retention_s"] if state.retention_s is None else state.retention_s
        age_ms = self._clock.now_ms() - (lease.version >> LOGICAL_BITS)
        return at_once or age_ms >= int(kept_s * 500)

    def holds_before(self, collection_id: str, version: Timestamp) -> bool:
        """Return whether a handle of this process reads a version before another."""
        with self._lock:
            running = [x for x in self._leases if x.collection_id == collection_id and not x.over]
        return any(x.version is not None and x.version < version for x in running)

    def oldest_read_ms(self, collection_id: str) -> int | None:
        """Return when the oldest read of a collection began that runs now; None when none does."""
        with self._lock:
            running = [x for x in self._leases if x.collection_id == collection_id and not x.over]
        return min((x.since_ms for x in running if x.version is None), default=None)

    def stop(self) -> None:
        """End the thread, and drop the pins of this process."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        with self._lock:
            for lease in self._leases:
                lease.over = True
        self.tend()

    def _add(self, collection_id: str, version: Timestamp | None) -> _Lease:
        lease = _Lease(collection_id, version, self._clock.now_ms())
        with self._lock:
            if len(self._leases) >= self._crowd:
                self._leases = {old for old in self._leases if not old.over or old.pin_id}
                self._crowd = max(_CROWD, 2 * len(self._leases))
            self._leases.add(lease)
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name="gpuvec-leases", daemon=True)
                self._thread.start()
        return lease

    def _end(self, lease: _Lease) -> None:
        lease.end()
        if not lease.pin_id:
            with self._lock:
                self._leases.discard(lease)

    def _run(self) -> None:
        while not self._stop.wait(config["store.grace_s"] / 4):
            self.tend()


def told_expired(
    error: errors.CorruptError, state: CollectionState, name: str
) -> errors.GpuvecError:
    """Return what to say of a file that a read did not find: nobody may name it any more."""
    path = str(error.details.get("path", ""))
    if not error.details.get("missing"):
        return error
    used: set[str] = set().union(*map(file_ulids, state.segments.values()))
    if any(ulid in path for ulid in used):
        return error
    return errors.read_outlived(name, path)
