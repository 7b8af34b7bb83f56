"""Filters on the card: a segment's scalars lie there, conditions run there, and bits stay there.

Columns go up when a filter of a search first needs them and stay while the budget has room; so do
the bits of a condition. What the card cannot say, or hold, runs on the host; of it only bits go up.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import pyarrow as pa

from gpuvec.device.columns import ColumnEngine, column_engine
from gpuvec.device.fallback import fall_back
from gpuvec.device.program import Op, columns_of, walk
from gpuvec.device.residency import DeviceStore, Key
from gpuvec.errors import DeviceMemoryError
from gpuvec.expr.bound import Bound
from gpuvec.expr.on_device import Split, split
from gpuvec.index.keep import as_bits
from gpuvec.kernels.bitset import WORD, BitSet, both
from gpuvec.query.part import Origin, chunks_of
from gpuvec.query.row_set import Name, RowSet
from gpuvec.query.session import Session
from gpuvec.types import RowMask

_ROW_BYTES = 9  # of a temporary column: 8 bytes and its null bit, rounded up
_SLACK_BYTES = 4096  # of a column's buffers, each rounded up

_splits: WeakKeyDictionary[Bound, Split] = WeakKeyDictionary()


def filtered(
    bound: Bound,
    origin: Origin,
    session: Session,
    name: Name | None,
    host: Callable[[Bound], RowMask],
    *,
    reads_on: bool,
    owner: str = "",
) -> RowSet | None:
    """Return the rows of a segment's part for which a condition is true, made on the card.

    Args:
        bound: the condition.
        origin: the part.
        session: with a device.
        name: of the rows that pass.
        host: runs a condition on the host, over all rows.
        reads_on: whether columns may go up for it; else only what lies on the card is used.
        owner: the collection, see `DeviceStore.use`.

    Returns:
        None where the host does it all; it was said why, if that is work for a card.
    """
    store = session.device_store
    assert store is not None
    rows = origin.base.num_rows
    if name is not None and store.has(name):
        with store.use(name, 0, _no_make, part="bits") as bits:
            return RowSet(bits, lambda: name)
    engine = column_engine()
    found = _split(bound, origin, engine, said=not reads_on)
    if engine is None or found.program is None:
        return None
    filters = _Filter(origin, session, store, engine, owner)
    if not reads_on and not filters.has(found.program):
        return None

    def make() -> BitSet:
        sets = [filters.bits(found.program)]
        if found.rest is not None:
            sets.append(as_bits(host(found.rest)))
        if origin.rows is not None:
            sets.append(origin.rows.bits(session, owner))
        return both(*sets)

    def work() -> RowSet:
        if name is None:
            return RowSet(make())
        size = -(-rows // WORD) * WORD // 8
        with store.use(name, size, make, part="bits", owner=owner) as bits:
            return RowSet(bits, lambda: name)

    try:
        return store.run(work, what="a filter")
    except DeviceMemoryError as error:
        fall_back("a filter", f"its columns do not fit into device memory ({error.code})")
        return None
    except _TooLong:
        fall_back("a filter", "a text column of a segment is longer than 2 GiB")
        return None


def _no_make() -> Any:
    raise AssertionError("bits that were there are not")


def _split(bound: Bound, origin: Origin, engine: ColumnEngine | None, *, said: bool) -> Split:
    """Return what of a condition the card does; warn of what it does not, unless it was said."""
    why = ""
    if engine is None:
        why = "cuDF is not installed; gpuvec doctor tells what to install"
    elif not origin.computed.isdisjoint(bound.columns):
        why = "it reads columns that are computed"
    elif getattr(origin.view, "transient", False):
        why = "it reads files of which nothing is kept"
    if bound not in _splits:
        _splits[bound] = split(bound)
    found = Split(None, bound, ()) if why else _splits[bound]
    if not said:
        if why:
            fall_back("a filter", why)
        for reason in found.reasons:
            fall_back(f"a filter with {reason}", "a card cannot say it as exactly")
    return found


class _TooLong(Exception):
    """A column that no device column can hold."""


class _Filter:
    """Runs programs over the columns of one segment."""

    def __init__(
        self,
        origin: Origin,
        session: Session,
        store: DeviceStore,
        engine: ColumnEngine,
        owner: str,
    ) -> None:
        self._origin = origin
        self._session = session
        self._store = store
        self._engine = engine
        self._owner = owner
        self._rows = origin.base.num_rows

    def has(self, program: Op) -> bool:
        """Return whether all columns of a program lie on the card."""
        return all(self._store.has(self._key(name)) for name in columns_of(program))

    def bits(self, program: Op | None) -> BitSet:
        """Return the rows for which a condition is true."""
        assert program is not None
        kinds = {str(op.value): op.kind for op in walk(program) if op.name == "column"}
        steps = sum(op.name not in ("column", "constant") for op in walk(program))
        scratch = self._rows * _ROW_BYTES * max(1, steps)
        with ExitStack() as stack:
            columns = {
                name: stack.enter_context(
                    self._store.use(
                        self._key(name), self._size(name), partial(self._put, name, kind),
                        part="frames", owner=self._owner,
                    )
                )
                for name, kind in kinds.items()
            }  # fmt: skip
            stack.enter_context(self._store.budget.scratch(scratch, scratch, what="a filter"))
            return BitSet(self._engine.words(program, columns, self._rows), self._rows)

    def _put(self, name: str, kind: pa.DataType) -> Any:
        return self._engine.put(one_array(self._origin.base.column(name), kind))

    def _size(self, name: str) -> int:
        """Return the bytes of a column on the card; read once from the host."""

        def make() -> int:
            column = self._origin.base.column(name)
            wide = self._rows if pa.types.is_boolean(column.type) else 0  # a byte each, not a bit
            return int(column.nbytes) + wide + _SLACK_BYTES

        size: int = self._session.cache.get(
            (*self._segment, "bytes", name), make, lambda _: _SLACK_BYTES // 8
        )
        return size

    @property
    def _segment(self) -> Key:
        return self._origin.view.segment_id, self._origin.view.generation

    def _key(self, name: str) -> Key:
        return (*self._segment, "frame", name)


def one_array(column: Any, kind: pa.DataType) -> pa.Array:
    """Return a column as one Arrow array of a type.

    Raises:
        _TooLong: its texts do not fit into one.
    """
    chunks = [chunk if chunk.type == kind else chunk.cast(kind) for chunk in chunks_of(column)]
    if len(chunks) == 1:
        return chunks[0]
    try:
        return pa.concat_arrays(chunks or [pa.array([], kind)])
    except pa.ArrowInvalid as error:
        raise _TooLong from error
