"""A walk over a whole database: format, catalog, every collection's logs and files, what is left.

Nothing is locked: a writer may go on. What looks damaged is looked at again at the end, with the
newest manifests: a file that was collected meanwhile is no finding.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from gpuvec.api.location import check_format
from gpuvec.errors import GpuvecError, StorageError, UnsupportedError
from gpuvec.meta.catalog import (
    CollectionState,
    DatabaseState,
    IndexDefinition,
    file_ulids,
    key_ulid,
)
from gpuvec.meta.manifest import LogView, ManifestLog
from gpuvec.storage import keys
from gpuvec.storage.object_store import Procedure
from gpuvec.types import ChannelName
from gpuvec.verify.logs import ChannelCheck
from gpuvec.verify.manifests import LogCheck
from gpuvec.verify.report import Finding, Level, Report
from gpuvec.verify.scan import Scan, problem_of
from gpuvec.verify.segments import DECODED, NamedFile, check_file, decoded_files, named_files
from gpuvec.wal.channel import Channel, ChannelPosition, Position

_ORDER = list(Level)


@dataclass(slots=True)
class _Found:
    """What the walk came upon beside findings."""

    collections: int = 0
    rows: int = 0
    orphans: list[str] = field(default_factory=list)
    views: dict[str, LogView[CollectionState]] = field(default_factory=dict)  # by id


class Walk:
    """One verification of a database.

    Args:
        scan: of its store.
        where: its path, for messages.
    """

    def __init__(self, scan: Scan, where: str) -> None:
        self._scan = scan
        self._where = where
        self._found = _Found()
        self._names: dict[str, str] = {}  # by id
        self._named: dict[str, set[str]] = {}  # keys in the newest manifests, by collection id

    @property
    def indexes(self) -> Mapping[str, Mapping[str, IndexDefinition]]:
        """The indexes that are wanted, by collection and field."""
        names = self._names
        return {names.get(i, i): view.state.indexes for i, view in self._found.views.items()}

    def report(self) -> Report:
        """Look at everything; return what was found."""
        self._check_format()
        catalog = LogCheck(self._scan, keys.CATALOG, DatabaseState(), whose="the database")
        view = catalog.check()
        names = {} if view is None else {i: name for name, i in view.state.collections.items()}
        self._names = names
        present = self._collection_ids()
        for collection_id in sorted({*names, *present} if view is None else names):
            self._check_collection(collection_id, names.get(collection_id, collection_id))
        if view is not None:
            self._note_unnamed(present, names)
        self._look_again(view)
        found = self._found
        findings = sorted(self._scan.findings, key=lambda f: (_ORDER.index(f.level), f.key))
        return Report(
            path=self._where,
            collections=found.collections,
            files=self._scan.files,
            size_bytes=self._scan.size_bytes,
            rows=found.rows,
            orphans=len(found.orphans),
            orphan_bytes=sum(self._scan.store.size(key) or 0 for key in found.orphans),
            findings=findings,
        )

    def _check_format(self) -> None:
        try:
            data = self._scan.get(keys.FORMAT)
            if data is not None:
                check_format(data, self._where)
                return
            if not self._scan.store.list(f"{keys.CATALOG}/"):
                return  # nothing was begun here
            code, problem = "GV-605", "it is missing"
        except (StorageError, UnsupportedError) as error:
            code, problem = problem_of(error)
        remedy = "repair writes it anew, if all else can be read"
        kind = "format file"
        if self._scan.store.size(keys.COPY) is not None:
            kind, remedy = "copy", "run `gpuvec copy` again: it goes on where it was"
        self._scan.add(
            Finding(
                level=Level.DAMAGE,
                key=keys.FORMAT,
                kind=kind,
                problem=problem,
                code=code,
                affected="the database: it cannot be opened",
                rows=None,
                remedy=remedy,
            )
        )

    def _collection_ids(self) -> set[str]:
        found = self._scan.store.list(f"{keys.COLLECTIONS}/")
        return {key.split("/")[1] for key in found if key.count("/") > 1}

    def _check_collection(self, collection_id: str, name: str) -> None:
        prefix = keys.collection(collection_id)
        whose = f'collection "{name}"'
        log = LogCheck(self._scan, prefix, CollectionState(), whose=whose, collection=name)
        view = log.check()
        if view is None:
            return
        if not view.state.collection_id:
            self._add_empty(prefix, name)
            return
        self._found.collections += 1
        self._found.views[collection_id] = view
        for channel, state in view.state.channels.items():
            words = Channel(prefix=prefix, name=channel)
            check = ChannelCheck(self._scan, words, name, _position(prefix, channel))
            check.check(state)
        self._check_files(prefix, view.state, name)
        self._note_orphans(prefix, view.state, name)

    def _add_empty(self, prefix: str, name: str) -> None:
        self._scan.add(
            Finding(
                level=Level.DAMAGE,
                key=keys.manifest_folder(prefix),
                kind="manifest",
                problem="the catalog names this collection, and it has no history",
                code="GV-520",
                collection=name,
                affected=f'all of collection "{name}"',
                rows=None,
                remedy="restore its files from a copy of the database",
            )
        )

    def _check_files(self, prefix: str, state: CollectionState, name: str) -> None:
        self._found.rows += sum(segment.row_count for segment in state.segments.values())
        try:
            files = _distinct(named_files(state))
            files += decoded_files(self._scan, prefix, state)
        except UnsupportedError as error:
            code, problem = problem_of(error)
            key = str(error.details.get("path", ""))
            affected = f'collection "{name}"'
            self._scan.add(
                Finding(
                    level=Level.DAMAGE,
                    key=key,
                    kind="segment",
                    problem=problem,
                    code=code,
                    collection=name,
                    affected=affected,
                    rows=None,
                    remedy="upgrade gpuvec",
                )
            )
            return
        for finding in self._scan.each(lambda file: check_file(self._scan, file, name), files):
            if finding is not None:
                self._scan.add(finding)

    def _note_orphans(self, prefix: str, state: CollectionState, name: str) -> None:
        """Note files that no entry names; such as were written since the manifest was read too."""
        used = set().union(*map(file_ulids, state.segments.values()))
        folders = {
            keys.segments_folder(prefix): keys.parse_segment,
            keys.deletes_folder(prefix): key_ulid,
            keys.indexes_folder(prefix): keys.parse_index,
        }
        for folder, ulid_of in folders.items():
            for key in self._scan.store.list(f"{folder}/"):
                ulid = str(ulid_of(key))
                if ulid not in used:
                    self._found.orphans.append(key)
                    dead = ulid in state.dead
                    why = "marked dead, waits for deletion" if dead else "no entry names it"
                    self._note(key, "orphan", why, "none needed: collection deletes it", name)

    def _note_unnamed(self, present: set[str], names: Mapping[str, str]) -> None:
        for collection_id in sorted(present - set(names)):
            prefix = keys.collection(collection_id)
            self._found.orphans += self._scan.store.list(f"{prefix}/")
            why = "no name stands for it: it was dropped, or is just being made"
            self._note(prefix, "collection", why, "none needed: the next writer deletes it", "")

    def _note(self, key: str, kind: str, problem: str, remedy: str, collection: str) -> None:
        self._scan.add(
            Finding(
                level=Level.NOTE,
                key=key,
                kind=kind,
                problem=problem,
                collection=collection,
                remedy=remedy,
            )
        )

    def _look_again(self, view: LogView[DatabaseState] | None) -> None:
        """Drop findings of files that nothing names any more, and of collections that are gone."""
        if not self._scan.findings or view is None:
            return
        try:
            newest = self._scan.run(ManifestLog(keys.CATALOG, DatabaseState()).read())
        except GpuvecError:
            return
        gone = set(view.state.collections.values()) - set(newest.state.collections.values())
        kept = [f for f in self._scan.findings if _id_in(f.key) not in gone]
        self._scan.findings = [f for f in kept if self._still_named(f)]

    def _still_named(self, finding: Finding) -> bool:
        before = self._found.views.get(_id_in(finding.key))
        parts = finding.key.split("/")
        named = len(parts) > 2 and parts[2] in ("seg", "dv", "idx") and finding.kind != DECODED
        if before is None or not named or finding.level is not Level.DAMAGE:
            return True
        return finding.key in self._named_now(_id_in(finding.key), finding.key)

    def _named_now(self, collection_id: str, otherwise: str) -> set[str]:
        """Return the keys that a collection's newest manifest names."""
        if collection_id not in self._named:
            log = ManifestLog(keys.collection(collection_id), CollectionState())
            try:
                state = self._scan.run(log.read(self._found.views[collection_id])).state
            except GpuvecError:
                return {otherwise}
            self._named[collection_id] = {file.record.key for file in named_files(state)}
        return self._named[collection_id]


def _distinct(files: Iterable[NamedFile]) -> list[NamedFile]:
    """Return each file once: an index that was measured again shares its files."""
    return list({file.record.key: file for file in files}.values())


def _id_in(key: str) -> str:
    """Return the id of the collection to which a file belongs, "" for other files."""
    parts = key.split("/")
    return parts[1] if parts[0] == keys.COLLECTIONS and len(parts) > 1 else ""


def _position(prefix: str, channel: ChannelName) -> Position:
    """Return what reads the manifest to its end for a channel's position."""
    log = ManifestLog(prefix, CollectionState())
    known: list[LogView[CollectionState]] = []

    def position() -> Procedure[ChannelPosition]:
        view = yield from log.read(known[-1] if known else None)
        known[:] = [view]
        found = view.state.channels[channel]
        return ChannelPosition(epoch=found.epoch, flushed_lsn=found.flushed_lsn)

    return position
