"""One scan on the GPU through the rows of many segments: a launch a step, however many they are.

Each segment's rows, codes and bits stay where they are; a table tells the kernels where. Rows as
far as the k-th nearest come too, so that whoever knows the keys can order equal distances.
"""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.device.arrays import array_namespace, to_host
from gpuvec.device.rows import HeldRows
from gpuvec.index.base import Neighbors, SearchStats
from gpuvec.index.flat_device import DeviceScan, if_room
from gpuvec.kernels.bitset import WORD, BitSet, unpack
from gpuvec.kernels.device_scan import DeviceFound, device_scan_topk, scratch_of
from gpuvec.kernels.device_scan_codes import DeviceCodes
from gpuvec.kernels.device_scan_launch import ScanPart, lying_there
from gpuvec.kernels.neighbors import in_parts
from gpuvec.kernels.pairwise import check_pair
from gpuvec.types import Array

_THIN = 0.5  # of the rows: fewer are named one by one, more are told by bits
_BIT_BYTES, _LISTED_BYTES = 2, 40  # of temporary data for a row that has a bit, and for each listed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Member:
    """One segment of a scan through many.

    Attributes:
        scan: of its rows; at least one, dense.
        keep: rows that may be found; None: all.
        valid: rows that have a vector; None: all.
        count: rows in `keep`, or more.
    """

    scan: DeviceScan
    keep: BitSet | None
    valid: BitSet | None
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class ManyFound:
    """What a scan through many segments answers, in host memory.

    Attributes:
        member: (m, w) int64, which member each neighbour is in.
        neighbors: (m, w), w at least k: with all rows as far as the k-th; rows are numbered within
            their members, equal distances in any order.
        left: (m,) int64, queries whose answers here are not complete.
        outside: members that were not looked at: they are not on the card, or their magnitudes
            cannot be bounded.
        stats: of the scan.
    """

    member: NDArray[np.int64]
    neighbors: Neighbors
    left: NDArray[np.int64]
    outside: Sequence[int]
    stats: SearchStats


def scan_many(
    members: Sequence[Member], queries: Array, k: int, bound: Array | None
) -> ManyFound | None:
    """Find the nearest rows of all members together.

    Args:
        members: at least one, of one metric, width and dtype; rows of one collection.
        queries: (m, width) float32 on the device.
        k: at least 1.
        bound: (m,) float32 on the device; only rows at most that far are wanted. None: all.

    Returns:
        None: there is no room for it. Rows come to the card, and codes are derived, if need be.

    Raises:
        QueryError: `GV-312`, `GV-313`, queries do not fit the rows.

    Cost: see `device_scan_topk`; a look at each member on the host.
    """
    start = time.perf_counter()
    check_pair(queries, members[0].scan.rows.like, members[0].scan.metric)
    with ExitStack() as stack:
        held = [stack.enter_context(member.scan.rows.held()) for member in members]
        first = _kind(members)
        codes = _codes(stack, members, held, first)
        inside = [i for i, own in enumerate(codes) if own is not None]
        if not inside:
            return None
        own = [members[i] for i in inside]
        job = _Job(own, [held[i] for i in inside], queries, k, bound)
        answered = job.run(first, [codes[i] for i in inside])
    if answered is None:
        return None
    stats = SearchStats(
        strategy=f"device {first} scan", queries=len(queries), candidates=job.candidates,
        rescanned=job.rescanned, seconds=time.perf_counter() - start,
    )  # fmt: skip
    found, left = answered[0].to_host(), to_host(answered[1], "results")
    starts = np.cumsum([0, *(len(member.scan.rows) for member in own)])
    place, rows = in_parts(found.rows, starts)
    outside = sorted({*range(len(members))} - {*inside})
    numbers = np.array(inside, np.int64)[place]
    return ManyFound(numbers, Neighbors(rows, found.distances), left, outside, stats)


def _kind(members: Sequence[Member]) -> str:
    """Return the codes that are asked first: those that are tight enough for every member."""
    return min((member.scan.kinds for member in members), key=len)[0]


def _codes(
    stack: ExitStack, members: Sequence[Member], held: Sequence[HeldRows], kind: str
) -> list[DeviceCodes | None]:
    """Hold codes of one origin; None for members that have none, or are not on the card."""
    found = [
        None if rows.array is None else stack.enter_context(member.scan.codes(rows, kind))
        for member, rows in zip(members, held, strict=True)
    ]
    there = [codes for codes in found if codes is not None]
    return [
        codes if codes is not None and codes.origin is there[0].origin else None for codes in found
    ]


