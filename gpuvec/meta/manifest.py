"""A log of numbered entries on a store: each entry is one commit, made by creating the next number.

Nothing but the hint is ever overwritten. Creating an entry is the only step that decides anything:

1. fold the log into a state, evaluate the changes' conditions on it;
2. create entry head + 1 if absent, with a nonce; after any failure, or "exists", read the key back:
   the nonce tells whose entry it is. Another's: read it and begin again at 1;
3. list the marks of collected numbers: a number at or below a mark had been used before, so nothing
   was committed;
4. write the hint, and now and then a checkpoint, both only to save later readers time.

| died after | left behind | cured by |
|---|---|---|
| 2 | a commit whose caller does not know of it | reading the log; a retry finds the change made |
| 3 | an old hint | hints may be old |
| 4 | nothing | |

Every entry names the nonce of the one before it. A reader that meets a gap or a broken chain, or
finds after reading that a mark passed what it read (an entry may then have been collected, and
created again by a committer that slept), begins again at a newer checkpoint: collecting writes one
before it marks and deletes. Without one, history is damaged and that is an error.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, Self, TypeVar

from gpuvec.errors import (
    ConflictError,
    CorruptError,
    StorageError,
    commit_unknown,
    damaged_entry,
    generation_lost,
    missing_entry,
    newer_file,
)
from gpuvec.meta.changes import Change
from gpuvec.meta.entry import (
    FORMAT,
    Entry,
    decode_checkpoint,
    decode_entry,
    decode_hint,
    encode_checkpoint,
    encode_entry,
    encode_hint,
)
from gpuvec.storage import keys
from gpuvec.storage.object_store import (
    Delete,
    Get,
    List,
    Nonce,
    Now,
    Procedure,
    Put,
    PutIfAbsent,
    Sleep,
)

ATTEMPTS = 4  # how often a store may fail in a row before a commit gives up
RETRY_S = 0.05


class LogState(Protocol):
    """What a log folds into."""

    def apply(self, change: Change) -> Self:
        """Return the state after a change; `ConflictError` when its conditions do not hold."""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Make the state that `to_json` wrote."""


S = TypeVar("S", bound=LogState)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogView(Generic[S]):
    """The log as far as it was read."""

    entry_id: int  # of the newest entry; 0 for an empty log
    nonce: str  # of that entry
    generation: int  # highest of all entries
    time_ms: int  # when that entry was written, by its committer's clock
    state: S


