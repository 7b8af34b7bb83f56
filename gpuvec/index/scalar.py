"""Indexes of scalar fields: `Bitmap` and `Sorted`. They answer conditions without reading columns.

A `Bitmap` has the rows of each different value; of list fields, the rows that hold each different
element. A `Sorted` has all rows in order of value, so that ranges are as quick as single values.
Both answer any condition on their field alone that can be looked up; where there are few values
beside the rows, any condition at all, by running it over the values. An answer is exact, with SQL's
three truth values, and never stale: segments do not change.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec.errors import json_index, scalar_index_for
from gpuvec.expr import lists
from gpuvec.expr.bound import BoundColumn, Contains
from gpuvec.expr.tree import Expr, IsNull
from gpuvec.index import scalar_files
from gpuvec.index.base import IndexFile
from gpuvec.index.scalar_build import Column, bitmap_rows, sorted_rows
from gpuvec.index.scalar_rows import DENSE_SHARE, SlotRows
from gpuvec.index.scalar_values import Runs, Slots, Values, either, runs_of
from gpuvec.index.spec import Bitmap, IndexSpec, Sorted
from gpuvec.schema import JSON, FieldType, List
from gpuvec.storage.object_store import Buffer
from gpuvec.types import RowMask

FEW_SHARE = 16  # with less than 1 value in so many rows, a condition is run over all values
ALWAYS_FEW = 64
FEW_ROWS_EACH = 100  # texts with so many rows each, on average, are few


class Answer(Protocol):
    """The rows for which a condition holds, found but not written out."""

    @property
    def count(self) -> int:
        """Rows for which it is true, or more."""

    @property
    def scattered(self) -> int:
        """Rows that `mask` sets one by one: its cost beside a pass over all rows' bits."""

    def mask(self, *, null: bool = False) -> RowMask:
        """Return the rows for which it is true, and with `null` those for which it is null too."""


