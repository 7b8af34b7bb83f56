"""Exact search over sparse vectors: every row's entries meet a spread-out query.

The distance of a sparse pair is defined here: products of shared positions are added in float64 in
order of position and rounded once, to float32.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.errors import metric_needs
from gpuvec.kernels.exact_scan import Range, range_parts, scan_parts
from gpuvec.kernels.neighbors import Neighbors, RangeNeighbors
from gpuvec.kernels.pairwise import METRIC_CODES
from gpuvec.rows import SparseVectors
from gpuvec.types import Metric

METRICS = (Metric.IP, Metric.COSINE)


@dataclass(frozen=True, slots=True, eq=False)
class SparsePack:
    """Sparse rows made ready for scans: positions renumbered to those that occur.

    Attributes:
        vectors: the rows.
        positions: (columns,) uint32, the positions that occur, rising.
        columns: (entries,) int32, each entry's place in `positions`.
        squares: (rows,) float64.
    """

    vectors: SparseVectors
    positions: NDArray[np.uint32]
    columns: NDArray[Any]
    squares: NDArray[np.float64]

    @property
    def nbytes(self) -> int:
        """Bytes beyond the vectors themselves."""
        return int(self.positions.nbytes + self.columns.nbytes + self.squares.nbytes)


def pack_sparse(vectors: SparseVectors) -> SparsePack:
    """Derive what scans of sparse rows need; one sort of the positions."""
    from gpuvec.kernels import host_sparse
    from gpuvec.kernels.lanes import kernel_view

    positions, columns = np.unique(vectors.indices, return_inverse=True)
    plain = SparseVectors(
        kernel_view(vectors.offsets), kernel_view(vectors.indices), kernel_view(vectors.values)
    )
    squares = host_sparse.squares(plain.offsets, plain.values)
    return SparsePack(plain, positions, columns.astype(np.int32), squares)


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """Queries in the numbering of a pack."""

    offsets: NDArray[np.int64]
    columns: NDArray[np.int64]
    values: NDArray[np.float32]
    squares: NDArray[np.float64]


def _renumber(pack: SparsePack, queries: SparseVectors) -> _Asked:
    """Bring queries into the numbering of a pack; positions that no row has are left out."""
    from gpuvec.kernels import host_sparse
    from gpuvec.kernels.lanes import kernel_view

    squares = host_sparse.squares(kernel_view(queries.offsets), kernel_view(queries.values))
    columns = np.searchsorted(pack.positions, queries.indices)
    known = columns < len(pack.positions)
    known[known] = pack.positions[columns[known]] == queries.indices[known]
    before = np.concatenate([[0], np.cumsum(known)]).astype(np.int64)
    return _Asked(before[queries.offsets], columns[known], queries.values[known], squares)


def sparse_scan_topk(
    pack: SparsePack,
    queries: SparseVectors,
    k: int,
    metric: Metric,
    *,
    listed: NDArray[np.int64] | None = None,
    tie_rank: NDArray[np.int64] | None = None,
    bound: NDArray[np.float32] | None = None,
    threads: int = 0,
) -> Neighbors:
    """Find the `k` nearest rows of each query, exactly; arguments as in `float_scan_topk`.

    Cost: per query one read of all entries.
    """
    from gpuvec.kernels import host_sparse
    from gpuvec.kernels.lanes import numbers_view

    asked = _renumber(pack, queries)
    places = numbers_view(listed)
    ranks = numbers_view(tie_rank)
    limit = np.full(len(queries), np.inf, np.float32) if bound is None else np.array(bound)

    def fill(who: Range, part: Range, out: Neighbors) -> None:
        host_sparse.scan_sparse(
            asked.offsets, asked.columns, asked.values, asked.squares, who[0],
            pack.vectors.offsets, pack.columns, pack.vectors.values, pack.squares,
            len(pack.positions), places, *part, METRIC_CODES[metric],
            ranks, limit, out.rows, out.distances,
        )  # fmt: skip

    size = len(pack.vectors) if listed is None else len(listed)
    return scan_parts(fill, len(queries), size, k, tie_rank, threads)


def sparse_scan_range(
    pack: SparsePack,
    queries: SparseVectors,
    low: NDArray[np.float32] | None,
    high: NDArray[np.float32],
    metric: Metric,
    *,
    listed: NDArray[np.int64] | None = None,
    tie_rank: NDArray[np.int64] | None = None,
    threads: int = 0,
    memory_limit: int,
) -> RangeNeighbors:
    """Find every row with `low < distance <= high`; arguments as in `range_parts`."""
    from gpuvec.kernels import host_sparse
    from gpuvec.kernels.lanes import kernel_view

    asked = _renumber(pack, queries)
    places = kernel_view(np.arange(len(pack.vectors)) if listed is None else listed)

    def measure(who: Range, out: NDArray[np.float32]) -> None:
        host_sparse.measure_sparse(
            asked.offsets, asked.columns, asked.values, asked.squares, who[0],
            pack.vectors.offsets, pack.columns, pack.vectors.values, pack.squares,
            len(pack.positions), places, METRIC_CODES[metric], out,
        )  # fmt: skip

    return range_parts(
        measure, len(queries), places, low, high, tie_rank,
        threads=threads, memory_limit=memory_limit,
    )  # fmt: skip


def paired_sparse_distances(
    queries: SparseVectors,
    rows: SparseVectors,
    query_index: NDArray[np.int64],
    row_index: NDArray[np.int64],
    metric: Metric,
) -> NDArray[np.float32]:
    """Measure given pairs of sparse vectors: (p,) float32, what the scans give.

    Raises:
        QueryError: `GV-312`, a metric for other vectors.
    """
    check_sparse(metric)
    from gpuvec.kernels import host_sparse

    left, right = queries.take(query_index), rows.take(row_index)
    pack = pack_sparse(right)
    asked = _renumber(pack, left)
    found = np.empty(len(query_index), np.float32)
    host_sparse.measure_pairs(
        asked.offsets, asked.columns, asked.values, asked.squares,
        pack.vectors.offsets, pack.columns, pack.vectors.values, pack.squares,
        len(pack.positions), METRIC_CODES[metric], found,
    )  # fmt: skip
    return found


def check_sparse(metric: Metric) -> None:
    """Refuse a metric that does not measure sparse vectors.

    Raises:
        QueryError: `GV-312`.
    """
    if metric not in METRICS:
        raise metric_needs(metric, "sparse", wanted="other (sparse ones take ip or cosine)")
