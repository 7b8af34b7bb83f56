"""What an engine of a GPU library is to the index that uses it: finders, and how they are made.

An adapter only translates. It says what it cannot do (masks, many neighbours, few rows), and the
index sees to the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from gpuvec.device.rows import HeldRows
from gpuvec.index.device_space import DeviceSpace
from gpuvec.kernels.bitset import BitSet
from gpuvec.types import Array


class Finder(Protocol):
    """An index of some library, in the memory of a device. Safe for use by several threads."""

    def find(
        self, queries: Array, count: int, knobs: Mapping[str, float], keep: BitSet | None
    ) -> Array:
        """Return rows near each query.

        Args:
            queries: (m, dim) float32 on the device, m at least 1.
            count: rows for each, from 1 to `Engine.most`.
            knobs: of the search, all of them.
            keep: over the nodes, on the device; None: all. Only for engines that see masks.

        Returns:
            (m, count) int64 nodes on the device, -1 where there are no more; none twice in a query.
        """


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Nodes:
    """The rows that an index is made of, numbered as it numbers them.

    Attributes:
        held: all rows of the segment.
        places: (nodes,) int64 on the device, the row of each node; None: node i is row i.
        count: nodes.
        space: how the index sees rows.
    """

    held: HeldRows
    places: Array | None
    count: int
    space: DeviceSpace

    def seen(self, start: int, stop: int) -> Array:
        """Return some nodes as the index sees them, (stop - start, dim) float16."""
        if self.places is None and self.held.array is not None:
            return self.space.rows(self.held.array[start:stop])
        xp = self._xp
        places = xp.arange(start, stop) if self.places is None else self.places[start:stop]
        return self.space.rows(self.held.take(places))

    def seen_at(self, nodes: Array) -> Array:
        """Return nodes of some numbers as the index sees them."""
        places = nodes if self.places is None else self.places[nodes]
        return self.space.rows(self.held.take(places))

    @property
    def _xp(self) -> Array:
        from gpuvec.device.arrays import array_namespace

        return array_namespace(self.space.center)


class Engine(Protocol):
    """A library's way to serve one kind of index on a device."""

    @property
    def name(self) -> str:
        """As curves and `explain` have it: "cuvs", "faiss"."""

    @property
    def by_rows(self) -> bool:
        """Whether its nodes are numbered as the segment's rows are, whatever rows it lacks."""

    @property
    def sees_masks(self) -> bool:
        """Whether a finder looks only among the rows that a mask keeps."""

    @property
    def most(self) -> int:
        """Rows that a finder returns for a query, at most."""

    @property
    def least_nodes(self) -> int:
        """Nodes from which it can be made; fewer are scanned."""

    def size_bytes(self, nodes: int, width: int) -> int:
        """Return the bytes of a finder on the device."""

    def making_bytes(self, nodes: int, width: int) -> int:
        """Return the bytes on the device that making a finder takes beside it."""

    def make(self, nodes: Nodes) -> Finder:
        """Make a finder over the nodes."""
