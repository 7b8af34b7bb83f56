"""Indexes under simulation: wanted, built, dropped and collected while anything may fail.

Promise: a file that the manifest names is there, and belongs to the index that is wanted now,
however long its builder slept, and whoever collects orphans meanwhile.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gpuvec.coord.data_coord import unbuilt
from gpuvec.errors import ConflictError, CorruptError
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import AddIndex, Change, DropIndex, SetIndex
from gpuvec.meta.indexes import IndexDefinition, IndexRecord
from gpuvec.meta.manifest import ManifestLog
from gpuvec.storage import keys
from gpuvec.storage.index_files import write_index_files
from gpuvec.storage.object_store import Get, Nonce, Now, Procedure, Sleep
from gpuvec.testing.sim_log import PREFIX, Eye, LogSimulation, View, manifest_log
from gpuvec.types import SegmentId
from gpuvec.wal.log import Group

_FIELD = "id"
_ROUNDS = 8  # of each life of a process


@dataclass(eq=False)
class IndexSimulation(LogSimulation):
    """See `LogSimulation`; two more processes want, drop and build indexes.

    Attributes:
        built: indexes that were committed.
    """

    steps: int = 2000
    built: set[str] = field(default_factory=set)

    def roles(self) -> Mapping[str, Callable[[], Procedure[None]]]:
        """See `Lives.roles`."""
        return {**super().roles(), "indexer": self._index}

    def __post_init__(self) -> None:
        super().__post_init__()
        for delay in (120, 180):  # the collection is there by then
            self.world.start("indexer", self._index(), delay)

    def _index(self) -> Procedure[None]:
        """Want an index or none, or build what is wanted, perhaps long after it was."""
        log = manifest_log()
        for _ in range(_ROUNDS):
            yield Sleep(0.05)
            view = yield from log.read()
            luck = self.world.chance.random()
            try:
                if luck < 0.15 or not view.state.indexes:
                    yield from self._wish(log, view, drop=luck < 0.06)
                else:
                    yield from self._build(log, view)
            except ConflictError:
                continue  # it is not wanted any more, or its files were taken for orphans

    def _wish(
        self, log: ManifestLog[CollectionState], view: View, *, drop: bool
    ) -> Procedure[None]:
        name = keys.ulid((yield Now()), (yield Nonce()))
        change: Change = DropIndex(field=_FIELD)
        if not drop:
            spec = {"kind": "sorted"}
            change = SetIndex(definition=IndexDefinition(index_id=name, field=_FIELD, spec=spec))
        yield from log.commit(view, [change], generation=1, committer="indexer")

    def _build(self, log: ManifestLog[CollectionState], view: View) -> Procedure[None]:
        waiting = list(unbuilt("c-1", view.state))
        if not waiting:
            return
        build = self.world.chance.choice(waiting)
        name = SegmentId(keys.ulid((yield Now()), (yield Nonce())))
        content = json.dumps([build.segment_id, build.definition_id]).encode()
        files = {"a": [content], "b": [content]}
        written = yield from write_index_files(PREFIX, build.segment_id, name, files)
        record = IndexRecord(
            index_id=name,
            definition_id=build.definition_id,
            field=_FIELD,
            spec={"kind": "sorted"},
            files={file: found.to_json() for file, found in written.items()},
        )
        change = AddIndex(segment_id=build.segment_id, record=record)
        yield from log.commit(view, [change], generation=1, committer="indexer")
        self.built.add(name)

    def _rows(self, eye: Eye, flushed: int, groups: list[Group]) -> Procedure[set[str]]:
        """Return the rows, after a look at every index."""
        state = eye.seen.state
        for segment in state.segments.values():
            for record in segment.indexes.values():
                wanted = [segment.segment_id, state.indexes[record.field].index_id]
                for file in record.files.values():
                    yield from self._look(eye, segment.segment_id, record, file["key"], wanted)
        return (yield from super()._rows(eye, flushed, groups))

    def _look(
        self, eye: Eye, segment_id: SegmentId, record: IndexRecord, key: str, wanted: list[str]
    ) -> Procedure[None]:
        try:
            found = json.loads((yield Get(key)))
        except CorruptError:
            yield from eye.position()
            now = eye.seen.state.segments[segment_id].indexes.get(record.field)
            if now is not None and now.index_id == record.index_id:
                raise
            return  # files went away under an old view, as they may
        if found != wanted:
            raise self.fail(f"{key} is of {found}, wanted is {wanted}")
