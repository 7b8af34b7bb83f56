"""The storage protocol under simulation, with compaction: segments are replaced all the time.

Compactors, several at once, work from the manifest alone, as any process may: they read segments
and deletion files, write one segment in their place, and commit, perhaps long after flushes, other
compactors and collectors went on.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from gpuvec.errors import ConflictError, CorruptError
from gpuvec.meta.changes import SegmentRecord
from gpuvec.meta.changes_compaction import ReplaceSegments
from gpuvec.storage import keys
from gpuvec.storage.object_store import Get, Nonce, Now, Procedure, Put, Sleep
from gpuvec.testing.sim_log import CHANNEL, PREFIX, LogSimulation, View, manifest_log
from gpuvec.types import SegmentId

_ROUNDS = 8  # of each life of a process
_FIRST = (120, 150, 180)  # steps; the collection is there by then


@dataclass(eq=False)
class CompactionSimulation(LogSimulation):
    """See `LogSimulation`; three more processes compact.

    Attributes:
        replaced: segments that were, in commits whose answer arrived.
    """

    steps: int = 2000
    replaced: set[SegmentId] = field(default_factory=set)

    def roles(self) -> Mapping[str, Callable[[], Procedure[None]]]:
        """See `Lives.roles`."""
        return {**super().roles(), "compactor": self._compact}

    def __post_init__(self) -> None:
        super().__post_init__()
        for delay in _FIRST:
            self.world.start("compactor", self._compact(), delay)

    def _compact(self) -> Procedure[None]:
        log = manifest_log()
        for _ in range(_ROUNDS):
            yield Sleep(0.1)
            view = yield from log.read()
            chosen = self._choose(view)
            if not chosen:
                continue
            try:
                change = yield from self._rewrite(chosen)
            except CorruptError:
                yield from self._check_replaced(chosen)
                continue
            try:
                yield from log.commit(view, [change], generation=1, committer="compactor")
            except ConflictError:
                continue  # somebody replaced one, deleted rows, or took the files for orphans
            self.replaced.update(change.inputs)

    def _choose(self, view: View) -> list[SegmentRecord]:
        """Return some segments: mostly neighbours, now and then one alone."""
        segments = list(view.state.segments.values())
        if not segments:
            return []
        start = self.world.chance.randrange(len(segments))
        return segments[start : start + self.world.chance.choice((1, 2, 2, 3))]

    def _rewrite(self, chosen: list[SegmentRecord]) -> Procedure[ReplaceSegments]:
        """Write one segment with the rows that are left; none when nothing is."""
        rows: dict[str, int] = {}
        for segment in chosen:
            found = json.loads((yield Get(segment.files["key"])))
            hidden = []
            if segment.deletes is not None:
                hidden = json.loads((yield Get(segment.deletes["key"])))
            rows.update((name, ts) for name, ts in found.items() if name not in hidden)
        inputs = {s.segment_id: None if s.deletes is None else s.deletes["key"] for s in chosen}
        if not rows:
            return ReplaceSegments(inputs=inputs, outputs=())
        segment_id = SegmentId(keys.ulid((yield Now()), (yield Nonce())))
        key = f"{keys.segment_folder(PREFIX, segment_id)}/rows.json"
        yield Put(key, [json.dumps(rows).encode()])
        record = SegmentRecord(
            segment_id=segment_id,
            channel=CHANNEL,
            partition="",
            schema_version=1,
            row_count=len(rows),
            size_bytes=0,
            first_ts=min(rows.values()),
            last_ts=max(rows.values()),
            files={"key": key, "rows": list(rows)},
        )
        return ReplaceSegments(inputs=inputs, outputs=(record,))

    def _check_replaced(self, chosen: list[SegmentRecord]) -> Procedure[None]:
        """A file may be missing only where the segment was replaced, or its deletes were."""
        view = yield from manifest_log().read()
        if all(view.state.segments.get(s.segment_id) == s for s in chosen):
            raise self.fail("a file that the manifest names is gone")
