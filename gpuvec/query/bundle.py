"""Many small segments searched as one: a scan of a few rows costs more to start than to run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpuvec.index.keep import Keep, joined
from gpuvec.kernels.neighbors import Neighbors, in_parts
from gpuvec.query.part import concat_parts
from gpuvec.query.reduce import IntArray
from gpuvec.query.target import Target
from gpuvec.rows import DenseVectors

SMALL_ROWS = 8192
SMALL_ON_DEVICE = 1 << 16  # there starting costs as much as scanning more rows
FEWEST = 4  # segments that are worth joining
_SHARE = 4  # of the cache, that joined vectors may take at most


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """One or several targets, as one.

    Attributes:
        target: what is searched.
        numbers: which targets it holds, rising.
        offsets: (numbers + 1,) where the rows of each begin in `target`.
    """

    target: Target
    numbers: Sequence[int]
    offsets: IntArray

    def mask(self, masks: Sequence[Keep | None]) -> Keep | None:
        """Return the rows of `target` that the masks of all targets keep."""
        if len(self.numbers) == 1:
            return masks[self.numbers[0]]
        own = [masks[number] for number in self.numbers]
        return joined(own, np.diff(self.offsets).tolist())

    def places(self, found: Neighbors) -> tuple[Neighbors, IntArray]:
        """Return neighbours in `target` with their rows in its own targets, and which those are."""
        if len(self.numbers) == 1:
            return found, np.full(found.rows.shape, self.numbers[0], np.int64)
        place, inside = in_parts(found.rows, self.offsets)
        return Neighbors(inside, found.distances), np.asarray(self.numbers)[place]


class JoinedVectors(DenseVectors):
    """Columns of one width and dtype, one after the other; joined anew each time they are read."""

    __slots__ = ("_columns",)

    def __init__(self, columns: Sequence[DenseVectors]) -> None:
        object.__setattr__(self, "_columns", tuple(columns))

    _columns: tuple[DenseVectors, ...]

    @property
    def values(self) -> Any:
        """See `DenseVectors.values`."""
        return np.concatenate([column.loaded().values for column in self._columns])

    @property
    def valid(self) -> Any:
        """See `DenseVectors.valid`."""
        masks = [column.valid for column in self._columns]
        if all(mask is None for mask in masks):
            return None
        return np.concatenate(
            [np.ones(len(column), bool) if mask is None else mask
             for column, mask in zip(self._columns, masks, strict=True)]
        )  # fmt: skip

    def __len__(self) -> int:
        return sum(map(len, self._columns))

    @property
    def shape(self) -> tuple[int, int]:
        """See `DenseVectors.shape`."""
        return len(self), self._columns[0].shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """See `DenseVectors.dtype`."""
        return self._columns[0].dtype

    @property
    def nbytes(self) -> int:
        """See `DenseVectors.nbytes`."""
        return sum(column.nbytes for column in self._columns)

    def loaded(self) -> DenseVectors:
        """See `DenseVectors.loaded`."""
        return DenseVectors(self.values, self.valid)


def bundles(targets: Sequence[Target], numbers: Sequence[int]) -> list[Bundle]:
    """Return some targets, small ones together when they were asked for together before.

    Those with an index come first: scans after them gain most by what is found already.
    """
    small = [number for number in numbers if _is_small(targets[number])]
    joined = _join(targets, small) if len(small) >= FEWEST else None
    found = [] if joined is None else [joined]
    alone = numbers if joined is None else sorted({*numbers} - {*small})
    single = [_single(targets[number], number) for number in alone]
    return sorted(single + found, key=lambda bundle: bundle.target.indexed is None)


def _is_small(target: Target) -> bool:
    """Return whether a target is scanned, small, and never changes."""
    most = SMALL_ROWS if target.session.device_store is None else SMALL_ON_DEVICE
    scanned = target.base.num_rows <= most and target.indexed is None
    return scanned and target.cache_key is not None and target.cache_key[1] == 0


def _single(target: Target, number: int) -> Bundle:
    return Bundle(target, (number,), np.array([0, target.base.num_rows]))


def _join(targets: Sequence[Target], numbers: Sequence[int]) -> Bundle | None:
    first = targets[numbers[0]]
    own = [targets[number] for number in numbers]
    key = (tuple(target.cache_key for target in own), 0)
    cache = first.session.cache
    asked: list[None] = cache.get((*key, "asked"), list, lambda _: 64 * len(own))
    if not asked:  # filters of all kinds leave all kinds of segments
        asked.append(None)
        return None
    columns = [target.base.column(first.field) for target in own]
    if not all(isinstance(column, DenseVectors) for column in columns):
        return None
    size = sum(column.nbytes for column in columns)
    store = first.session.device_store
    most = cache.budget_bytes if store is None else store.budget.resident_limit
    if size > most // _SHARE:
        return None
    base = concat_parts([target.base for target in own])
    if store is not None:  # the card alone holds them side by side
        joined = JoinedVectors(columns)
        base = base.derive([first.field], lambda *_: joined)
    whole = replace(
        first, base=base, rows=None, count=sum(target.count for target in own),
        cache_key=key, copied_bytes=size if store is None else 0,
    )  # fmt: skip
    offsets = np.cumsum([0, *(target.base.num_rows for target in own)])
    return Bundle(whole, tuple(numbers), offsets)
