"""Deletes files that no manifest entry names: replaced ones, and those of flushes that died.

1. list the files, then read the log: what a later entry names was not listed or is in use;
2. commit that the files' ULIDs are dead: from now on no entry can name them, however late its
   writer wakes;
3. delete them.

| died after | left behind | cured by |
|---|---|---|
| 2 | files that are known to be dead | the next collection deletes them |
| 3 | nothing | |
"""

from gpuvec.errors import ConflictError
from gpuvec.meta.catalog import CollectionState, file_ulids, key_ulid
from gpuvec.meta.changes import MarkDead
from gpuvec.meta.manifest import LogView, ManifestLog
from gpuvec.storage import keys
from gpuvec.storage.object_store import Delete, List, Now, Procedure

GRACE_MS = 24 * 3600 * 1000  # readers may hold what was replaced so long ago


def collect_orphans(
    log: ManifestLog[CollectionState],
    view: LogView[CollectionState],
    prefix: str,
    *,
    generation: int,
    committer: str,
    grace_ms: int = GRACE_MS,
) -> Procedure[LogView[CollectionState]]:
    """Delete unused segment, deletion and index files; any process may, several at once too.

    Args:
        log: of the collection.
        view: any view of it.
        prefix: `keys.collection(id)`.
        generation: of the coordinator that commits.
        committer: see `ManifestLog.commit`.
        grace_ms: files younger than this are left alone, to spare work under way; safety does not
        rest on it.

    Returns:
        The newest view.
    """
    files: dict[str, list[str]] = {}  # ULID to keys
    for key in (yield List(f"{keys.segments_folder(prefix)}/")):
        files.setdefault(str(keys.parse_segment(key)), []).append(key)
    for key in (yield List(f"{keys.deletes_folder(prefix)}/")):
        files.setdefault(key_ulid(key), []).append(key)
    for key in (yield List(f"{keys.indexes_folder(prefix)}/")):
        files.setdefault(str(keys.parse_index(key)), []).append(key)
    view = yield from log.read(view)  # 1
    used = set().union(*map(file_ulids, view.state.segments.values()))
    youngest = (yield Now()) - grace_ms
    orphans = sorted(
        ulid
        for ulid in files.keys() - used - view.state.dead
        if keys.ulid_time_ms(ulid) <= youngest
    )
    if orphans:
        change = MarkDead(ids=tuple(orphans))
        try:
            view = yield from log.commit(
                view, [change], generation=generation, committer=committer
            )  # 2
        except ConflictError:  # one of them was just committed: the next collection sees it
            return (yield from log.read(view))
    dead = [key for ulid in files if ulid in view.state.dead for key in files[ulid]]
    yield Delete(dead)  # 3
    return view
