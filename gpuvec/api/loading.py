"""`load` and `release`: a collection where it is searched, before anybody asks."""

from abc import ABC, abstractmethod

import numpy as np

from gpuvec import errors
from gpuvec.api.frame import Frame
from gpuvec.device.detect import resolve_device
from gpuvec.query.fragment import spread_of
from gpuvec.query.plan import Scan
from gpuvec.query.session import Session
from gpuvec.query.warm import load, release
from gpuvec.schema import BinaryVector, Vector


class Loaded(ABC):
    """The part of `Collection` that is about where its rows lie."""

    _session: Session

    @property
    @abstractmethod
    def plan(self) -> Scan:
        """See `Collection.plan`."""

    def load(self, *, device: str | None = None) -> None:
        """Bring vectors, indexes and columns to where searches want them; on a GPU they stay there.

        No search needs it: what it reads comes when it is first asked for, and stays for as long as
        nothing else needs the room. Rows that are written later come with their first search. In a
        cluster every node is asked once for what it serves.

        Args:
            device: where the database searches, which `gv.connect` was told; None: there.

        Raises:
            QueryError: `GV-905`, it searches elsewhere; `GV-902`, no such device.
            UnsupportedError: `GV-900`, "gpu" without a usable GPU; `GV-901`, without CuPy.
            DeviceMemoryError: `GV-903`, the card has no room for all of it; then nothing stays.
        """
        if device is not None and resolve_device(device) != self._session.device:
            raise errors.not_on_this_device(device, session=self._session.device)
        plan = self.plan
        if spread_of(plan) is None:
            load(plan, self._session)
            return
        for name, kind in plan.columns.vectors.items():
            query = _some_query(kind)
            if query is not None:
                Frame(plan, self._session).search(query, 1, on=name, exact=True).collect()

    def release(self) -> None:
        """Let go of what the collection has on the GPU; it comes again with the next search."""
        release(self.plan, self._session)


def _some_query(kind: object) -> np.ndarray[tuple[int], np.dtype[np.float32 | np.uint8]] | None:
    """Return a vector that a field can be searched with; None for sparse fields."""
    if isinstance(kind, Vector):
        return np.ones(kind.dim, np.float32)
    return np.zeros(kind.width, np.uint8) if isinstance(kind, BinaryVector) else None
