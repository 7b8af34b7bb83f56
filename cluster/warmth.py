"""Segments that a node keeps open, so that a search finds them ready."""

import logging
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from gpuvec import errors
from gpuvec.meta.catalog import CollectionState
from gpuvec.segment.sealed import SealedSegment
from gpuvec.types import SegmentId

if TYPE_CHECKING:
    from gpuvec.cluster.node_engine import NodeEngine

_log = logging.getLogger("gpuvec")


class Warmth:
    """Opens the segments that the coordinator names, one collection at a time, on its own thread.

    A segment that compaction replaced is let go when the manifest says so. Safe for use by several
    threads.

    Args:
        engine: of the node.
    """

    def __init__(self, engine: "NodeEngine") -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._wanted: dict[str, set[SegmentId]] = {}
        self._warm: dict[str, dict[SegmentId, int]] = {}  # bytes
        self._pool: ThreadPoolExecutor | None = None
        self._stopped = False

    def load(self, collection_id: str, segments: Iterable[SegmentId]) -> None:
        """Begin to open segments; those that are open stay so."""
        with self._lock:
            if self._stopped:
                return
            self._wanted.setdefault(collection_id, set()).update(segments)
            if self._pool is None:
                self._pool = ThreadPoolExecutor(1, thread_name_prefix="gpuvec-load")
            self._pool.submit(self._open, collection_id)

    def release(self, collection_id: str, segments: Iterable[SegmentId]) -> None:
        """Let segments go."""
        gone = set(segments)
        with self._lock:
            self._wanted.get(collection_id, set()).difference_update(gone)
            for segment_id in gone:
                self._warm.get(collection_id, {}).pop(segment_id, None)

    def forget(self, collection_id: str) -> None:
        """Let all segments of a collection go."""
        with self._lock:
            self._wanted.pop(collection_id, None)
            self._warm.pop(collection_id, None)

    def held(self) -> dict[str, tuple[SegmentId, ...]]:
        """Return, by collection, the segments that are open."""
        with self._lock:
            return {name: tuple(sorted(warm)) for name, warm in self._warm.items() if warm}

    def size_bytes(self) -> int:
        """Return the bytes of the segments that are open."""
        with self._lock:
            return sum(size for warm in self._warm.values() for size in warm.values())

    def stop(self) -> None:
        """End the thread, once the segment under way is open."""
        with self._lock:
            self._stopped = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

    def _open(self, collection_id: str) -> None:
        try:
            channel = self._engine.channel(collection_id)
            channel.refresh()
            there = {segment.segment_id: segment for segment in channel.shard.sealed()}
        except errors.GpuvecError as error:
            _log.warning("segments of %s are not opened: %s", collection_id, error)
            return
        with self._lock:
            wanted = self._wanted.get(collection_id, set())
            wanted &= there.keys()
            warm = self._warm.setdefault(collection_id, {})
            for segment_id in warm.keys() - wanted:
                del warm[segment_id]
            todo = sorted(wanted - warm.keys())
        for segment_id in todo:
            self._open_one(channel.state, there[segment_id])

    def _open_one(self, state: CollectionState, segment: SealedSegment) -> None:
        collection_id, segment_id = state.collection_id, segment.segment_id
        with self._lock:
            if self._stopped or segment_id not in self._wanted.get(collection_id, set()):
                return
        try:
            _open_files(state, segment)
        except (errors.GpuvecError, OSError) as error:  # whoever reads it is told
            _log.warning("segment %s of %s is not opened: %s", segment_id, collection_id, error)
            return
        with self._lock:
            if segment_id in self._wanted.get(collection_id, set()):
                self._warm.setdefault(collection_id, {})[segment_id] = segment.rows.size_bytes


def _open_files(state: CollectionState, segment: SealedSegment) -> None:
    """Open vectors and indexes, each compared with its checksum; a bucket's are read when used.

    Of an external collection nothing is decoded before it is searched.
    """
    if state.external is not None:
        return
    for name, kind in state.schema.fields.items():
        if kind.is_vector and state.field_versions.get(name, 0) <= segment.rows.layout_version:
            segment.rows.files.vectors(name)
    for index in segment.indexes.values():
        index.files()
