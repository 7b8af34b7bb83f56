"""Deletes files that no manifest entry names: replaced ones, and those of work that died.

1. list the files, then read the log: what a later entry names was not listed or is in use;
2. commit that the files' ULIDs are dead, and since when: from now on no entry can name them,
   however late its writer wakes;
3. delete those that were marked long enough ago for every read that may still use them to have
   ended, or to have committed a pin.

| died after | left behind | cured by |
|---|---|---|
| 1 | nothing | |
| 2 | files that are known to be dead | a later collection deletes them |
| within 3 | some of them | a later collection deletes them |
| 3 | their names in the log | a later entry forgets them |

Safety rests on 2 alone; ages only spare work under way and reads.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuvec.errors import ConflictError
from gpuvec.meta.catalog import CollectionState, file_ulids, key_ulid
from gpuvec.meta.changes import Change, MarkDead
from gpuvec.meta.changes_compaction import ForgetDead
from gpuvec.meta.import_jobs import oldest_import_ms
from gpuvec.meta.manifest import LogView, ManifestLog
from gpuvec.storage import keys
from gpuvec.storage.object_store import Delete, List, Now, Procedure

GRACE_MS = 15 * 60 * 1000  # a read that takes longer commits a pin in time
FORGET_MS = 7 * 24 * 3600 * 1000  # no writer of one generation sleeps that long within its process
_FORGET_AT = 1000  # names that are worth an entry of their own
_AT_ONCE = 1000  # files deleted by one operation


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a collection leaves alone.

    Attributes:
        grace_ms: files are marked when they are so old, and deleted so long after the mark.
        work_ms: files born since then belong to work under way in this process; None: none is.
        read_ms: files that were marked since then may be used by reads of this process; None: none.
    """

    grace_ms: int = GRACE_MS
    work_ms: int | None = None
    read_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What a collection did, or would do.

    Attributes:
        deleted: the keys of files.
        waiting: keys of files that no entry names and that are not deleted yet, each with the
            milliseconds until it may be; those that only wait for a pin or a read have 0.
    """

    deleted: tuple[str, ...] = ()
    waiting: Mapping[str, int] = field(default_factory=dict)


def collect_orphans(
    log: ManifestLog[CollectionState],
    view: LogView[CollectionState],
    prefix: str,
    *,
    generation: int,
    committer: str,
    limits: Limits = Limits(),
    dry_run: bool = False,
) -> Procedure[tuple[LogView[CollectionState], Collected]]:
    """Delete unused segment, deletion and index files; any process may, several at once too.

    Args:
        log: of the collection.
        view: any view of it.
        prefix: `keys.collection(id)`.
        generation: of the coordinator that commits.
        committer: see `ManifestLog.commit`.
        limits: what is left alone.
        dry_run: change nothing.

    Returns:
        The newest view, and what was done.
    """
    files = yield from _list(prefix)
    view = yield from log.read(view)  # 1
    now: int = yield Now()
    born_before = now - limits.grace_ms
    importing = yield from oldest_import_ms(prefix, now)
    for other in (limits.work_ms, importing):
        born_before = born_before if other is None else min(born_before, other - 1)
    used = set().union(*map(file_ulids, view.state.segments.values()))
    unused = files.keys() - used - view.state.dead.keys()
    orphans = sorted(ulid for ulid in unused if keys.ulid_time_ms(ulid) <= born_before)
    if not dry_run:
        changes = _changes(view.state, orphans, files, now)
        if changes:
            try:
                view = yield from log.commit(
                    view, changes, generation=generation, committer=committer
                )  # 2
            except ConflictError:  # one of them was just committed: the next collection sees it
                return (yield from log.read(view)), Collected()
    marked: dict[str, int] = dict.fromkeys(orphans, now)
    dead = {**marked, **view.state.dead}
    free, waiting = _sort(view.state, files, dead, limits, now)
    waiting |= {
        key: _left(keys.ulid_time_ms(ulid), now, limits) + limits.grace_ms
        for ulid in unused - dead.keys()
        for key in files[ulid]
    }
    if not dry_run:
        for start in range(0, len(free), _AT_ONCE):
            yield Delete(free[start : start + _AT_ONCE])  # 3
    return view, Collected(deleted=tuple(free), waiting=waiting)


def _list(prefix: str) -> Procedure[dict[str, list[str]]]:
    """Return the keys of all files by their ULID."""
    files: dict[str, list[str]] = {}
    for key in (yield List(f"{keys.segments_folder(prefix)}/")):
        files.setdefault(str(keys.parse_segment(key)), []).append(key)
    for key in (yield List(f"{keys.deletes_folder(prefix)}/")):
        files.setdefault(key_ulid(key), []).append(key)
    for key in (yield List(f"{keys.indexes_folder(prefix)}/")):
        files.setdefault(str(keys.parse_index(key)), []).append(key)
    return files


def _changes(
    state: CollectionState, orphans: list[str], files: Mapping[str, object], now: int
) -> list[Change]:
    """Return what to commit: the marks, and names whose files went long ago."""
    old = [ulid for ulid, ms in state.dead.items() if ms <= now - FORGET_MS and ulid not in files]
    changes: list[Change] = []
    if orphans:
        changes.append(MarkDead(ids=tuple(orphans), time_ms=now))
    if len(old) >= _FORGET_AT or (old and orphans):
        changes.append(ForgetDead(ids=tuple(old)))
    return changes


def _sort(
    state: CollectionState,
    files: Mapping[str, list[str]],
    dead: Mapping[str, int],
    limits: Limits,
    now: int,
) -> tuple[list[str], dict[str, int]]:
    """Return the keys of dead files that can be deleted, and those that wait."""
    pins = [pin.since_ms for pin in state.pins.values() if pin.expires_ms > now]
    used_ms = min([*pins, *([] if limits.read_ms is None else [limits.read_ms])], default=None)
    free: list[str] = []
    waiting: dict[str, int] = {}
    for ulid in sorted(files.keys() & dead.keys()):
        left = _left(dead[ulid], now, limits)
        if left == 0 and (used_ms is None or dead[ulid] < used_ms):
            free += files[ulid]
        else:
            waiting |= dict.fromkeys(files[ulid], left)
    return free, waiting


def _left(since_ms: int, now: int, limits: Limits) -> int:
    return max(0, since_ms + limits.grace_ms - now)
