"""Commits to the logs of collections, of which the coordinator makes all in a cluster.

Whoever wants an entry judges its changes on the log as it has read it, and asks for the next number
under a request id; the coordinator creates that number or none:

1. `OwnersLog.commit`: judge; send `Commit`, upon the newest entry that is known.
2. `commit_once`: create the entry with the request id as its nonce, unless another came first.
3. The answer: `Committed`; or `Behind`, and 1 begins again with what came first, and a new id.

| lost, or died | left behind | cured by |
|---|---|---|
| the request | nothing | it is sent again under its id |
| the answer | an entry that its owner does not know of | the same finds it; or a look at the log |
| the coordinator in 2 | perhaps an entry, perhaps later | the next one makes or finds it |
| the owner after 2 | an entry | the next owner reads the log |

A number is created once, so no request is done twice, however late it comes, and whichever
coordinators it reaches. Terms keep those away who do not own a collection any more: they are told
before anything is tried.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from gpuvec import errors
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import Change
from gpuvec.meta.changes_versions import DropPin, Pin
from gpuvec.meta.entry import Entry
from gpuvec.meta.manifest import LogState, LogView, ManifestLog, folded
from gpuvec.node.ports import Runner
from gpuvec.storage import keys
from gpuvec.storage.object_store import Ask, Nonce, Procedure, Sleep
from gpuvec.work_messages import Behind, Commit, Committed

S = TypeVar("S", bound=LogState)
COMMIT_S = 3.0  # for an answer; one lock of the owner is held meanwhile
_TRIES = 3
_PAUSE_S = 0.05
_OF_READERS = (Pin, DropPin)


def nobody() -> int:
    """Return the term of a process that owns nothing."""
    return 0


def always() -> bool:
    """Return that the coordinator may be there."""
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a process is to a collection.

    Attributes:
        term: under which it owns it; 0: it does not.
        hopeful: whether the coordinator was heard of late, so that it is worth to ask it.
    """

    term: Callable[[], int] = nobody
    hopeful: Callable[[], bool] = always


class OwnersLog(ManifestLog[S]):
    """The log of a collection to a process that has the coordinator commit.

    Args:
        identity: of the database.
        collection_id: whose log.
        empty: its state before the first entry.
        standing: of this process.
    """

    def __init__(self, identity: str, collection_id: str, empty: S, standing: Standing) -> None:
        super().__init__(keys.collection(collection_id), empty)
        self._identity = identity
        self._collection_id = collection_id
        self._standing = standing

    def ready(self) -> None:
        """See `ManifestLog.ready`.

        Raises:
            UnavailableError: `GV-790`, the coordinator was not heard for a while.
        """
        if not self._standing.hopeful():
            raise errors.no_committer(self._collection_id, "it was not heard for a while")

    def commit(
        self,
        view: LogView[S],
        changes: Sequence[Change],
        *,
        generation: int,
        committer: str,
        check: Callable[[S], None] | None = None,
    ) -> Procedure[LogView[S]]:
        """See `ManifestLog.commit`.

        Raises:
            UnavailableError: `GV-790`, no coordinator answers; `GV-791`, it refuses. Nothing was
                changed then.
        """
        while True:
            if generation < view.generation:
                raise errors.generation_lost(mine=generation, newest=view.generation)
            if check is not None:
                check(view.state)
            order = Commit(
                identity=self._identity,
                collection_id=self._collection_id,
                after_entry=view.entry_id,
                changes=tuple(changes),
                generation=generation,
                term=self._standing.term(),
                request_id=(yield Nonce()),
                committer=committer,
            )
            after = folded(view, _entry(order, view))  # 1: raises where a condition fails
            done = yield from self._done(order, view)
            if done is not None:
                generation = max(view.generation, done.generation)
                return replace(after, generation=generation, time_ms=done.time_ms)
            view = yield from self.read(view)

    def _done(self, order: Commit, view: LogView[S]) -> Procedure[Committed | None]:
        """Return what became of an order: None when another entry came first."""
        unclear = False
        for number in range(_TRIES):
            if number:
                yield Sleep(number * _PAUSE_S)
            try:
                answer: Committed | Behind = yield Ask(order)
            except (errors.UnavailableError, errors.DeadlineError) as error:
                if not error.details.get("retryable", True):
                    raise
                if error.details.get("outcome") != "none":
                    unclear = True
                elif not unclear:
                    if errors.is_not_committed(error):
                        raise
                    raise errors.no_committer(self._collection_id, str(error)) from error
            else:
                return None if isinstance(answer, Behind) else answer
        newest = yield from self.read(view)
        if newest.entry_id == view.entry_id:
            raise errors.commit_unknown(keys.manifest_entry(self._prefix, view.entry_id + 1))
        found = yield from self.find(view.entry_id + 1, order.request_id)
        if found is None:
            return None
        return Committed(generation=found.generation, time_ms=found.time_ms)


