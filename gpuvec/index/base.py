"""The face of every index: distances smaller for nearer, masks True for keep, gaps as row -1."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuvec.index.keep import Keep
from gpuvec.index.spec import IndexSpec
from gpuvec.kernels.neighbors import Neighbors, RangeNeighbors
from gpuvec.storage.object_store import Buffer
from gpuvec.types import Array, Metric

__all__ = [
    "ApproximateIndex",
    "IndexFile",
    "Neighbors",
    "Params",
    "Queries",
    "RangeNeighbors",
    "SearchStats",
    "VectorIndex",
]

Params = Mapping[str, float]  # knobs of a search, by the names in `IndexSpec.SEARCH`

Queries = Any  # (queries, dim) float32, (queries, dim / 8) packed uint8, or `SparseVectors`


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchStats:
    """What one search did.

    Attributes:
        strategy: name of the way taken, as `explain` prints it.
        queries: asked.
        candidates: pairs measured a second time, for their final distance.
        rescanned: queries whose first pass could not prove its answer complete.
        seconds: of wall time.
    """

    strategy: str
    queries: int
    candidates: int
    rescanned: int = 0
    seconds: float


class VectorIndex(Protocol):
    """Finds near rows among the vectors of one segment. Safe for use by several threads."""

    @property
    def metric(self) -> Metric:
        """What `distance` means."""

    @property
    def num_rows(self) -> int:
        """Rows, null vectors included."""

    @property
    def nbytes(self) -> int:
        """Bytes of data derived from the vectors, without the vectors themselves."""

    @property
    def exact(self) -> bool:
        """Whether an answer is always complete and in order."""

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        keep: Keep | None = None,
        tie_rank: Array | None = None,
        bound: Array | None = None,
        threads: int = 0,
        memory_limit: int | None = None,
    ) -> Neighbors:
        """Return the `k` nearest rows of each query.

        Args:
            queries: as wide as the rows; dense ones float32, binary ones packed uint8.
            k: at least 1; more than there are rows is allowed.
            keep: (rows,) bool, True = may be found, or a bit set (`index.keep`); None: every row.
            tie_rank: (rows,) int64, order of rows at equal distance; None: row order.
            bound: (queries,) float32; rows farther than a query's bound are not wanted.
            threads: of the host; 0: all cores this process may use.
            memory_limit: bytes for temporary data; None: the process's budget.

        Returns:
            On the device of the rows. Rows that are masked or null never come back. Exact indexes
            answer in as many columns as there are rows, where these are fewer than `k`.

        Raises:
            QueryError: `GV-310` k below 1, `GV-312` wrong kind of queries, `GV-313` wrong width,
                `GV-314` wrong length of `keep`, `tie_rank` or `bound`.
        """

    def range_search(
        self,
        queries: Queries,
        low: Array | float | None,
        high: Array | float,
        *,
        keep: Keep | None = None,
        tie_rank: Array | None = None,
        threads: int = 0,
        memory_limit: int | None = None,
    ) -> RangeNeighbors:
        """Return every row with `low < distance <= high`, nearest first.

        Args:
            queries: see `search`.
            low: a number, (queries,) numbers, or None for no lower limit.
            high: a number or (queries,) numbers.
            keep: see `search`.
            tie_rank: see `search`.
            threads: see `search`.
            memory_limit: see `search`.
        """

    @property
    def last_stats(self) -> SearchStats | None:
        """What the last search of the calling thread did; None before its first."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IndexFile:
    """A file of an index, as read back.

    Attributes:
        data: (bytes,) uint8, read only; memory mapped where the store is a local directory.
        path: of that file on a local disk; None where there is none.
    """

    data: NDArray[np.uint8]
    path: str | None


class ApproximateIndex(Protocol):
    """An index that may miss rows, over the non-null vectors of one segment.

    Rows in arguments and answers are positions in the segment. What is found is measured again by
    `kernels.pairwise.paired_distances`, so distances and ties are those of every other way. Safe
    for use by several threads.
    """

    @property
    def spec(self) -> IndexSpec:
        """What it was built as, with every parameter decided."""

    @property
    def metric(self) -> Metric:
        """What `distance` means."""

    @property
    def num_rows(self) -> int:
        """Rows of the segment, null vectors included."""

    @property
    def nbytes(self) -> int:
        """Bytes that the index holds beside the vectors, mapped ones too."""

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        params: Params | None = None,
        keep: Keep | None = None,
        tie_rank: Array | None = None,
        bound: Array | None = None,
        threads: int = 0,
        memory_limit: int | None = None,
    ) -> Neighbors:
        """Return near rows of each query: as `VectorIndex.search`, but some may be missed.

        Args:
            queries: see `VectorIndex.search`.
            k: see `VectorIndex.search`.
            params: knobs, all of them optional; None: the spec's defaults.
            keep: see `VectorIndex.search`. Rows that it hides never come back.
            tie_rank: see `VectorIndex.search`.
            bound: see `VectorIndex.search`; farther rows may still come back.
            threads: see `VectorIndex.search`.
            memory_limit: see `VectorIndex.search`.

        Returns:
            Gaps (row -1) also where the index found fewer rows than there are; the caller
            completes such answers.

        Raises:
            QueryError: as `VectorIndex.search`; `GV-318` an unknown knob or one out of range.
        """

    def settings(self, k: int) -> Sequence[Params]:
        """Return knobs to measure for `k` neighbours, cheapest first, the last most thorough."""

    def complete(self) -> None:
        """Add the rows that `registry.build` was told to hold out. Not safe beside a search."""

    def files(self) -> Mapping[str, Sequence[Buffer]]:
        """Return file name to content, from which `registry.load` makes an equal index."""

    @property
    def last_stats(self) -> SearchStats | None:
        """What the last search of the calling thread did; None before its first."""
