"""A segment's scalar columns on the card: each goes up when it is first needed, and stays."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import pyarrow as pa

from gpuvec.device.columns import ColumnEngine, ColumnRefusedError, column_engine
from gpuvec.device.residency import DeviceStore, Key
from gpuvec.kernels.predicate import PlainColumns
from gpuvec.query import plan as p
from gpuvec.query.part import Origin, chunks_of
from gpuvec.query.session import Session

_PLAIN = PlainColumns()
_SLACK_BYTES = 4096  # of a column's buffers, each rounded up


class DeviceColumns:
    """The columns of one segment, read through a part of it.

    Args:
        origin: the part; its own columns alone, none that is computed.
        session: with a device.
        engine: holds columns there.
        owner: the collection, see `DeviceStore.use`.
    """

    def __init__(
        self, origin: Origin, session: Session, engine: ColumnEngine, owner: str = ""
    ) -> None:
        assert session.device_store is not None
        self.store: DeviceStore = session.device_store
        self.engine = engine
        self.rows = origin.base.num_rows
        self._origin = origin
        self._session = session
        self._owner = owner

    def has(self, name: str) -> bool:
        """Return whether a column lies on the card."""
        return self.store.has(self._key(name))

    @contextmanager
    def held(self, kinds: Mapping[str, pa.DataType]) -> Iterator[dict[str, Any]]:
        """Hold columns on the card while a block runs; those that are not there go up.

        Args:
            kinds: the Arrow type of each column.

        Raises:
            DeviceMemoryError: `GV-903`, there is no room for them.
            ColumnRefusedError: one cannot lie there.
        """
        with ExitStack() as stack:
            yield {name: stack.enter_context(self._use(name, kinds[name])) for name in kinds}

    def _use(self, name: str, kind: pa.DataType) -> Any:
        make = partial(self._put, name, kind)
        size = self._size(name)
        return self.store.use(self._key(name), size, make, part="frames", owner=self._owner)

    def _put(self, name: str, kind: pa.DataType) -> Any:
        try:
            return self.engine.put(one_array(self._origin.base.column(name), kind))
        except ColumnRefusedError:
            self.refused.add(name)
            raise

    @property
    def refused(self) -> set[str]:
        """The columns that were found not to be able to lie on the card."""
        found: set[str] = self._session.cache.get(
            (*self._segment, "refused"), set, lambda _: 64 * len(self._segment)
        )
        return found

    def _size(self, name: str) -> int:
        """Return the bytes of a column on the card; read once from the host."""

        def make() -> int:
            column = self._origin.base.column(name)
            wide = self.rows if pa.types.is_boolean(column.type) else 0  # a byte each, not a bit
            return int(column.nbytes) + wide + _SLACK_BYTES

        size: int = self._session.cache.get((*self._segment, "bytes", name), make, lambda _: 64)
        return size

    @property
    def _segment(self) -> Key:
        return self._origin.view.segment_id, self._origin.view.generation

    def _key(self, name: str) -> Key:
        return (*self._segment, "frame", name)


def filter_engine() -> ColumnEngine:
    """Return what runs filters on the device: cuDF, or our own kernel where it is missing."""
    return column_engine() or _PLAIN


def is_of_segments(plan: p.Plan) -> bool:
    """Return whether the rows of a plan are rows of segments, chosen by filters alone, in order."""
    if isinstance(plan, p.Filter | p.Project):
        return is_of_segments(plan.input)
    if isinstance(plan, p.Concat):
        return all(map(is_of_segments, plan.parts))
    return isinstance(plan, p.Scan)


def one_array(column: Any, kind: pa.DataType) -> pa.Array:
    """Return a column as one Arrow array of a type.

    Raises:
        ColumnRefusedError: its texts do not fit into one.
    """
    chunks = [chunk if chunk.type == kind else chunk.cast(kind) for chunk in chunks_of(column)]
    if len(chunks) == 1:
        return chunks[0]
    try:
        return pa.concat_arrays(chunks or [pa.array([], kind)])
    except pa.ArrowInvalid as error:
        raise ColumnRefusedError("the texts of a column do not fit into 2 GiB") from error
