"""The batch engine on the device: exact nearest rows of dense queries, by tensor cores.

`device_scan_launch.sweep` multiplies codes and keeps each query's rows whose upper bound reaches
the k-th best lower bound. Those are measured by `paired_distances`. The last step checks the proof:
the k-th final distance must be nearer than any score at which rows were left out. Queries whose
proof fails are named; other codes or float32 tiles answer them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gpuvec.device.arrays import array_namespace, to_host
from gpuvec.kernels.device_scan_codes import QueryCodes, encode_queries
from gpuvec.kernels.device_scan_launch import (
    LOWEST,
    Pairs,
    ScanPart,
    Table,
    lying_there,
    room_of,
    sweep,
)
from gpuvec.kernels.merge_k import merge_k
from gpuvec.kernels.neighbors import Neighbors, in_parts
from gpuvec.kernels.pairwise import paired_distances
from gpuvec.kernels.scan_bounds import score_limits
from gpuvec.types import Array

_GATHERED_BYTES = 1 << 26  # rows of several segments that lie side by side for a moment
_PAIR_BYTES = 14  # of temporary data for each pair that there is room for
_FINAL_BYTES = 112  # for each that is measured; as many at a time as memory allows, but not more
_MOST_FINALS = 1 << 20
_TIES_FOR_K, _TIES = 4, 64  # so many times k, and so many more: places for rows as far as the k-th
RankOf = Callable[[Array], Array]


@dataclass(frozen=True, slots=True, eq=False)
class DeviceFound:
    """What a scan answers.

    Attributes:
        neighbors: (m, k), or wider with ties; rows are numbered through all parts, see
            `segments_of`.
        proven: (m,) bool, queries whose answer is complete.
        refused: (m,) bool, queries that no codes can prove; their answers are empty.
        candidates: pairs measured for their final distance.
    """

    neighbors: Neighbors
    proven: Array
    refused: Array
    candidates: int


def scratch_of(k: int, dim: int, queries: int) -> tuple[int, int]:
    """Return the bytes of temporary data without which so many queries cannot be answered.

    The second number is the bytes beyond which more are of no use.
    """
    room = room_of(k, queries)
    most_finals = max(room, min(queries * room, _MOST_FINALS))
    each = _query_bytes(room, k, dim)
    return each + _FINAL_BYTES * room, queries * each + _FINAL_BYTES * most_finals


def _query_bytes(room: int, k: int, dim: int) -> int:
    return _PAIR_BYTES * room + 16 * (k + _most_ties(k)) + 8 * dim + 512


def _most_ties(k: int) -> int:
    return _TIES_FOR_K * k + _TIES


def device_scan_topk(
    parts: Sequence[ScanPart],
    queries: Array,
    k: int,
    *,
    bound: Array | None = None,
    rank_of: RankOf | None = None,
    with_ties: bool = False,
    scratch_bytes: int,
) -> DeviceFound:
    """Find the `k` nearest rows of each query in all parts together, in one launch a step.

    Args:
        parts: at least one; codes of one kind, metric and origin.
        queries: (m, dim) float32.
        k: at least 1 and at most the rows that may be found.
        bound: (m,) float32; only rows at most that far are wanted. None: all.
        rank_of: returns the (…) int64 order of rows at equal distance for their numbers; None: the
            numbers' order.
        with_ties: return the rows beyond the k-th that are as far as it too: whoever orders equal
            distances later needs them. A query with too many of them is not proven.
        scratch_bytes: for temporary data, at least the first number of `scratch_of`.

    Cost: see `sweep`; a final distance for each candidate.
    """
    room, dim = room_of(k, len(queries)), int(queries.shape[1])
    finals = max(room, scratch_bytes // 4 // _FINAL_BYTES)
    wave = max(1, (scratch_bytes - _FINAL_BYTES * finals) // _query_bytes(room, k, dim))
    job = _Job(parts, queries, k, room, finals, rank_of, with_ties=with_ties)
    done = []
    for start in range(0, len(queries), wave):
        at = slice(start, start + wave)
        done.append(job.wave(queries[at], None if bound is None else bound[at]))
    xp = array_namespace(queries)
    return DeviceFound(
        _side_by_side([found.neighbors for found in done]),
        xp.concatenate([found.proven for found in done]),
        xp.concatenate([found.refused for found in done]),
        sum(found.candidates for found in done),
    )


def segments_of(parts: Sequence[ScanPart], rows: Array) -> tuple[Array, Array]:
    """Return the part of each row number and the row in that part; both -1 for gaps."""
    sizes = np.array([0, *(len(part.vectors) for part in parts)], np.int64)
    return in_parts(rows, lying_there(np.cumsum(sizes)))


class _Job:
    """One call of `device_scan_topk`."""

    def __init__(
        self,
        parts: Sequence[ScanPart],
        queries: Array,
        k: int,
        room: int,
        finals: int,
        rank_of: RankOf | None,
        *,
        with_ties: bool,
    ) -> None:
        codes = parts[0].codes
        self._table = Table(parts)
        self._parts = parts
        self._k = k
        self._room = room
        self._finals = finals
        self._rank_of = rank_of
        self._most_tied = k + _most_ties(k) if with_ties else 0
        self._kind, self._metric, self._origin = codes.kind, codes.metric, codes.origin
        self._largest = max(part.codes.largest for part in parts)
        self._xp = array_namespace(queries)

    def wave(self, queries: Array, bound: Array | None) -> DeviceFound:
        """Answer queries; what ran out of room once more, from the floors that were reached."""
        xp = self._xp
        asked = encode_queries(queries, self._metric, self._kind, self._origin)
        floors = self._first_floors(asked, bound)
        found, pairs = self._try(queries, asked, floors, bound)
        again = xp.flatnonzero(~found.proven & (pairs.dropped > 0) & (pairs.floors > floors))
        if not len(again):
            return found
        some = None if bound is None else bound[again]
        better, _ = self._try(queries[again], _some(asked, again), pairs.floors[again], some)
        wide = max(found.neighbors.k, better.neighbors.k)
        whole, rest = found.neighbors.widened(wide), better.neighbors.widened(wide)
        whole.rows[again], whole.distances[again] = rest.rows, rest.distances
        found.proven[again] = better.proven
        return DeviceFound(
            whole, found.proven, found.refused, found.candidates + better.candidates
        )  # fmt: skip

    def _first_floors(self, asked: QueryCodes, bound: Array | None) -> Array:
        """Return scores that wanted rows reach, (m,) float32; +inf for refused queries."""
        xp = self._xp
        floors = xp.full(len(asked.norms), LOWEST, xp.float32)
        if bound is not None:
            limits = self._limits(bound.astype(xp.float64), asked)
            least = xp.maximum(limits, LOWEST).astype(xp.float32)
            floors = xp.maximum(floors, xp.nextafter(least, xp.float32(-np.inf)))
        return xp.where(asked.refused, xp.float32(np.inf), floors)

    def _limits(self, distances: Array, asked: QueryCodes) -> Array:
        return score_limits(distances, asked.norms, self._largest, self._metric)

    def _try(
        self, queries: Array, asked: QueryCodes, floors: Array, bound: Array | None
    ) -> tuple[DeviceFound, Pairs]:
        """Scan, measure, choose, and say which queries are proven complete."""
        xp = self._xp
        pairs = Pairs.make(floors.copy(), self._room)
        sweep(self._table, self._kind, asked, pairs, self._k)
        wide, measured = self._sizes(pairs)
        nearest, whole = self._nearest(queries, pairs, wide, bound)
        last = nearest.distances[:, self._k - 1].astype(xp.float64)
        if bound is not None:
            last = xp.minimum(last, bound)
        safe = self._limits(last, asked)
        reached = xp.where(pairs.floors <= LOWEST, -xp.inf, pairs.floors.astype(xp.float64))
        proven = (reached <= safe) & ~asked.refused & whole
        proven &= (pairs.dropped == 0) | (pairs.dropped_scores() < safe)
        return DeviceFound(nearest, proven, asked.refused, measured), pairs

    def _sizes(self, pairs: Pairs) -> tuple[int, int]:
        """Return the most pairs of a query, and those of all."""
        xp = self._xp
        counts = pairs.counts.astype(xp.int64)
        wide, total = to_host(xp.stack([counts.max(), counts.sum()]), "results").tolist()
        return max(wide, 1), total

    def _nearest(
        self, queries: Array, pairs: Pairs, wide: int, bound: Array | None
    ) -> tuple[Neighbors, Array]:
        """Return the k nearest of all pairs by their final distances, in order.

        With ties the second is (m,) bool, queries for all of whose ties there are places.
        """
        step, answers = max(1, self._finals // wide), []
        for start in range(0, len(queries), step):
            at = slice(start, start + step)
            limits = None if bound is None else bound[at]
            places, counts = pairs.places[at, :wide], pairs.counts[at]
            answers.append(self._measured(queries[at], places, counts, limits))
        whole = self._xp.concatenate([whole for _, whole in answers])
        return _side_by_side([found for found, _ in answers]), whole

    def _measured(
        self, queries: Array, places: Array, counts: Array, bound: Array | None
    ) -> tuple[Neighbors, Array]:
        xp = self._xp
        slots = xp.arange(places.shape[1], dtype=xp.uint32)
        real = slots[None, :] < counts[:, None]
        owner, slot = xp.nonzero(real)
        distances = xp.full(real.shape, xp.inf, xp.float32)
        distances[owner, slot] = self._final(queries, owner, places[owner, slot])
        if bound is not None:
            real &= distances <= bound[:, None]
        numbers = xp.where(real, places.astype(xp.int64), -1)
        order = xp.maximum(numbers, 0)
        measured = Neighbors(numbers, xp.where(real, distances, xp.inf))
        rank = order if self._rank_of is None else self._rank_of(order)
        nearest = merge_k([measured], self._k, ranks=[rank])
        if not self._most_tied:
            return nearest, xp.ones(len(queries), bool)
        tied = (real & (distances <= nearest.distances[:, -1:])).sum(axis=1)
        wide = min(self._most_tied, int(tied.max()))
        if wide > self._k:
            nearest = merge_k([measured], wide, ranks=[rank])
            hidden = nearest.distances > nearest.distances[:, self._k - 1 : self._k]
            rows = xp.where(hidden, -1, nearest.rows)
            nearest = Neighbors(rows, xp.where(hidden, xp.inf, nearest.distances))
        return nearest, tied <= self._most_tied

    def _final(self, queries: Array, owner: Array, places: Array) -> Array:
        """Return the final distances of pairs."""
        xp, first = self._xp, self._parts[0].vectors
        if len(self._parts) == 1:
            rows = places.astype(xp.int64)
            return paired_distances(queries, first, owner, rows, self._metric)
        found = [xp.zeros(0, xp.float32)]
        step = max(1, _GATHERED_BYTES // (first.shape[1] * first.dtype.itemsize))
        for start in range(0, len(places), step):
            at = slice(start, start + step)
            vectors = self._table.gather(places[at])
            rows = xp.arange(len(vectors))
            found.append(paired_distances(queries, vectors, owner[at], rows, self._metric))
        return xp.concatenate(found)


def _side_by_side(parts: Sequence[Neighbors]) -> Neighbors:
    """Return answers of several widths, one after the other, in one of the widest."""
    wide = max(part.k for part in parts)
    return Neighbors.concat([part.widened(wide) for part in parts])


def _some(asked: QueryCodes, at: Array) -> QueryCodes:
    return QueryCodes(asked.codes[at], asked.values[at], asked.norms[at], asked.refused[at])
