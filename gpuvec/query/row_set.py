"""The rows of one segment that may be found: as a mask on the host, as bits on the device.

Which of both there is depends on where the filters ran; the other is made when something asks for
it, and crosses the bus packed, a bit a row. A set that has a name is kept on the device for the
next query with the same filters.
"""

import hashlib
from collections.abc import Callable, Hashable
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa

from gpuvec.expr.bound import Bound
from gpuvec.expr.tree import Expr, ValueList
from gpuvec.expr.walk import children
from gpuvec.index.keep import Keep, as_bits, as_mask
from gpuvec.kernels.bitset import WORD, BitSet, count
from gpuvec.once import cached_property
from gpuvec.query.session import Session
from gpuvec.segment.view import SegmentView
from gpuvec.types import RowMask

Name: TypeAlias = tuple[Hashable, ...]  # segment id, generation, "bits", then what hides rows

MOST_LISTED = 10_000  # values in a condition: longer ones are not worth a name


class RowSet:
    """Rows of a segment. Frozen; safe for use by several threads.

    Args:
        rows: a mask on the host, or bits on the device.
        name: gives the set's name, once somebody asks for it.
    """

    def __init__(self, rows: Keep, name: Callable[[], Name | None] = lambda: None) -> None:
        self._rows = rows
        self._find_name = name

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def name(self) -> Name | None:
        """What the set is, for ever: a key for caches; None: it has none."""
        return self._find_name()

    @cached_property
    def count(self) -> int:
        """How many rows are in the set."""
        if isinstance(self._rows, BitSet):
            return count(self._rows)
        return int(np.count_nonzero(self._rows))

    @property
    def on_device(self) -> bool:
        """Whether the set was made on the device."""
        return isinstance(self._rows, BitSet)

    @property
    def nbytes(self) -> int:
        """Bytes of the form that it was made in."""
        rows: Any = self._rows
        return int(rows.words.nbytes if isinstance(rows, BitSet) else rows.nbytes)

    @cached_property
    def mask(self) -> RowMask:
        """(rows,) bool on the host."""
        return as_mask(self._rows)

    def bits(self, session: Session, owner: str = "") -> BitSet:
        """Return the set in device memory, from what the session keeps there if it is there.

        Args:
            session: with a device.
            owner: the collection, see `DeviceStore.use`.
        """
        store = session.device_store
        if self.on_device or self.name is None or store is None:
            return self._own_bits
        size = -(-len(self) // WORD) * WORD // 8
        use = store.use(self.name, size, lambda: as_bits(self._rows), part="bits", owner=owner)
        with use as bits:
            return bits  # type: ignore[no-any-return]

    @cached_property
    def _own_bits(self) -> BitSet:
        return as_bits(self._rows)


def name_of(view: SegmentView) -> Name | None:
    """Return what names the rows visible in a segment; None: nothing of it outlives the query."""
    if getattr(view, "transient", False):
        return None
    shown: Any = getattr(view, "visibility", None)
    if shown is None and view.keep() is not None:
        return None
    return (view.segment_id, view.generation, "bits", shown)


def condition_name(bound: Bound) -> str | None:
    """Return a name of a condition, alike for equal ones; None where it is not worth one."""
    if bound not in _names:
        _names[bound] = None
        if _listed(bound.expr) <= MOST_LISTED:
            _names[bound] = hashlib.blake2b(str(bound.expr).encode(), digest_size=16).hexdigest()
    return _names[bound]


_names: WeakKeyDictionary[Bound, str | None] = WeakKeyDictionary()


def _listed(node: Expr) -> int:
    """Return how many values are in the lists of an expression."""
    own = 0
    if isinstance(node, ValueList):
        own = len(node.values) if isinstance(node.values, pa.Array | tuple) else 0
    return own + sum(map(_listed, children(node)))
