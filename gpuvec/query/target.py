"""What a search goes through: the rows of one segment, with what is derived from them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec.device.residency import DeviceStore
from gpuvec.device.rows import DeviceRows
from gpuvec.index import registry
from gpuvec.index.base import ApproximateIndex, VectorIndex
from gpuvec.index.curve import RecallCurve
from gpuvec.index.keep import Keep, passing_rows
from gpuvec.kernels.bitset import BitSet, both
from gpuvec.once import cached_property
from gpuvec.query.calibrate import Calibrator
from gpuvec.query.indexed import index_unused
from gpuvec.query.part import Part, numpy_numbers
from gpuvec.query.plan import Columns, Search
from gpuvec.query.reduce import IntArray
from gpuvec.query.row_set import RowSet
from gpuvec.query.session import Session
from gpuvec.query.strategy import IndexInfo
from gpuvec.rows import DenseVectors, SparseVectors, VectorColumn
from gpuvec.segment.view import SegmentIndex
from gpuvec.storage.mapping import place_of
from gpuvec.types import Metric, RowMask

Index = TypeVar("Index", bound=VectorIndex | ApproximateIndex)


@dataclass(frozen=True, slots=True, eq=False)
class _Opened(Generic[Index]):
    """An index, and what is known of its vectors since they were read.

    Attributes:
        copied_bytes: of vectors that only the index holds.
        is_resident: they are of a bucket's file, read into memory.
    """

    index: Index
    copied_bytes: int
    is_resident: bool


@dataclass(frozen=True, eq=False)
class Target:
    """One part to be searched, numbered as `base` is.

    Attributes:
        base: all rows, also those that the mask hides.
        rows: those that may be found; None: all.
        start: rows of the input before these, hidden ones too.
        count: how many they are.
        cache_key: segment id and generation; None when nothing outlives the query.
        indexed: the index of the field, when the search may use it.
        copied_bytes: of vectors that only this target holds.
        owner: the collection's name, by which it is pinned on a card.
        unused: why the field has an index that the session's device cannot search; "" otherwise.
    """

    base: Part
    rows: RowSet | None
    start: int
    count: int
    field: str
    metric: Metric
    primary_key: str | None
    session: Session
    cache_key: tuple[Any, ...] | None
    indexed: SegmentIndex | None = None
    copied_bytes: int = 0
    owner: str = ""
    unused: str = ""

    def _cached(self, what: tuple[Any, ...], make: Any, size: Any) -> Any:
        if self.cache_key is None:
            return make()
        return self.session.cache.get((*self.cache_key, *what), make, size)

    @property
    def keep(self) -> RowMask | None:
        """The rows that may be found, as a mask on the host; None: all."""
        return None if self.rows is None else self.rows.mask

    @cached_property
    def selection(self) -> Keep | None:
        """The rows that may be found, as indexes of the session's device take them; None: all."""
        if self.rows is None:
            return None
        dense = self.session.device == "gpu" and not self._is_sparse
        return self.rows.bits(self.session, self.owner) if dense else self.rows.mask

    @property
    def _is_sparse(self) -> bool:
        return isinstance(self.base.column(self.field), SparseVectors)

    @property
    def exact(self) -> VectorIndex:
        """The exact index over the part's vectors."""
        return self._exact.index

    @cached_property
    def _exact(self) -> "_Opened[VectorIndex]":
        def make() -> _Opened[VectorIndex]:
            column, resident = self._column()
            copied = self.copied_bytes + resident
            return _Opened(registry.exact(column, self.metric), copied, resident > 0)

        found: _Opened[VectorIndex] = self._cached(
            ("exact", self.field, self.metric), make, _opened_bytes
        )
        return found

    def _column(self) -> tuple[VectorColumn, int]:
        """Return the vectors for the device that searches them; and bytes held for them here."""
        stored: VectorColumn = self.base.column(self.field)
        if self._store is None or isinstance(stored, SparseVectors):
            column = stored.loaded()
            return column, stored.resident_bytes
        rows = self._on_device(
            stored.shape, stored.dtype, lambda: stored.loaded().values, self.field,
            place=lambda: place_of(stored.loaded().values),
        )  # fmt: skip
        return DenseVectors(rows, stored.valid), 0

    @cached_property
    def _store(self) -> DeviceStore | None:
        """Where what the part has on the card is kept; None on the CPU."""
        store = self.session.device_store
        return store if store is None or self.cache_key is not None else store.scope()

    def _on_device(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        read: Callable[[], NDArray[Any]],
        name: str,
        part: str = "vectors",
        place: Callable[[], tuple[str, int] | None] = lambda: None,
    ) -> DeviceRows:
        """Return a column of the part for the device; `read` gives it in host memory."""
        assert self._store is not None
        key = (*(self.cache_key or (id(self), 0)), part, name)
        return DeviceRows(
            shape, dtype, read, self._store, key, part=part, owner=self.owner, place=place
        )

    @property
    def approximate(self) -> ApproximateIndex:
        """What `indexed` names, opened."""
        return self._approximate.index

    @cached_property
    def _approximate(self) -> "_Opened[ApproximateIndex]":
        found = self.indexed
        assert found is not None

        def make() -> _Opened[ApproximateIndex]:
            column, resident = self._column()
            assert isinstance(column, DenseVectors)  # no other kind has such an index
            engine = None if self._curve is None else self._curve.engine
            index = registry.load(found.spec, column, self.metric, found.files(), engine=engine)
            return _Opened(index, resident, resident > 0)

        opened: _Opened[ApproximateIndex] = self._cached(
            ("index", found.index_id), make, _opened_bytes
        )
        return opened

    def let_go(self) -> None:
        """Leave it to the cache whether vectors that had to be read into memory stay there."""
        if self.cache_key is None:
            return
        for name in ("_exact", "_approximate"):
            opened = self.__dict__.get(name)
            if opened is not None and opened.is_resident:
                self.__dict__.pop(name, None)

    @property
    def _curve(self) -> RecallCurve | None:
        """What was measured of `indexed` where it is searched, by the library that searches it."""
        assert self.indexed is not None
        curve = self.indexed.curve(self.session.device)
        there = curve is None or registry.is_served(curve.engine, self.indexed.spec)
        return curve if there else None

    @cached_property
    def calibrator(self) -> Calibrator:
        """What was measured of `indexed`, and what real queries have shown since."""
        found = self.indexed
        assert found is not None

        def make() -> Calibrator:
            return Calibrator(IndexInfo(spec=found.spec, target=found.target, curve=self._curve))

        calibrator: Calibrator = self._cached(
            ("curve", found.index_id, found.target), make, lambda _: 0
        )
        return calibrator

    def searchable(self, keep: Keep | None, passing: int) -> int:
        """Return how many of the rows that pass a mask have a vector."""
        valid = self.base.column(self.field).valid
        if valid is None:
            return passing
        if isinstance(keep, BitSet):
            return passing_rows(both(keep, self._have_vectors.bits(self.session, self.owner)))
        return int(np.count_nonzero(valid if keep is None else valid & keep))

    @property
    def _have_vectors(self) -> RowSet:
        """The rows whose vector is not null; some are."""
        key = self.cache_key
        name = None if key is None else (*key, "bits", "valid", self.field)
        return RowSet(self.base.column(self.field).valid, lambda: name)

    @cached_property
    def keys(self) -> IntArray | None:
        """(rows,) int64 primary keys; None when there is none or it is text."""
        if self.primary_key is None:
            return None

        def make() -> IntArray | None:
            column = self.base.column(str(self.primary_key))
            if not pa.types.is_integer(column.type):
                return None
            return numpy_numbers(column).astype(np.int64, copy=False)

        found: IntArray | None = self._cached(("keys", self.primary_key), make, _array_bytes)
        return found

    @cached_property
    def ties(self) -> IntArray | DeviceRows | None:
        """`tie_rank`, where the part's vectors are searched."""
        ranks = self.tie_rank
        if ranks is None or self._store is None or self._is_sparse:
            return ranks
        return self._on_device(
            ranks.shape, ranks.dtype, lambda: ranks, str(self.primary_key), "frames"
        )

    @cached_property
    def tie_rank(self) -> IntArray | None:
        """(rows,) order of the rows by primary key; None when that is row order."""
        if self.primary_key is None:
            return None

        def make() -> IntArray | None:
            values: Any = self.keys
            if values is None:
                column = self.base.column(str(self.primary_key))
                values = text_ranks(column)
            if bool((values[1:] >= values[:-1]).all()):
                return None
            return np.asarray(values)

        found: IntArray | None = self._cached(("ties", self.primary_key), make, _array_bytes)
        return found