class _Job:
    """One call: members that lie on the card with their codes."""

    def __init__(
        self,
        members: Sequence[Member],
        held: Sequence[HeldRows],
        queries: Array,
        k: int,
        bound: Array | None,
    ) -> None:
        self._members = members
        self._held = held
        self._queries = queries
        self._bound = bound
        self._rows = sum(len(member.scan.rows) for member in members)
        self._k = min(k, self._rows)
        self._xp = array_namespace(queries)
        self.candidates = self.rescanned = 0

    def run(self, kind: str, codes: Sequence[Any]) -> tuple[Neighbors, Array] | None:
        """Return the neighbours and the queries without a proof; None: there is no room."""
        xp, m = self._xp, len(self._queries)
        counts = sum(member.count for member in self._members)
        is_thin = counts < _THIN * self._rows
        fixed = _BIT_BYTES * self._rows + (_LISTED_BYTES * counts if is_thin else 0)
        least, most = scratch_of(self._k, int(self._queries.shape[1]), m)
        scratch = self._members[0].scan.rows.scratch(
            fixed + least, fixed + most, what=f"a scan for {m:,} queries"
        )
        with ExitStack() as stack:
            granted = if_room(stack, scratch)
            if granted is None:
                return None
            parts = self._parts(codes, is_thin=is_thin)
            found = self._scan(parts, None, granted - fixed)
            answer, hopeless = found.neighbors, xp.flatnonzero(found.refused)
            left = xp.flatnonzero(~found.proven & ~found.refused)
            self.rescanned = len(left) + len(hopeless)
            for tighter in self._tighter(kind, m, len(left)):
                if not len(left):
                    break
                better = self._by_tighter(parts, tighter, left, granted - fixed)
                if better is None:
                    break
                wide = max(answer.k, better.neighbors.k)
                answer, rest = answer.widened(wide), better.neighbors.widened(wide)
                answer.rows[left], answer.distances[left] = rest.rows, rest.distances
                left = left[xp.flatnonzero(~better.proven)]
            return answer, xp.concatenate([left, hopeless])

    def _tighter(self, kind: str, asked: int, unproven: int) -> list[str]:
        """Tell the members how tight their codes were; return the kinds that are tighter."""
        for member in self._members:
            member.scan.note(kind, asked, unproven)
        known = max((member.scan.kinds for member in self._members), key=len)
        return [name for name in known if name != kind]

    def _by_tighter(
        self, parts: Sequence[ScanPart], kind: str, which: Array, scratch_bytes: int
    ) -> DeviceFound | None:
        """Ask other codes; None: not all members have them."""
        with ExitStack() as stack:
            codes = _codes(stack, self._members, self._held, kind)
            if any(own is None for own in codes):
                return None
            pairs = zip(parts, codes, strict=True)
            others = [replace(part, codes=own) for part, own in pairs if own is not None]
            return self._scan(others, which, scratch_bytes)

    def _scan(
        self, parts: Sequence[ScanPart], which: Array | None, scratch_bytes: int
    ) -> DeviceFound:
        queries, bound = self._queries, self._bound
        if which is not None:
            queries, bound = queries[which], None if bound is None else bound[which]
        found = device_scan_topk(
            parts, queries, self._k, bound=bound, with_ties=True, scratch_bytes=scratch_bytes
        )
        self.candidates += found.candidates
        return found

    def _parts(self, codes: Sequence[DeviceCodes], *, is_thin: bool) -> list[ScanPart]:
        """Return where all rows are, and which may be found."""
        kept = _in_both(self._members)
        listed = _listed(kept) if is_thin else [None] * len(kept)
        return [
            ScanPart(
                codes=own, vectors=rows.array, bits=None if rows_of is not None else bits,
                listed=rows_of, count=member.count if rows_of is None else len(rows_of),
            )
            for member, own, rows, bits, rows_of in zip(
                self._members, codes, self._held, kept, listed, strict=True
            )
        ]  # fmt: skip


def _in_both(members: Sequence[Member]) -> list[BitSet | None]:
    """Return the rows of each member that may be found and have a vector; None: all."""
    kept = [member.valid if member.keep is None else member.keep for member in members]
    two = {
        i: (m.keep, m.valid)
        for i, m in enumerate(members)
        if m.keep is not None and m.valid is not None
    }
    if two:
        sides = list(zip(*two.values(), strict=True))
        xp = array_namespace(sides[0][0].words)
        words = xp.concatenate([bits.words for bits in sides[0]])
        words &= xp.concatenate([bits.words for bits in sides[1]])
        at = np.cumsum([0, *(len(bits.words) for bits in sides[0])]).tolist()
        for place, i in enumerate(two):
            own = words[at[place] : at[place + 1]]
            kept[i] = BitSet(own, sides[0][place].num_rows)
    return kept


def _listed(kept: Sequence[BitSet | None]) -> list[Array | None]:
    """Return (count,) uint32 rows of each set, rising; None for all rows."""
    own = [bits for bits in kept if bits is not None]
    if not own:
        return [None] * len(kept)
    xp = array_namespace(own[0].words)
    starts = np.cumsum([0, *(WORD * len(bits.words) for bits in own)])
    begins = lying_there(starts)
    words = xp.concatenate([bits.words for bits in own])
    places = xp.flatnonzero(unpack(BitSet(words, int(starts[-1]))))
    rows = (places - begins[xp.searchsorted(begins, places, side="right") - 1]).astype(xp.uint32)
    at = to_host(xp.searchsorted(places, begins), "results").tolist()
    slices = iter([rows[at[i] : at[i + 1]] for i in range(len(own))])
    return [None if bits is None else next(slices) for bits in kept]
