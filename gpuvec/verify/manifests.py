"""Checks of a manifest log: every entry, checkpoint and hint, and what their loss means."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Generic, TypeVar

from gpuvec.errors import (
    CorruptError,
    GpuvecError,
    StorageError,
    UnsupportedError,
    damaged_entry,
    missing_entry,
)
from gpuvec.meta.entry import Entry, decode_checkpoint, decode_entry, decode_hint, encode_hint
from gpuvec.meta.manifest import LogState, LogView, ManifestLog, state_in
from gpuvec.storage import keys
from gpuvec.storage.object_store import Delete, Procedure, Put
from gpuvec.verify.report import NOTHING, Finding, Level
from gpuvec.verify.scan import Scan, problem_of

S = TypeVar("S", bound=LogState)
_HINT_REMEDY = "repair writes it anew; until then nothing tells of a lost newest entry"
_CHECKPOINT_REMEDY = "repair writes a new one and deletes this; until then opening takes longer"
_LONGEST_REPLAY = 1000
_RESTORE = "restore this file from a copy of the database"


class LogCheck(Generic[S]):
    """A check of one manifest log.

    Args:
        scan: of the store.
        prefix: `keys.CATALOG`, or `keys.collection(id)`.
        empty: the state before the first entry.
        whose: "the database", or the collection, for messages.
        collection: its name; "" for the catalog.

    Attributes:
        view: the newest, None when the log cannot be read.
    """

    def __init__(
        self, scan: Scan, prefix: str, empty: S, *, whose: str, collection: str = ""
    ) -> None:
        self.view: LogView[S] | None = None
        self._scan = scan
        self._prefix = prefix
        self._log = ManifestLog(prefix, empty)
        self._empty = empty
        self._whose = whose
        self._collection = collection
        self._what = "catalog" if not collection else "manifest"
        self._broken: dict[str, GpuvecError] = {}

    def check(self) -> LogView[S] | None:
        """Read and compare all of it; return the newest view, if the log can be read."""
        entries = self._entries()
        base, states = self._checkpoints()
        try:
            self.view = self._scan.run(self._log.read())
        except (CorruptError, UnsupportedError) as error:
            self._unreadable(error)
        self._report_entries(entries, base)
        self._report_checkpoints()
        self._compare(entries, states)
        self._check_hint()
        return self.view

    def _numbered(self, folder: str) -> dict[int, str]:
        found = self._scan.store.list(f"{folder}/")
        return {number: key for key in found if (number := keys.parse_number(key)) is not None}

    def _mark(self) -> int:
        """Return the highest collected number: entries up to it may be gone."""
        return max(self._numbered(keys.manifest_mark_folder(self._prefix)), default=0)

    def _entries(self) -> dict[int, Entry]:
        """Decode every entry; note those that are broken or missing."""
        found: dict[int, Entry] = {}
        listed = self._numbered(keys.manifest_folder(self._prefix))
        for number, key in listed.items():
            try:
                data = self._scan.get(key)
                if data is None:  # collected since it was listed, unless the marks deny it
                    continue
                entry = decode_entry(key, data)
                if entry.entry_id != number:
                    raise damaged_entry(key, f"it calls itself entry {entry.entry_id}")
            except (StorageError, UnsupportedError) as error:
                self._broken[key] = error
            else:
                found[number] = entry
        mark = self._mark()
        for number in range(mark + 1, max(listed, default=0)):
            key = keys.manifest_entry(self._prefix, number)
            if number not in found and key not in self._broken:
                self._broken[key] = missing_entry(key)
        return found

    def _checkpoints(self) -> tuple[int, dict[int, dict[str, Any]]]:
        """Decode every checkpoint; return the newest good one's number, and all good ones."""
        states = {}
        for number, key in self._numbered(keys.checkpoint_folder(self._prefix)).items():
            try:
                data = self._scan.get(key)
                if data is not None:
                    states[number] = decode_checkpoint(key, data)
            except (StorageError, UnsupportedError) as error:
                self._broken[key] = error
        return max(states, default=0), states

    def _unreadable(self, error: GpuvecError) -> None:
        """Note that nothing of the log can be read, and which file is to blame."""
        key = self._key_of(str(error.details.get("path", "")))
        code, problem = problem_of(self._broken.get(key, error))
        self._broken.pop(key, None)
        self._scan.add(
            Finding(
                level=Level.DAMAGE,
                key=key,
                kind=self._kind(key),
                problem=problem,
                code=code,
                collection=self._collection,
                affected=f"all of {self._whose}: no version can be read",
                rows=None,
                remedy=_RESTORE if isinstance(error, CorruptError) else "upgrade gpuvec",
            )
        )

    def _key_of(self, path: str) -> str:
        """Return the key of a path in an error, which may be that of a local file."""
        at = path.find(f"{self._prefix}/")
        return path[at:] if at >= 0 else keys.manifest_folder(self._prefix)

    def _kind(self, key: str) -> str:
        folder = key.rpartition("/")[0]
        is_checkpoint = folder == keys.checkpoint_folder(self._prefix)
        return f"{self._what} {'checkpoint' if is_checkpoint else 'entry'}"

    def _report_entries(self, entries: dict[int, Entry], base: int) -> None:
        folder = keys.manifest_folder(self._prefix)
        for key, error in self._broken.items():
            if key.rpartition("/")[0] != folder:
                continue
            number = keys.parse_number(key) or 0
            covered = self.view is not None and number <= max(base, self._mark())
            code, problem = problem_of(error)
            finding = Finding(
                level=Level.DAMAGE,
                key=key,
                kind=self._kind(key),
                problem=problem,
                code=code,
                collection=self._collection,
                affected=f"{self._whose}: what changed from entry {number} on",
                rows=None,
                remedy=_RESTORE,
            )
            if covered:
                remedy = "none needed: a newer checkpoint stands for it"
                finding = replace(
                    finding, level=Level.HARMLESS, affected=NOTHING, rows=0, remedy=remedy
                )
            self._scan.add(finding)

    def _report_checkpoints(self) -> None:
        for key, error in self._broken.items():
            if key.rpartition("/")[0] == keys.checkpoint_folder(self._prefix):
                self._add_checkpoint(key, *problem_of(error))

    def _add_checkpoint(self, key: str, code: str, problem: str) -> None:
        self._scan.add(
            Finding(
                level=Level.HARMLESS if self.view is not None else Level.DAMAGE,
                key=key,
                kind=self._kind(key),
                problem=problem,
                code=code,
                collection=self._collection,
                affected=NOTHING if self.view is not None else self._whose,
                remedy=_CHECKPOINT_REMEDY if self.view is not None else _RESTORE,
            )
        )

    def _compare(self, entries: dict[int, Entry], states: dict[int, dict[str, Any]]) -> None:
        """Compare each checkpoint with the one before and the entries between, where all are there.

        The state before the first entry counts as a checkpoint.
        """
        if self.view is None:
            return
        for start, end in pairwise([0, *sorted(states)]):
            between = [entries.get(number) for number in range(start + 1, end + 1)]
            if None in between or len(between) > _LONGEST_REPLAY:
                continue
            state = self._state(start, states) if start else self._empty
            generation = states[start]["generation"] if start else 0
            for entry in between:
                assert entry is not None
                if entry.generation >= generation:
                    generation = entry.generation
                    for change in entry.changes:
                        state = state.apply(change)
            if self._state(end, states) != state:
                key = keys.checkpoint(self._prefix, end)
                self._add_checkpoint(key, "GV-521", "it is not what its entries say")

    def _state(self, number: int, states: Mapping[int, Mapping[str, Any]]) -> S:
        key = keys.checkpoint(self._prefix, number)
        return state_in(key, states[number], self._empty)

    def _check_hint(self) -> None:
        key = keys.manifest_hint(self._prefix)
        try:
            data = self._scan.get(key)
            if data is not None:
                decode_hint(key, data)
        except (StorageError, UnsupportedError) as error:
            code, problem = problem_of(error)
            self._scan.add(
                Finding(
                    level=Level.HARMLESS,
                    key=key,
                    kind=f"{self._what} hint",
                    problem=problem,
                    code=code,
                    collection=self._collection,
                    remedy=_HINT_REMEDY,
                )
            )


def repair_log(prefix: str, empty: S, broken: Sequence[str]) -> Procedure[None]:
    """Write a checkpoint and a hint of the newest state; delete broken checkpoints.

    The log was read without the broken files, so nothing rests on them, and whoever reads or
    commits meanwhile finds the same history.

    Args:
        prefix: of a log that can be read.
        empty: its state before the first entry.
        broken: keys of its checkpoints.
    """
    log = ManifestLog(prefix, empty)
    view = yield from log.read()
    if broken:
        yield from log.checkpoint(view)
        newest = keys.checkpoint(prefix, view.entry_id)
        yield Delete([key for key in broken if key != newest])
    yield Put(keys.manifest_hint(prefix), [encode_hint(view.entry_id)])
