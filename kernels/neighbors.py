"""What a search finds: the words every kernel and index answers in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from gpuvec.device.arrays import array_namespace, to_host
from gpuvec.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class Neighbors:
    """The nearest rows of each query, nearest first; equal distances come in tie order.

    Attributes:
        rows: (queries, k) int64 positions; a short query ends in row -1.
        distances: (queries, k) float32, smaller is nearer; +inf where the row is -1.
    """

    rows: Array
    distances: Array

    @property
    def num_queries(self) -> int:
        """Queries answered."""
        return int(self.rows.shape[0])

    @property
    def k(self) -> int:
        """Places per query, padding included."""
        return int(self.rows.shape[1])

    def to_host(self) -> Self:
        """Return the same neighbours in host memory."""
        return type(self)(to_host(self.rows), to_host(self.distances))

    @classmethod
    def empty(cls, num_queries: int, k: int, *, like: Array = None) -> Self:
        """Return only padding, on the device of `like` (host by default)."""
        xp = array_namespace(like)
        return cls(
            xp.full((num_queries, k), -1, xp.int64), xp.full((num_queries, k), xp.inf, xp.float32)
        )

    def widened(self, k: int) -> Self:
        """Return the same neighbours with at least `k` places, the last ones empty."""
        if self.k >= k:
            return self
        xp = array_namespace(self.rows)
        none = self.empty(self.num_queries, k - self.k, like=self.rows)
        return type(self)(
            xp.concatenate([self.rows, none.rows], axis=1),
            xp.concatenate([self.distances, none.distances], axis=1),
        )

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """Return the answers of several blocks of queries, one block after the other."""
        if len(parts) == 1:
            return parts[0]
        xp = array_namespace(parts[0].rows)
        return cls(
            xp.concatenate([part.rows for part in parts]),
            xp.concatenate([part.distances for part in parts]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class RangeNeighbors:
    """All rows of each query within a range of distances, nearest first, ragged.

    Attributes:
        offsets: (queries + 1,) int64; query q owns entries `offsets[q]` to `offsets[q + 1]`.
        rows: (offsets[-1],) int64 positions.
        distances: (offsets[-1],) float32.
    """

    offsets: Array
    rows: Array
    distances: Array

    @property
    def num_queries(self) -> int:
        """Queries answered."""
        return int(self.offsets.shape[0]) - 1

    @property
    def counts(self) -> Array:
        """Rows found per query, (queries,) int64."""
        return self.offsets[1:] - self.offsets[:-1]


def in_parts(rows: Array, starts: Array) -> tuple[Array, Array]:
    """Return the part of each row number and the row in that part; both -1 for gaps.

    Args:
        rows: (...) int64, numbers through all parts, -1 for gaps.
        starts: (parts + 1,) int64 beside the rows, where each part begins: 0 first.
    """
    xp = array_namespace(rows)
    part = xp.searchsorted(starts, rows, side="right") - 1
    return part, xp.where(rows < 0, -1, rows - starts[part])