class ManifestLog(Generic[S]):
    """One manifest log.

    Args:
        prefix: where it lies, `keys.CATALOG` or `keys.collection(id)`.
        empty: the state before the first entry.
        checkpoint_every: entries from one checkpoint to the next.
    """

    def __init__(self, prefix: str, empty: S, *, checkpoint_every: int = 100) -> None:
        self._prefix = prefix
        self._empty = empty
        self._checkpoint_every = checkpoint_every

    def ready(self) -> None:
        """Raise where a commit would be refused now; asks nobody."""

    @property
    def first_key(self) -> str:
        """The key of the entry with which the log began."""
        return keys.manifest_entry(self._prefix, 1)

    def read(self, known: LogView[S] | None = None) -> Procedure[LogView[S]]:
        """Return the newest view; one listing when nothing is newer than `known`.

        Raises:
            CorruptError: `GV-520` an entry is missing, `GV-521` one is damaged.
            UnsupportedError: `GV-522`, a newer gpuvec wrote it.
        """
        hinted = 0
        if known is None:
            hinted = yield from self._hinted()
            known = yield from self._newest_checkpoint()
        while True:
            view, gap = yield from self._advance(known)
            if gap is None:
                if view.entry_id < hinted:
                    raise missing_entry(keys.manifest_entry(self._prefix, hinted))
                return view
            newer = yield from self._newest_checkpoint()
            if newer.entry_id <= known.entry_id:
                raise gap
            known = newer

    def commit(
        self,
        view: LogView[S],
        changes: Sequence[Change],
        *,
        generation: int,
        committer: str,
        check: Callable[[S], None] | None = None,
    ) -> Procedure[LogView[S]]:
        """Append one entry with all `changes`, or nothing.

        The changes' own conditions, and `check`, are evaluated on the newest state; both raise to
        refuse.

        Args:
            view: any view of this log; entries newer than it are read when needed.
            changes: applied in order; at least one.
            generation: of the committing coordinator.
            committer: who commits, for people who read the log.
            check: further conditions of the caller on the state before the changes.

        Returns:
            The view that this entry made.

        Raises:
            ConflictError: `GV-525`, a condition does not hold.
            UnavailableError: `GV-523` a higher generation rules, `GV-524` outcome unknown.
            StorageError: the store refused, and the entry is not there.
        """
        while True:
            if generation < view.generation:
                raise generation_lost(mine=generation, newest=view.generation)
            if check is not None:
                check(view.state)
            nonce = yield Nonce()
            made = yield from self.append(
                view, changes, nonce=nonce, generation=generation, committer=committer
            )
            if made is not None:
                return made[0]
            view = yield from self.read(view)

    def append(
        self,
        view: LogView[S],
        changes: Sequence[Change],
        *,
        nonce: str,
        generation: int,
        committer: str,
    ) -> Procedure[tuple[LogView[S], Entry] | None]:
        """Append the entry after `view`, and no other; None when another has its number.

        Args:
            view: the log up to its newest entry.
            changes: see `commit`, as for all that follows.
            nonce: of the entry. One that is there already under this nonce is taken for it.
            generation: of the committing coordinator.
            committer: who commits.

        Returns:
            The view with the entry, and the entry as it is in the log.
        """
        entry = Entry(
            entry_id=view.entry_id + 1,
            nonce=nonce,
            prev_nonce=view.nonce,
            generation=generation,
            committer=committer,
            time_ms=(yield Now()),
            changes=tuple(changes),
        )
        new = folded(view, entry)  # 1
        stored = yield from self._create(entry)  # 2
        if stored is None or entry.entry_id <= (yield from self._surely_mark(entry.entry_id)):  # 3
            return None
        if stored is not entry:
            new = folded(view, stored)
        yield from self._help_readers(new)  # 4
        return new, stored

    def find(self, entry_id: int, nonce: str) -> Procedure[Entry | None]:
        """Return the entry of a number if it has this nonce, None when it is another's.

        Raises:
            UnavailableError: `GV-524`, it was collected, or the store does not tell.
        """
        key = keys.manifest_entry(self._prefix, entry_id)
        try:
            stored = decode_entry(key, (yield Get(key)))
        except StorageError as error:
            raise commit_unknown(key) from error
        if entry_id <= (yield from self._surely_mark(entry_id)):
            raise commit_unknown(key)
        return stored if stored.nonce == nonce else None

    def checkpoint(self, view: LogView[S]) -> Procedure[None]:
        """Write the state after `view`'s entry, so that opening needs no entry up to it."""
        data = encode_checkpoint(
            view.entry_id, view.nonce, view.generation, view.time_ms, view.state.to_json()
        )
        yield Put(keys.checkpoint(self._prefix, view.entry_id), [data])

    def collect(self, view: LogView[S], *, keep: int = 100, worth: int = 1) -> Procedure[None]:
        """Delete entries but the newest `keep`, after a checkpoint and a mark that stand for them.

        Any process may collect, several at once too.

        Args:
            view: the log as it is.
            keep: entries that stay.
            worth: do nothing unless so many can go.
        """
        last = view.entry_id - max(keep, 1)
        if last < worth:
            return
        folder = keys.manifest_folder(self._prefix)
        if worth > 1 and len((yield from self._numbered(folder, last + 1))) < worth:
            return
        yield from self.checkpoint(view)
        yield PutIfAbsent(keys.manifest_mark(self._prefix, last), b"collected\n")
        yield Delete((yield from self._numbered(keys.manifest_folder(self._prefix), last + 1)))
        yield Delete((yield from self._numbered(keys.checkpoint_folder(self._prefix), last)))
        yield Delete((yield from self._numbered(keys.manifest_mark_folder(self._prefix), last)))

    def _numbered(self, folder: str, below: int) -> Procedure[list[str]]:
        found = yield List(f"{folder}/")
        return [key for key in found if (number := keys.parse_number(key)) and number < below]

    def _advance(self, view: LogView[S]) -> Procedure[tuple[LogView[S], CorruptError | None]]:
        """Fold the entries after `view`, up to a gap: an error, unless a checkpoint covers it."""
        start = view.entry_id
        after = keys.manifest_entry(self._prefix, view.entry_id)
        found = yield List(f"{keys.manifest_folder(self._prefix)}/", after)
        for key in found:
            number = keys.parse_number(key)
            if number is None:
                continue
            expected = keys.manifest_entry(self._prefix, view.entry_id + 1)
            if key != expected:
                return view, missing_entry(expected)
            try:
                data = yield Get(key)
            except CorruptError:
                return view, missing_entry(key)
            entry = decode_entry(key, data)
            if entry.entry_id != number:
                raise damaged_entry(key, f"it calls itself entry {entry.entry_id}")
            if entry.prev_nonce != view.nonce:
                return view, damaged_entry(key, "it does not continue the entry before it")
            try:
                view = folded(view, entry)
            except ConflictError as error:
                raise damaged_entry(key, error.message) from error
        if view.entry_id > start and (yield from self._mark()) > start:
            return view, missing_entry(keys.manifest_entry(self._prefix, start + 1))
        return view, None

    def _newest_checkpoint(self) -> Procedure[LogView[S]]:
        """Return the newest readable checkpoint; entries hold all that a damaged one held."""
        found = yield List(f"{keys.checkpoint_folder(self._prefix)}/")
        while found:
            key = found.pop()
            try:
                read = decode_checkpoint(key, (yield Get(key)))
            except CorruptError as error:
                if error.details.get("missing"):  # a newer one made it superfluous
                    found = yield List(f"{keys.checkpoint_folder(self._prefix)}/")
                continue
            state = state_in(key, read, self._empty)
            return LogView(
                entry_id=read["id"],
                nonce=read["nonce"],
                generation=read["generation"],
                time_ms=read["time_ms"],
                state=state,
            )
        return LogView(entry_id=0, nonce="", generation=0, time_ms=0, state=self._empty)

    def _hinted(self) -> Procedure[int]:
        try:
            key = keys.manifest_hint(self._prefix)
            return decode_hint(key, (yield Get(key)))
        except CorruptError:
            return 0  # there need not be one

    def _create(self, entry: Entry) -> Procedure[Entry | None]:
        """Create the entry; return what its number holds, None when that is another's."""
        key = keys.manifest_entry(self._prefix, entry.entry_id)
        data = encode_entry(entry)
        refusal: StorageError | None = None
        for _ in range(ATTEMPTS):
            failure: StorageError | None = None
            try:
                if (yield PutIfAbsent(key, data)):
                    return entry
            except StorageError as error:
                failure = error
            try:
                stored = decode_entry(key, (yield Get(key)))
            except CorruptError as error:
                if not error.details.get("missing"):
                    raise
                if failure is None:
                    return None  # it was there, and was collected since
                refusal = failure
            except StorageError:
                refusal = None
            else:
                return stored if stored.nonce == entry.nonce else None
            yield Sleep(RETRY_S)
        raise refusal or commit_unknown(key)

    def _mark(self) -> Procedure[int]:
        """Return the highest collected number."""
        found = yield List(f"{keys.manifest_mark_folder(self._prefix)}/")
        return max((keys.parse_number(key) or 0 for key in found), default=0)

    def _surely_mark(self, entry_id: int) -> Procedure[int]:
        for _ in range(ATTEMPTS):
            try:
                return (yield from self._mark())
            except StorageError:
                yield Sleep(RETRY_S)
        raise commit_unknown(keys.manifest_entry(self._prefix, entry_id))

    def _help_readers(self, view: LogView[S]) -> Procedure[None]:
        try:
            if view.entry_id % self._checkpoint_every == 0:
                yield from self.checkpoint(view)
            yield Put(keys.manifest_hint(self._prefix), [encode_hint(view.entry_id)])
        except StorageError:
            return  # the entry is committed; without these, readers only work longer


def state_in(key: str, checkpoint: Mapping[str, Any], empty: S) -> S:
    """Return the state that a checkpoint holds; `UnsupportedError` GV-522 when it is a newer one's.

    Args:
        key: of the checkpoint.
        checkpoint: as `decode_checkpoint` returns it.
        empty: the log's state before the first entry.
    """
    try:
        return type(empty).from_json(checkpoint["state"])
    except (KeyError, TypeError, ValueError) as error:
        raise newer_file(key, wanted=FORMAT, got=f"with {error}") from error


def folded(view: LogView[S], entry: Entry) -> LogView[S]:
    """Return the view after an entry; one below the highest generation counts for nothing."""
    state = view.state
    if entry.generation >= view.generation:
        for change in entry.changes:
            state = state.apply(change)
    return replace(
        view,
        entry_id=entry.entry_id,
        nonce=entry.nonce,
        generation=max(view.generation, entry.generation),
        time_ms=entry.time_ms,
        state=state,
    )
