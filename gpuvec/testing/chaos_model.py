"""What a reader may see of rows that others write at the same time, and whether it saw that."""

import threading
import time

import numpy as np
from numpy.typing import NDArray

DIM = 16
_NEVER = float("inf")
_CLOSE = 1e-4  # of distances: float32 sums in another order
_ROOM = 1 << 20  # rows, at most


class Violation(AssertionError):
    """An answer that no version of the rows could give."""


def vectors_of(first: int, count: int) -> NDArray[np.float32]:
    """Return the vectors of rows, (count, DIM) float32, always the same."""
    return np.random.default_rng([11, first]).random((count, DIM), np.float32)


class RowModel:
    """When each row was asked for and acknowledged to come and to go. Thread-safe.

    A row is *sure* in a call if its insert was acknowledged before the call began and no delete
    began before it ended; it is *possible* if its insert began before the end and no delete was
    acknowledged before the beginning. A write of unknown outcome leaves its rows possible for ever.
    """

    def __init__(self) -> None:
        self._vectors = np.zeros((_ROOM, DIM), np.float32)
        self._times = {
            name: np.full(_ROOM, _NEVER)
            for name in ("insert begun", "inserted", "delete begun", "deleted")
        }
        self._rows = 0
        self._lock = threading.Lock()

    @property
    def rows(self) -> int:
        """Ids that were ever used: 0 to this."""
        return self._rows

    def inserting(self, count: int) -> tuple[int, NDArray[np.float32]]:
        """Note that an insert begins; return its first id and its vectors."""
        with self._lock:
            first = self._rows
            vectors = vectors_of(first, count)
            self._vectors[first : first + count] = vectors
            self._times["insert begun"][first : first + count] = time.monotonic()
            self._rows += count
        return first, vectors

    def inserted(self, first: int, count: int) -> None:
        """Note that an insert was acknowledged."""
        self._times["inserted"][first : first + count] = time.monotonic()

    def deleting(self, ids: NDArray[np.int64]) -> None:
        """Note that a delete begins."""
        self._times["delete begun"][ids] = time.monotonic()

    def deleted(self, ids: NDArray[np.int64]) -> None:
        """Note that a delete was acknowledged."""
        self._times["deleted"][ids] = time.monotonic()

    def withdrawn(self, first: int, count: int) -> None:
        """Note that an insert certainly did not happen."""
        self._times["insert begun"][first : first + count] = _NEVER

    def kept(self, ids: NDArray[np.int64]) -> None:
        """Note that a delete certainly did not happen."""
        self._times["delete begun"][ids] = _NEVER

    def vectors(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the vectors of rows, in their order."""
        found: NDArray[np.float32] = self._vectors[ids]
        return found

    def living(self) -> NDArray[np.int64]:
        """Return the ids that no delete was begun for and that are acknowledged."""
        return self._between(_NEVER, _NEVER)[0]

    def _between(self, begun: float, ended: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the ids that are sure and those that are possible in a call."""
        times = {name: values[: self._rows] for name, values in self._times.items()}
        sure = (times["inserted"] < begun) & (times["delete begun"] >= ended)
        possible = (times["insert begun"] < ended) & (times["deleted"] >= begun)
        return np.flatnonzero(sure), np.flatnonzero(possible)

    def check_count(self, count: int, begun: float, ended: float) -> None:
        """Raise `Violation` for a number of rows that cannot be."""
        sure, possible = self._between(begun, ended)
        if not len(sure) <= count <= len(possible):
            raise Violation(f"{count} rows, where {len(sure)} to {len(possible)} can be")

    def check_ids(self, ids: NDArray[np.int64], begun: float, ended: float) -> None:
        """Raise `Violation` for rows that are missing, doubled or should not be."""
        sure, possible = self._between(begun, ended)
        if len(np.unique(ids)) != len(ids):
            raise Violation("a row came twice")
        if len(lost := np.setdiff1d(sure, ids)):
            raise Violation(f"{len(lost)} acknowledged rows are gone, such as {lost[:5]}")
        if len(wrong := np.setdiff1d(ids, possible)):
            raise Violation(f"{len(wrong)} rows cannot be there, such as {wrong[:5]}")

    def check_nearest(
        self,
        query: NDArray[np.float32],
        ids: NDArray[np.int64],
        distances: NDArray[np.float32],
        *,
        k: int,
        begun: float,
        ended: float,
    ) -> None:
        """Raise `Violation` for an answer that is not the k nearest of any version."""
        sure, possible = self._between(begun, ended)
        if len(ids) != k and len(ids) < len(sure):
            raise Violation(f"{len(ids)} of {k} neighbours, where {len(sure)} rows are")
        if not set(ids.tolist()) <= set(possible.tolist()) or len(set(ids.tolist())) != len(ids):
            raise Violation(f"neighbours {ids} cannot be there, or came twice")
        told = np.linalg.norm(self._vectors[ids] - query, axis=1)
        if not np.allclose(told, distances, atol=_CLOSE) or np.any(np.diff(distances) < 0):
            raise Violation(f"distances {distances} should be {told}")
        others = np.setdiff1d(sure, ids)
        nearest = np.linalg.norm(self._vectors[others] - query, axis=1).min(initial=_NEVER)
        if len(ids) and nearest < distances[-1] - _CLOSE:
            raise Violation(f"a row at {nearest} is missing among those up to {distances[-1]}")
