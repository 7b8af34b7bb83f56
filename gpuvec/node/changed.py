"""Which rows two versions do not share: found by masks over the same segments, not by keys."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec.segment.keys import one_array
from gpuvec.segment.view import SegmentView, Snapshot
from gpuvec.types import RowMask


@dataclass(frozen=True, slots=True)
class Differing:
    """The rows of one segment that one version sees and the other does not.

    Attributes:
        before: the segment as the first version sees it; None: not at all.
        after: as the second one does.
        gone: (rows,) int64, positions that only the first sees.
        come: positions that only the second sees.
    """

    before: SegmentView | None
    after: SegmentView | None
    gone: NDArray[np.int64]
    come: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Changed:
    """Primary keys by what became of their rows."""

    inserted: pa.Array
    updated: pa.Array
    deleted: pa.Array


def differing(
    before: Iterable[SegmentView], after: Iterable[SegmentView], *, whole: bool = False
) -> list[Differing]:
    """Return the segments with rows that two versions do not share.

    Args:
        before: one version.
        after: another, whose segments are the same ones.
        whole: take the rows that both have for different ones.

    Cost: one pass over the masks of segments that not both see whole.
    """
    earlier = {view.segment_id: view for view in before}
    later = {view.segment_id: view for view in after}
    found = []
    for segment_id in {**earlier, **later}:
        first, second = earlier.get(segment_id), later.get(segment_id)
        rows = max(view.num_rows for view in (first, second) if view is not None)
        old, new = _mask(first, rows), _mask(second, rows)
        shared = np.zeros(rows, bool) if whole else old & new
        gone, come = np.flatnonzero(old & ~shared), np.flatnonzero(new & ~shared)
        if len(gone) or len(come):
            found.append(Differing(first, second, gone, come))
    return found


def compare(before: Snapshot, after: Snapshot) -> Changed:
    """Return the keys of rows that two versions do not share; a row written anew is updated."""
    key = before.schema.primary_key
    kind = before.schema[key].arrow_type()
    parts = differing(before, after)
    gone = keys_of(((part.before, part.gone) for part in parts), key, kind)
    come = keys_of(((part.after, part.come) for part in parts), key, kind)
    again = pc.is_in(come, value_set=gone)
    return Changed(
        inserted=come.filter(pc.invert(again)),
        updated=come.filter(again),
        deleted=gone.filter(pc.invert(pc.is_in(gone, value_set=come))),
    )


def keys_of(
    parts: Iterable[tuple[SegmentView | None, NDArray[np.int64]]], key: str, kind: pa.DataType
) -> pa.Array:
    """Return the primary keys of rows of some segments, one after the other."""
    found: Sequence[pa.Array] = [
        one_array(view.scalars([key])[0].take(pa.array(rows)))
        for view, rows in parts
        if view is not None and len(rows)
    ]
    return pa.concat_arrays(found) if found else pa.array([], kind)


def _mask(view: SegmentView | None, rows: int) -> RowMask:
    """Return the visible rows of a segment that has so many, for all versions together."""
    mask = np.zeros(rows, bool)
    if view is not None:
        keep = view.keep()
        mask[: view.num_rows] = True if keep is None else keep
    return mask