class ScalarIndex:
    """An index of one scalar field over the rows of one segment. Safe for use by several threads.

    Args:
        spec: `Bitmap()` or `Sorted()`.
        values: the values, or elements of lists, in order; see `Values`.
        rows: the rows of each.
        of_lists: whether the field holds lists.
        mapped: whether all of it lies in mapped files.
    """

    def __init__(
        self,
        spec: IndexSpec,
        values: pa.Array,
        rows: SlotRows,
        *,
        of_lists: bool,
        mapped: bool = False,
    ) -> None:
        self.spec = spec
        self._mapped = mapped
        self._of_lists = of_lists
        self._rows = rows
        self._array = values
        few = len(values) < max(ALWAYS_FEW, rows.num_rows // FEW_SHARE)
        null = np.array([[len(values), len(values) + 1]])
        self._values = Values(values, few=few, has_null=rows.count(null) > 0)

    @property
    def num_rows(self) -> int:
        """Rows of the segment."""
        return self._rows.num_rows

    @property
    def nbytes(self) -> int:
        """Bytes of values, lists of rows and bit sets, mapped ones too."""
        return int(self._array.nbytes) + self._rows.nbytes

    @property
    def held_bytes(self) -> int:
        """Bytes of them that lie in the process's own memory."""
        return 0 if self._mapped else self.nbytes

    def ask(self, node: Expr) -> Answer | None:
        """Return the rows for which a condition holds; None if this index cannot tell.

        Args:
            node: a bound condition that reads the index's field and no other column.

        Cost: for a comparison a binary search; the rows are written out by `Answer.mask`.
        """
        if self._of_lists:
            return self._ask_lists(node)
        found = self._values.find(node)
        return None if found is None else _OneSet(self._rows, found)

    def _ask_lists(self, node: Expr) -> Answer | None:
        null = runs_of(np.arange(self._values.slots) == self._values.null)
        match node:
            case IsNull(operand=BoundColumn()):
                return _OneSet(self._rows, Slots(null, null))
            case Contains(operand=BoundColumn()):
                pairs = lists.matches(node.groups[0], self._array)
                if node.mode == "any":
                    found = self._slots(pairs[:, 0])
                    return _OneSet(self._rows, Slots(found, either(found, null)))
                numbers = np.unique(pairs[:, 1])
                if len(numbers) < node.needed:
                    return _OneSet(self._rows, Slots(null[:0], null))
                wanted = [self._slots(pairs[pairs[:, 1] == number, 0]) for number in numbers]
                return _AllSets(self._rows, tuple(wanted), null)
        return None

    def _slots(self, places: NDArray[np.int64]) -> Runs:
        hit = np.zeros(self._values.slots, bool)
        hit[places] = True
        return runs_of(hit)

    def files(self) -> Mapping[str, Sequence[Buffer]]:
        """Return file name to content, from which `load` makes an equal index."""
        return scalar_files.files(self._array, self._rows, of_lists=self._of_lists)


@dataclass(frozen=True, slots=True, eq=False)
class _OneSet:
    """The rows of one set of slots."""

    rows: SlotRows
    slots: Slots

    @property
    def count(self) -> int:
        """See `Answer.count`."""
        return self.rows.count(self.slots.sure)

    @property
    def scattered(self) -> int:
        """See `Answer.scattered`."""
        return self.rows.scattered(self.slots.sure)

    def mask(self, *, null: bool = False) -> RowMask:
        """See `Answer.mask`."""
        return self.rows.mask(self.slots.possible if null else self.slots.sure)


@dataclass(frozen=True, slots=True, eq=False)
class _AllSets:
    """The rows that are in every one of some sets of slots; of none at all, all but the null."""

    rows: SlotRows
    wanted: tuple[Runs, ...]
    null: Runs

    @property
    def count(self) -> int:
        """See `Answer.count`."""
        return min(map(self.rows.count, self.wanted), default=self.rows.num_rows)

    @property
    def scattered(self) -> int:
        """See `Answer.scattered`."""
        return sum(map(self.rows.scattered, self.wanted))

    def mask(self, *, null: bool = False) -> RowMask:
        """See `Answer.mask`."""
        empty = self.rows.mask(self.null)
        masks = map(self.rows.mask, self.wanted)
        found = reduce(np.logical_and, masks) if self.wanted else ~empty
        return found | empty if null else found


def build(spec: IndexSpec, column: Column) -> ScalarIndex:
    """Build an index over one scalar column of a segment.

    Args:
        spec: `Bitmap()` or `Sorted()`.
        column: an Arrow array, or chunks, of all rows; see `check_field` for its type.

    Cost: mostly sorting the different values; about half a second for a million different texts.
    """
    make = bitmap_rows if isinstance(spec, Bitmap) else sorted_rows
    values, rows = make(column)
    return ScalarIndex(spec, values, rows, of_lists=pa.types.is_list(column.type))


def load(spec: IndexSpec, files: Mapping[str, IndexFile]) -> ScalarIndex:
    """Make an index from the files of one that was built; nothing is copied.

    Raises:
        UnsupportedError: `GV-342`, a layout of files that this version of gpuvec does not know.
    """
    values, rows, of_lists = scalar_files.read(files)
    mapped = all(file.path is not None for file in files.values())
    return ScalarIndex(spec, values, rows, of_lists=of_lists, mapped=mapped)


def choose(column: Column) -> IndexSpec:
    """Return the index that serves a scalar column best: `Bitmap` where there are few values.

    Texts are mostly looked up, numbers and instants compared, which is quick by `Bitmap` only where
    every value has a bit set.
    """
    if pa.types.is_list(column.type):
        return Bitmap()
    most = len(column) // FEW_ROWS_EACH if pa.types.is_string(column.type) else DENSE_SHARE
    return Bitmap() if pc.count_distinct(column).as_py() <= max(most, DENSE_SHARE) else Sorted()


def build_bytes(spec: IndexSpec, rows: int, column_bytes: int) -> dict[str, int]:
    """Return an estimate of a build's peak memory, part by part.

    Args:
        spec: `Bitmap()` or `Sorted()`.
        rows: of the column; of lists, their elements.
        column_bytes: of the column.

    Returns:
        part to bytes: "index" at most stays for searches, "sorting" is temporary.
    """
    marks = 0 if isinstance(spec, Bitmap) else 2 * rows
    return {"index": column_bytes + 8 * rows + marks, "sorting": 40 * rows + column_bytes}


def check_field(spec: IndexSpec, name: str, kind: FieldType) -> None:
    """Check that a scalar index can be made of a field.

    Raises:
        QueryError: `GV-340`, the field holds vectors, or lists for `Sorted`.
        UnsupportedError: `GV-341`, a JSON field.
    """
    if isinstance(kind, JSON):
        raise json_index(type(spec).__name__, name)
    if kind.is_vector or (isinstance(kind, List) and not isinstance(spec, Bitmap)):
        raise scalar_index_for(type(spec).__name__, name, kind)
