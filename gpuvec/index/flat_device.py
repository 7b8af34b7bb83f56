"""The way in which `FlatIndex` scans rows in GPU memory."""

from typing import Any

from gpuvec.device.arrays import array_namespace
from gpuvec.device.memory import device_memory, tiles
from gpuvec.index.base import Neighbors, RangeNeighbors
from gpuvec.index.flat_scans import Found, Request, join_ranges
from gpuvec.kernels.float_scan import float_slack
from gpuvec.kernels.merge_k import merge_k
from gpuvec.kernels.pairwise import is_binary, paired_distances, pairwise_distances
from gpuvec.kernels.select_k import select_k
from gpuvec.types import Array, Metric

_ROW_TILE = 1 << 18
_QUERY_TILE = 1024
_SHARE = 4  # of free device memory, for one tile of distances


class DeviceScan:
    """Rows on the GPU: tiles of float32 distances, a selection, and exact distances of the best.

    A tile's `k` best and some more are kept, measured again in float64 and put in final order, so
    an answer differs from the host's only where distances differ by less than 1e-6 relative.
    """

    nbytes = 0

    def __init__(self, rows: Array, metric: Metric) -> None:
        self._rows = rows
        self._metric = metric
        self._xp = array_namespace(rows)

    def topk(self, request: Request, k: int, bound: Array | None) -> Found:
        """See `RowScan.topk`."""
        places = self._places(request)
        wide = min(k + max(16, k // 8), max(1, request.count))
        answers, measured = [], 0
        for start in range(0, max(1, len(request.queries)), _QUERY_TILE):
            queries = request.queries[start : start + _QUERY_TILE]
            best = self._nearest(queries, wide, places, request)
            measured += int(best.rows.size)
            limit = None if bound is None else bound[start : start + _QUERY_TILE]
            answers.append(self._final(queries, best, k, request.tie_rank, limit))
        return Neighbors.concat(answers), "device scan", measured, 0

    def _places(self, request: Request) -> Array | None:
        """Return the rows that may be found, on the device; None: all."""
        return request.listed()

    def _row_tiles(self, request: Request, num_queries: int) -> list[tuple[int, int]]:
        rows = self._rows
        item = 4 * max(1, num_queries) + rows.shape[1] * rows.dtype.itemsize
        limit = device_memory().free // _SHARE
        what = f"distances of {num_queries} queries"
        return tiles(request.count, item, limit, what=what, where="gpu", most=_ROW_TILE)

    def _tile(self, places: Array | None, start: int, stop: int) -> tuple[Array, Array]:
        """Return a tile's positions and vectors."""
        if places is None:
            return self._xp.arange(start, stop), self._rows[start:stop]
        return places[start:stop], self._rows[places[start:stop]]

    def _nearest(self, queries: Array, k: int, places: Array | None, request: Request) -> Neighbors:
        """Return the k nearest by float32 distances."""
        xp, rank = self._xp, request.tie_rank
        best = Neighbors.empty(len(queries), k, like=queries)
        for start, stop in self._row_tiles(request, len(queries)):
            at, vectors = self._tile(places, start, stop)
            distances = pairwise_distances(queries, vectors, self._metric)
            own_rank = None if rank is None else rank[at]
            found = select_k(distances, min(k, stop - start), tie_rank=own_rank)
            part = Neighbors(at[found.rows], found.distances)
            ranks = None
            if rank is not None:
                ranks = [rank[xp.maximum(side.rows, 0)] for side in (best, part)]
            best = merge_k([best, part], k, ranks=ranks)
        return best

    def _final(
        self, queries: Array, best: Neighbors, k: int, rank: Array | None, bound: Array | None
    ) -> Neighbors:
        """Measure the best again and put them in final order."""
        xp = self._xp
        m, wide = best.rows.shape
        owner = xp.repeat(xp.arange(m), wide)
        rows = xp.maximum(best.rows, 0)
        exact = xp.full((m, wide), xp.inf, xp.float32)
        if len(self._rows):
            found = paired_distances(queries, self._rows, owner, rows.ravel(), self._metric)
            exact = found.reshape(m, wide)
        real = best.rows >= 0
        if bound is not None:
            real &= exact <= bound[:, None]
        measured = Neighbors(xp.where(real, best.rows, -1), xp.where(real, exact, xp.inf))
        order = rows if rank is None else rank[rows] if len(rank) else rows
        return merge_k([measured], k, ranks=[order])

    def range(self, request: Request, low: Array | None, high: Array) -> tuple[RangeNeighbors, str]:
        """See `RowScan.range`."""
        places = self._places(request)

        def search(at: slice) -> RangeNeighbors:
            lows = None if low is None else low[at]
            return self._inside(request.queries[at], lows, high[at], places, request)

        return join_ranges(search, len(request.queries), _QUERY_TILE), "device scan"

    def _inside(
        self, queries: Array, low: Array | None, high: Array, places: Array | None, request: Request
    ) -> RangeNeighbors:
        """Collect pairs that float32 cannot rule out, measure them, and keep those inside."""
        xp: Any = self._xp
        owners, rows = [xp.zeros(0, xp.int64)], [xp.zeros(0, xp.int64)]
        for start, stop in self._row_tiles(request, 4 * len(queries)):
            at, vectors = self._tile(places, start, stop)
            distances = pairwise_distances(queries, vectors, self._metric)
            doubt = self._doubt(queries, vectors, distances)
            maybe = ~(distances - doubt > high[:, None])
            if low is not None:
                maybe &= ~(distances + doubt <= low[:, None])
            owner, place = xp.nonzero(maybe)
            owners.append(owner)
            rows.append(at[place])
        owner, row = xp.concatenate(owners), xp.concatenate(rows)
        exact = paired_distances(queries, self._rows, owner, row, self._metric)
        inside = exact <= high[owner]
        if low is not None:
            inside &= exact > low[owner]
        owner, row, exact = owner[inside], row[inside], exact[inside]
        rank = row if request.tie_rank is None else request.tie_rank[row]
        keys = [key.astype(xp.float64) for key in (rank, exact, owner)]
        order = xp.lexsort(xp.stack(keys))
        offsets = xp.zeros(len(queries) + 1, xp.int64)
        if len(owner):
            offsets[1:] = xp.cumsum(xp.bincount(owner, minlength=len(queries)))
        return RangeNeighbors(offsets, row[order], exact[order])

    def _doubt(self, queries: Array, rows: Array, distances: Array) -> Array:
        """Return how far a float32 distance may be from the final one."""
        xp = self._xp
        if is_binary(self._metric):
            return xp.float32(0)
        slack = xp.float32(4 * float_slack(2 * rows.shape[1]))
        if self._metric is Metric.COSINE:
            return slack
        if self._metric is Metric.IP:
            zero = xp.zeros((1, rows.shape[1]), xp.float32)
            sizes = [
                xp.sqrt(pairwise_distances(zero, side, Metric.SQEUCLIDEAN)[0])
                for side in (queries, rows)
            ]
            return slack * sizes[0][:, None] * sizes[1][None, :]
        return slack * distances