def _entry(order: Commit, view: LogView[Any]) -> Entry:
    """Return the entry that an order wants, but for its time."""
    return Entry(
        entry_id=view.entry_id + 1,
        nonce=order.request_id,
        prev_nonce=view.nonce,
        generation=order.generation,
        committer=order.committer,
        time_ms=0,
        changes=order.changes,
    )


def commit_once(
    log: ManifestLog[S], view: LogView[S] | None, order: Commit, generation: int
) -> Procedure[tuple[LogView[S], Committed | Behind]]:
    """Do what an order asks for, unless it is done; step 2, at the coordinator.

    Args:
        log: of the collection.
        view: what was read of it before.
        order: see `Commit`.
        generation: of this coordinator.

    Returns:
        The log as far as it is known now, and the answer.

    Raises:
        UnavailableError: `GV-523` a later coordinator committed; `GV-524` outcome unknown.
        ConflictError: `GV-525`, the changes do not fit the log: their sender read another one.
    """
    if view is None or view.entry_id < order.after_entry:
        view = yield from log.read(view)
    if generation < view.generation:
        raise errors.generation_lost(mine=generation, newest=view.generation)
    if view.entry_id == order.after_entry:
        made = yield from log.append(
            view, order.changes, nonce=order.request_id, generation=generation,
            committer=order.committer,
        )  # fmt: skip
        if made is not None:
            after, entry = made
            return after, Committed(generation=entry.generation, time_ms=entry.time_ms)
        view = yield from log.read(view)
    found = None
    if view.entry_id > order.after_entry:
        found = yield from log.find(order.after_entry + 1, order.request_id)
    if found is None:
        return view, Behind(entry_id=view.entry_id)
    return view, Committed(generation=found.generation, time_ms=found.time_ms)


def check_order(order: Commit, generation: int, owns: Callable[[str, int], bool]) -> None:
    """Refuse, `GV-791`, who is neither the owner nor a reader that pins what it reads.

    Args:
        order: see `Commit`.
        generation: of this coordinator.
        owns: whether a term is that of a collection's owner.
    """
    if all(isinstance(change, _OF_READERS) for change in order.changes):
        return
    if order.generation != generation or not owns(order.collection_id, order.term):
        raise errors.commit_refused(order.collection_id, order.term)


class Desk:
    """Where a coordinator takes orders. Safe for use by several threads.

    Args:
        run: runs procedures on the store.
        generation: of the coordinator.
        owns: whether a term is that of a collection's owner.
        there: whether there is a collection of an id, and it is not being dropped.
    """

    def __init__(
        self,
        run: Runner,
        generation: int,
        *,
        owns: Callable[[str, int], bool],
        there: Callable[[str], bool],
    ) -> None:
        self._run = run
        self._generation = generation
        self._owns = owns
        self._there = there
        self._views: dict[str, LogView[CollectionState]] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def commit(self, order: Commit) -> Committed | Behind:
        """Do what an order asks for.

        Raises:
            NotFoundError: `GV-608`, the collection was dropped.
            UnavailableError: `GV-791`, the sender does not own the collection. Else see
                `commit_once`.
        """
        name = order.collection_id
        if not self._there(name):
            raise errors.collection_gone(name)
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            check_order(order, self._generation, self._owns)
            log = ManifestLog(keys.collection(name), CollectionState())
            view, answer = self._run(
                commit_once(log, self._views.get(name), order, self._generation)
            )
            self._views[name] = view
            return answer

    def forget(self, collection_id: str) -> None:
        """Let go of what is known of a collection that is gone."""
        with self._lock:
            self._views.pop(collection_id, None)
            self._locks.pop(collection_id, None)
