"""Which segments to write anew, and which together: pure decisions from their sizes.

Live segments (with rows that are still there) are merged with others of their size: `FAN_IN` of one
*tier* become one of the next, until they are a quarter as large as wanted. A live segment of which
more than `DEAD_SHARE` is deleted is written anew, and what of it old versions still need goes into
a *history* segment, which reads of the newest version pass over. Segments of which no version needs
anything go without being read.

How often a row is written: once by its flush; once per tier it climbs, at most
log(wanted / flushed size) to the base `FAN_IN`; (1 - DEAD_SHARE) / DEAD_SHARE = 4 times for each
row that is replaced or deleted, by the segments that shed it; and into history, where that is
merged too. One job runs at a time, those that shed most first: what falls behind sheds more per row
that it writes, so the factor falls as the load grows.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from gpuvec.messages import SegmentWeight
from gpuvec.types import SegmentId

FAN_IN = 4
DEAD_SHARE = 0.2
LEAST_BYTES = 64 << 10  # the second tier begins at FAN_IN times as much
_MOST_INPUTS = 32
_HISTORY_FAN_IN = 8
_HISTORY_SHARE = 16  # history is merged up to this part of the wanted size
_MOST_FORCED = 16  # outputs of one step where all is merged
_CROWD = 64  # segments that wait to be merged in one place: more slow every search
_CROWD_ROWS = 200_000  # dead rows among live ones that nobody feels


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How large segments shall be: neither beyond these bytes nor beyond these rows."""

    size_bytes: int
    rows: int = 1_000_000

    def is_full(self, weight: SegmentWeight) -> bool:
        """Return whether a segment is large enough to stay as it is."""
        return FAN_IN * weight.live_bytes > self.size_bytes or FAN_IN * weight.live > self.rows

    def count(self, weights: Iterable[SegmentWeight]) -> int:
        """Return into how many segments the live rows of some go."""
        found = list(weights)
        size, rows = sum(w.live_bytes for w in found), sum(w.live for w in found)
        return max(-(-size // self.size_bytes), -(-rows // self.rows))


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """Segments of one place whose rows shall be in others.

    Attributes:
        reads_bytes: of the inputs, as far as their rows are kept: what is written.
    """

    inputs: tuple[SegmentId, ...]
    reads_bytes: int


def plan_compaction(weights: Sequence[SegmentWeight], wanted: Wanted) -> list[Rewrite]:
    """Return what is due, each segment at most once, the most useful first.

    Useful is what costs nothing, then what sheds more than it writes, then merges of the smallest,
    then the rest.
    """
    dropped = _dropped(weights)
    left = [weight for weight in weights if weight.kept]
    live = [weight for weight in left if weight.live]
    half_dead = [weight for weight in live if weight.dead_share > 0.5]
    merges = list(_live_merges([w for w in live if w.dead_share <= 0.5], wanted))
    merges += _history_merges([w for w in left if not w.live], wanted)
    taken = {name for merge in merges for name in merge.inputs}
    rest = [
        weight
        for weight in live
        if weight.segment_id not in taken and DEAD_SHARE < weight.dead_share <= 0.5
    ]
    return [*dropped, *_alone(half_dead), *merges, *_alone(rest)]


def plan_all(weights: Sequence[SegmentWeight], wanted: Wanted) -> list[Rewrite]:
    """Return what brings live rows into as few segments as their size allows."""
    found = _dropped(weights)
    live = [weight for weight in weights if weight.live]
    for _, place in _places(live):
        whole = [w for w in place if w.dead_share == 0 and _is_whole(w, wanted)]
        rest = [w for w in place if w not in whole]
        found += [
            _rewrite(step)
            for step in _portions(rest, _MOST_FORCED * wanted.size_bytes, len(rest))
            if wanted.count(step) < len(step) or any(w.dead_share for w in step)
        ]
    return found


def plan_vacuum(weights: Sequence[SegmentWeight]) -> list[Rewrite]:
    """Return what removes every row that no version needs."""
    garbage = [weight for weight in weights if 0 < weight.kept < weight.rows]
    return [*_dropped(weights), *_alone(garbage)]


def pressure(weights: Sequence[SegmentWeight], wanted: Wanted) -> float:
    """Return how far compaction is behind; from 1 on writes shall slow down.

    It is the larger of two: segments that wait to be merged, and dead rows that searches pass over,
    beside what is bearable of each.
    """
    live = [weight for weight in weights if weight.live]
    small = (sum(not wanted.is_full(w) for w in place) for _, place in _places(live))
    dead = sum(weight.rows - weight.live for weight in live)
    bearable = max(_CROWD_ROWS, 2 * sum(weight.live for weight in live))
    return max(max(small, default=0) / _CROWD, dead / bearable)


def tier(size_bytes: int) -> int:
    """Return how many times segments of the smallest size were merged to be so large."""
    level = 0
    while size_bytes >= LEAST_BYTES * FAN_IN ** (level + 1):
        level += 1
    return level


def _live_merges(weights: Sequence[SegmentWeight], wanted: Wanted) -> Iterable[Rewrite]:
    small = [weight for weight in weights if not wanted.is_full(weight)]
    for step in _steps(small, wanted):
        if len(step) >= FAN_IN:
            yield _rewrite(step)


def _history_merges(weights: Sequence[SegmentWeight], wanted: Wanted) -> Iterable[Rewrite]:
    least = wanted.size_bytes // _HISTORY_SHARE
    small = [weight for weight in weights if weight.kept_bytes < least]
    taken: set[SegmentId] = set()
    for step in _steps(small, wanted):
        if len(step) >= _HISTORY_FAN_IN:
            taken.update(weight.segment_id for weight in step)
            yield _rewrite(step)
    garbage = [w for w in weights if w.segment_id not in taken and 2 * w.kept < w.rows]
    yield from _alone(garbage)


def _steps(weights: Sequence[SegmentWeight], wanted: Wanted) -> Iterable[list[SegmentWeight]]:
    """Yield segments of one place and tier, as many as may be written together."""

    def level(weight: SegmentWeight) -> int:
        return tier(weight.live_bytes or weight.kept_bytes)

    for _, place in _places(weights):
        for _, same in groupby(sorted(place, key=level), key=level):
            yield from _portions(list(same), wanted.size_bytes, _MOST_INPUTS)


def _places(
    weights: Iterable[SegmentWeight],
) -> list[tuple[tuple[str, str, int], list[SegmentWeight]]]:
    """Return segments that may be written together, oldest first."""
    found: dict[tuple[str, str, int], list[SegmentWeight]] = {}
    for weight in sorted(weights, key=lambda w: w.segment_id):
        place = (weight.channel, weight.partition, weight.layout)
        found.setdefault(place, []).append(weight)
    return sorted(found.items())


def _portions(
    weights: Sequence[SegmentWeight], most_bytes: int, most: int
) -> Iterable[list[SegmentWeight]]:
    """Yield neighbours that are not too large nor too many to be written together."""
    portion: list[SegmentWeight] = []
    for weight in weights:
        size = sum(other.kept_bytes for other in portion) + weight.kept_bytes
        if portion and (size > most_bytes or len(portion) == most):
            yield portion
            portion = []
        portion.append(weight)
    if portion:
        yield portion


def _is_whole(weight: SegmentWeight, wanted: Wanted) -> bool:
    """Return whether merging could not make a segment larger."""
    return weight.size_bytes > 0.8 * wanted.size_bytes or weight.rows > 0.8 * wanted.rows


def _dropped(weights: Iterable[SegmentWeight]) -> list[Rewrite]:
    """Return the segments of which nothing is needed, those of a channel together."""
    names: dict[str, list[SegmentId]] = {}
    for weight in sorted(weights, key=lambda w: w.segment_id):
        if not weight.kept:
            names.setdefault(weight.channel, []).append(weight.segment_id)
    return [Rewrite(inputs=tuple(found), reads_bytes=0) for _, found in sorted(names.items())]


def _alone(weights: Iterable[SegmentWeight]) -> list[Rewrite]:
    return [_rewrite([w]) for w in sorted(weights, key=lambda w: (-w.dead_share, w.segment_id))]


def _rewrite(weights: Sequence[SegmentWeight]) -> Rewrite:
    return Rewrite(
        inputs=tuple(weight.segment_id for weight in weights),
        reads_bytes=sum(weight.kept_bytes for weight in weights),
    )