def make_targets(parts: Iterable[Part], node: Search, session: Session) -> list[Target]:
    """Return parts as what a search goes through."""
    columns, usable = node.input.columns, not index_unused(node)
    return field_targets(parts, columns, node.field, node.metric, session, usable=usable)


def field_targets(
    parts: Iterable[Part],
    columns: Columns,
    field: str,
    metric: Metric,
    session: Session,
    *,
    usable: bool = True,
) -> list[Target]:
    """Return parts as what searches of a field go through; `usable`: by its indexes too."""
    found: list[Target] = []
    start = 0
    for part in parts:
        found.append(_make_target(part, columns, field, metric, session, start, usable))
        start = found[-1].start + found[-1].base.num_rows
    return found


def _make_target(
    part: Part,
    columns: Columns,
    field: str,
    metric: Metric,
    session: Session,
    start: int,
    usable: bool,
) -> Target:
    origin, pk = part.origin, columns.primary_key
    if origin is None:
        return Target(part, None, start, part.num_rows, field, metric, pk, session, None)
    key = None
    kept = not getattr(origin.view, "transient", False)
    if kept and origin.computed.isdisjoint((field, pk)):
        key = (origin.view.segment_id, origin.view.generation)
    index = origin.view.index(field) if usable else None
    unused = "" if index is None else registry.why_not_on(session.device, index.spec, metric)
    return Target(
        origin.base, origin.rows, origin.start, part.num_rows,
        field, metric, pk, session, key, None if unused else index,
        owner=columns.name, unused=unused,
    )  # fmt: skip


def text_ranks(column: Any) -> IntArray:
    """Return (n,) int64 that orders texts; equal ones have one number."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    ranks: IntArray = numpy_numbers(pc.rank(column, tiebreaker="dense")).astype(np.int64)
    return ranks


def _opened_bytes(opened: _Opened[Any]) -> int:
    return int(opened.index.nbytes + opened.copied_bytes)


def _array_bytes(value: NDArray[Any] | None) -> int:
    return 0 if value is None else value.nbytes
