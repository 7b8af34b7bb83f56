"""The keys of a bulk import: which come twice in its files, and which the collection has already.

Every segment of an import holds its keys sorted and once. Where the ranges of segments overlap, all
keys of one span are compared at once; spans are as wide as memory allows, so that the keys need not
fit. Each span reads the keys of the segments that overlap with it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec.segment.keys import KeyIndex, Positions, key_codes, one_array
from gpuvec.segment.sealed import SealedRows, SealedSegment
from gpuvec.segment.view import FieldStatistics
from gpuvec.types import SegmentId

_NUMBER_BYTES = 64  # of a key, its order and its place, while a span is compared
_TEXT_BYTES = 160
_SAMPLES = 4096  # of all keys, from which the spans follow

Span = tuple[Any, Any]  # from a key on, below a key; None: no bound


@dataclass(frozen=True, slots=True)
class _Slice:
    """Keys of one segment that lie in a span, but those that lost; `rows` are their places."""

    segment: int
    rows: Positions
    keys: pa.Array


@dataclass(frozen=True, slots=True)
class Hits:
    """Rows of a segment of the collection and the imported rows with the same keys.

    Attributes:
        there: the segment of the collection.
        old: (hits,) its rows.
        segment: (hits,) number of the import's segment.
        new: (hits,) rows in that.
    """

    there: SealedSegment
    old: Positions
    segment: NDArray[np.int64]
    new: Positions


@dataclass(slots=True)
class ImportedKeys:
    """The keys of an import. Used by one thread.

    Args:
        segments: in the order of the rows in the files.
        budget_bytes: of keys in memory.
        unique: whether no segment holds a key twice.

    Attributes:
        losers: number of a segment to its rows whose key another row of the import has.
        hits: by segment of the collection that was looked at; empty where nothing was found.
    """

    segments: Sequence[SealedRows]
    budget_bytes: int
    unique: bool = True
    losers: dict[int, Positions] = field(default_factory=dict)
    hits: dict[SegmentId, Hits] = field(default_factory=dict)
    _spans: tuple[Span, ...] | None = None

    def find_losers(self, *, first_wins: bool) -> tuple[int, Any]:
        """Fill `losers`; return how many there are, and one of their keys.

        Args:
            first_wins: else the last row of a key does.
        """
        if self._apart():
            return 0, None
        found: dict[int, list[Positions]] = {}
        count, example = 0, None
        for span in self.spans():
            slices = list(self._slices(span))
            lost = _lost(slices, first_wins=first_wins)
            starts = np.cumsum([0, *(len(piece.keys) for piece in slices)])
            for piece, low, high in zip(slices, starts[:-1], starts[1:], strict=True):
                at = lost[np.searchsorted(lost, low) : np.searchsorted(lost, high)] - low
                if len(at):
                    found.setdefault(piece.segment, []).append(piece.rows[at])
                    count += len(at)
                    example = piece.keys[int(at[0])].as_py() if example is None else example
        self.losers = {number: np.concatenate(parts) for number, parts in found.items()}
        return count, example

    def look(self, there: Sequence[SealedSegment]) -> None:
        """Find the keys of the import in segments that were not looked at before."""
        fresh = [s for s in there if s.segment_id not in self.hits]
        near = [s for s in fresh if self._may_share(s)]
        parts: dict[SegmentId, list[Hits]] = {segment.segment_id: [] for segment in fresh}
        for span in self.spans() if near else ():
            slices = list(self._slices(span))
            index = KeyIndex()
            for piece in slices:
                index.add(piece.keys)
            if not len(index):
                continue
            number = np.repeat([p.segment for p in slices], [len(p.keys) for p in slices])
            rows = np.concatenate([piece.rows for piece in slices])
            for segment in near:
                keys, places = _within(_keys_of(segment.rows), span)
                at = index.find(keys)
                old = np.flatnonzero(at >= 0)
                if len(old):
                    at = at[old]
                    hits = Hits(segment, places[old], number[at], rows[at])
                    parts[segment.segment_id].append(hits)
        for segment in fresh:
            self.hits[segment.segment_id] = _joined(segment, parts[segment.segment_id])

    def key(self, segment: int, row: int) -> Any:
        """Return the key of one imported row."""
        return _keys_of(self.segments[segment])[row].as_py()

    def spans(self) -> tuple[Span, ...]:
        """Return spans of keys, each of which fits in memory, in rising order."""
        if self._spans is None:
            self._spans = self._cut()
        return self._spans

    def _cut(self) -> tuple[Span, ...]:
        total = sum(rows.row_count for rows in self.segments)
        if not total:
            return ((None, None),)
        texts = pa.types.is_string(_keys_of(self.segments[0]).type)
        parts = -(-total * (_TEXT_BYTES if texts else _NUMBER_BYTES) // max(1, self.budget_bytes))
        if parts < 2:
            return ((None, None),)
        step = max(1, total // max(_SAMPLES, 8 * parts))
        samples = [one_array(_keys_of(rows))[::step] for rows in self.segments]
        chosen = pc.unique(pa.concat_arrays(samples))
        chosen = chosen.take(pc.sort_indices(chosen))
        cuts = chosen.take(pa.array(np.arange(1, parts) * len(chosen) // parts))
        bounds = [None, *pc.unique(cuts).to_pylist(), None]
        return tuple(pairwise(bounds))

    def _slices(self, span: Span) -> Iterator[_Slice]:
        for number, rows in enumerate(self.segments):
            if not _overlaps(_bounds(rows), span):
                continue
            keys, places = _within(_keys_of(rows), span)
            lost = self.losers.get(number)
            if lost is not None:
                stay = ~np.isin(places, lost)
                keys, places = keys.filter(pa.array(stay)), places[stay]
            if len(keys):
                yield _Slice(number, places, keys)

    def _apart(self) -> bool:
        """Return whether no two segments can share a key, by their bounds."""
        if not self.unique:
            return False
        bounds = [_bounds(rows) for rows in self.segments if rows.row_count]
        if any(found is None or found.low is None for found in bounds):
            return False
        ordered = sorted((b for b in bounds if b is not None), key=lambda found: found.low)
        return all(before.high < after.low for before, after in pairwise(ordered))

    def _may_share(self, there: SealedSegment) -> bool:
        bounds = _bounds(there.rows)
        mine = [_bounds(rows) for rows in self.segments]
        return bounds is None or any(
            found is None or (bounds.low <= found.high and found.low <= bounds.high)
            for found in mine
        )


def _lost(slices: Sequence[_Slice], *, first_wins: bool) -> Positions:
    """Return the places, over all slices, whose key another place has and which lose to it."""
    none = np.empty(0, np.int64)
    if not slices:
        return none
    codes = np.concatenate([key_codes(piece.keys) for piece in slices])
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    equal = ordered[1:] == ordered[:-1]
    if not equal.any():
        return none
    alike = np.zeros(len(codes), bool)
    alike[order[1:][equal]] = alike[order[:-1][equal]] = True
    places = np.flatnonzero(alike)  # in the order of the files; the hashes of texts may mislead
    starts = np.cumsum([0, *(len(piece.keys) for piece in slices)])
    taken = [
        piece.keys.take(pa.array(places[(places >= low) & (places < high)] - low))
        for piece, low, high in zip(slices, starts[:-1], starts[1:], strict=True)
    ]
    group = pc.dictionary_encode(pa.concat_arrays(taken)).indices.to_numpy()
    if not first_wins:
        group, places = group[::-1], places[::-1]
    _, winners = np.unique(group, return_index=True)
    lost = np.ones(len(places), bool)
    lost[winners] = False
    return np.sort(places[lost])


def _joined(there: SealedSegment, parts: Sequence[Hits]) -> Hits:
    none = np.empty(0, np.int64)
    return Hits(
        there,
        np.concatenate([none, *(part.old for part in parts)]),
        np.concatenate([none, *(part.segment for part in parts)]),
        np.concatenate([none, *(part.new for part in parts)]),
    )


def _keys_of(rows: SealedRows) -> pa.Array:
    return one_array(rows.files.primary_keys())


def _bounds(rows: SealedRows) -> FieldStatistics | None:
    found = rows.statistics(rows.primary_key)
    return None if found is None or found.low is None else found


def _overlaps(bounds: FieldStatistics | None, span: Span) -> bool:
    low, high = span
    return bounds is None or (
        (low is None or bounds.high >= low) and (high is None or bounds.low < high)
    )


def _within(keys: pa.Array, span: Span) -> tuple[pa.Array, Positions]:
    """Return the keys in a span, and their places."""
    low, high = span
    if low is None and high is None:
        return keys, np.arange(len(keys))
    inside = np.ones(len(keys), bool)
    if low is not None:
        inside &= _compared(pc.greater_equal, keys, low)
    if high is not None:
        inside &= _compared(pc.less, keys, high)
    return keys.filter(pa.array(inside)), np.flatnonzero(inside)


def _compared(compare: Any, keys: pa.Array, bound: Any) -> NDArray[np.bool_]:
    found = compare(keys, pa.scalar(bound, keys.type))
    return np.asarray(found.to_numpy(zero_copy_only=False), bool)
