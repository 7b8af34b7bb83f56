"""Segments on a card that one scan goes through together, where they lie."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpuvec.device.arrays import to_device
from gpuvec.index.base import Queries, SearchStats
from gpuvec.index.flat import FlatIndex
from gpuvec.index.keep import Keep, as_bits
from gpuvec.query.batch import take_queries
from gpuvec.query.reduce import IntArray, TopK
from gpuvec.query.target import Target
from gpuvec.query.ways import both_limits
from gpuvec.types import Array

SMALL_ROWS = 1 << 16  # there codes cost fewer launches than a scan in float32
FEWEST = 2  # segments
_MOST_ROWS = 1 << 31  # of one scan
_SHARE = 2  # of what may stay on the card: one scan has no more, with its codes
_CODES = 3, 2  # rows with their codes, of the rows
_LEAST_K, _K_SHARE = 1024, 0.1  # of the rows: more neighbours than both come from float32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Asked:
    """What is asked of all targets of a search.

    Attributes:
        queries: as `VectorIndex.search` takes them.
        k: at least 1.
        high: see `Question`.
        kept: per target, the rows that may be found; None: all.
        counted: these are the targets' own, whose rows are counted.
    """

    queries: Queries
    k: int
    high: float | None
    kept: Sequence[Keep | None]
    counted: bool

    def some(self, which: IntArray) -> "Asked":
        """Return what some queries ask."""
        return replace(self, queries=take_queries(self.queries, which))


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What one scan found.

    Attributes:
        top: equal distances in any order, and all as far as the k-th; empty for queries in `left`.
        left: (n,) int64, queries without an answer.
        outside: targets that were not looked at.
        stats: of the scan.
    """

    top: TopK
    left: IntArray
    outside: Sequence[int]
    stats: SearchStats


@dataclass(frozen=True, slots=True, eq=False)
class Together:
    """Targets that can be scanned together.

    Attributes:
        targets: all of the search.
        numbers: which of them, rising.
    """

    targets: Sequence[Target]
    numbers: Sequence[int]

    def search(self, asked: Asked, bound: Array | None) -> Answer | None:
        """Return the nearest rows of all; None: they have to be asked one by one.

        Args:
            asked: of all targets.
            bound: (queries,) float32 on the host, see `Question`; None: no limit.
        """
        from gpuvec.index.flat_device_many import Member, scan_many

        numbers = [n for n in self.numbers if self.targets[n].count]
        count = sum(self.targets[n].count for n in numbers)
        if len(numbers) < FEWEST or asked.k > max(_LEAST_K, _K_SHARE * count):
            return None
        members = []
        for number in numbers:
            target, index = self.targets[number], _dense(self.targets[number])
            assert index is not None  # as when they were put together
            members.append(
                Member(
                    scan=index.device_scan, valid=index.valid_bits,
                    keep=as_bits(asked.kept[number]), count=target.count,
                )
            )  # fmt: skip
        limits = both_limits(bound, asked.high, len(asked.queries))
        at_most = None if limits is None else to_device(limits, "queries")
        found = scan_many(members, asked.queries, min(asked.k, count), at_most)
        if found is None:
            return None
        rows, distances = found.neighbors.rows.copy(), found.neighbors.distances.copy()
        rows[found.left], distances[found.left] = -1, np.inf
        top = TopK(np.array(numbers, np.int64)[found.member], rows, distances)
        return Answer(top, found.left, [numbers[i] for i in found.outside], found.stats)


def together(targets: Sequence[Target]) -> list[Together]:
    """Return the targets that can be scanned together, as many at a time as the card holds."""
    store = targets[0].session.device_store if targets else None
    if store is None:
        return []
    most = store.budget.resident_limit // _SHARE
    groups: list[list[int]] = [[]]
    size = rows = 0
    for number, target in enumerate(targets):
        if not _joins(target):
            continue
        index: Any = target.exact
        own = index.vectors.nbytes * _CODES[0] // _CODES[1]
        if own > most:
            continue
        if size + own > most or rows + target.base.num_rows > _MOST_ROWS:
            groups.append([])
            size = rows = 0
        groups[-1].append(number)
        size, rows = size + own, rows + target.base.num_rows
    return [Together(targets, group) for group in groups if len(group) >= FEWEST]


def _joins(target: Target) -> bool:
    """Return whether a target is scanned by codes, or worth them, and stays on the card."""
    if target.indexed is not None or target.cache_key is None or not target.base.num_rows:
        return False
    index = _dense(target)
    if index is None or not index.device_scan.kinds:
        return False
    return target.base.num_rows <= SMALL_ROWS or index.device_scan.is_worth_codes()


def _dense(target: Target) -> FlatIndex | None:
    """Return the index of a target's vectors on a card."""
    index = target.exact
    return index if isinstance(index, FlatIndex) and index.device_scan is not None else None
