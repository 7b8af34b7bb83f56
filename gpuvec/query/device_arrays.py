"""Numbers and vectors of a plan's rows as arrays on the card, where they lie already."""

from typing import Any

from gpuvec.device.arrays import cupy_module
from gpuvec.device.columns import ColumnEngine, ColumnRefusedError, column_engine
from gpuvec.device.frames import ScalarFrame
from gpuvec.device.residency import DeviceStore
from gpuvec.device.rows import DeviceRows
from gpuvec.errors import DeviceMemoryError
from gpuvec.kernels.bitset import unpack
from gpuvec.query.device_columns import DeviceColumns, is_of_segments
from gpuvec.query.execute import Run
from gpuvec.query.optimize import optimize
from gpuvec.query.part import Part
from gpuvec.query.plan import Plan
from gpuvec.query.session import Session
from gpuvec.rows import DenseVectors
from gpuvec.schema import BinaryVector, Bool, FieldType, Vector
from gpuvec.types import Array

_NUMBERS = ("int8", "int16", "int32", "int64", "float32", "float64")


class _HostOnly(Exception):
    """Something of which no array on the card can be made; it tells which way to go."""


def arrays_on_device(plan: Plan, session: Session) -> dict[str, Array] | None:
    """Return the visible columns of a plan's rows as arrays of their own on the card.

    Returns:
        By name: numbers and truth values (rows,), vectors (rows, width) in their field's dtype,
        bfloat16 as its uint16 bits. None where the host must make them: texts, nulls, rows that are
        sorted, joined, computed or at nodes, scalars without cuDF, too little device memory.
    """
    store, fields = session.device_store, plan.columns.fields
    names = plan.columns.visible
    if store is None or not names or not is_of_segments(plan):
        return None
    if not all(_has_array(fields[name]) for name in names):
        return None
    reader = _Reader(plan, session, store, column_engine())

    def work() -> dict[str, Array] | None:
        with Run(session, for_search=True) as run:
            if run.fragment(plan) is not None:
                return None
            found = [reader.arrays(part) for part in run.parts(optimize(plan)) if part.num_rows]
        if not found:
            return None
        if len(found) == 1:
            return found[0]
        xp = cupy_module()
        return {name: xp.concatenate([one[name] for one in found]) for name in names}

    try:
        return store.run(work, what="arrays")
    except (DeviceMemoryError, ColumnRefusedError, _HostOnly):
        return None


def _has_array(kind: FieldType) -> bool:
    return isinstance(kind, Vector | BinaryVector | Bool) or kind.KIND in _NUMBERS


class _Reader:
    """Takes rows out of what lies on the card."""

    def __init__(
        self, plan: Plan, session: Session, store: DeviceStore, engine: ColumnEngine | None
    ) -> None:
        fields = plan.columns.fields
        names = plan.columns.visible
        self._owner = plan.columns.name
        self._names = names
        self._kinds = {n: fields[n].arrow_type() for n in names if not fields[n].is_vector}
        self._session = session
        self._store = store
        self._engine = engine

    def arrays(self, part: Part) -> dict[str, Array]:
        """Return the rows of a part.

        Raises:
            _HostOnly: they are no rows of a segment, or nulls are among them.
        """
        origin = part.origin
        if origin is None or not origin.computed.isdisjoint(self._names):
            raise _HostOnly
        rows = None
        if origin.rows is not None:
            bits = origin.rows.bits(self._session, self._owner)
            rows = cupy_module().flatnonzero(unpack(bits))
        found = {
            name: self._vectors(part, name, rows)
            for name in self._names
            if name not in self._kinds
        }  # fmt: skip
        if self._kinds:
            found |= self._scalars(part, rows)
        return {name: found[name] for name in self._names}

    def _vectors(self, part: Part, name: str, rows: Array | None) -> Array:
        origin = part.origin
        assert origin is not None
        column = origin.base.column(name)
        if not isinstance(column, DenseVectors) or column.valid is not None:
            raise _HostOnly
        key = (origin.view.segment_id, origin.view.generation, "vectors", name)
        placed = DeviceRows(
            column.shape, column.dtype, lambda: column.loaded().values, self._store, key,
            owner=self._owner,
        )  # fmt: skip
        with placed.held() as held:
            if held.array is None:  # they do not fit
                raise _HostOnly
            return held.array.copy() if rows is None else held.array[rows]

    def _scalars(self, part: Part, rows: Array | None) -> dict[str, Array]:
        if self._engine is None:
            raise _HostOnly
        assert part.origin is not None
        columns = DeviceColumns(part.origin, self._session, self._engine, self._owner)
        with columns.held(self._kinds) as held:
            frame: ScalarFrame = self._engine.frame(held, self._kinds)
            kept: Any = frame.followed_by([]) if rows is None else frame.take(rows)
            if any(kept.null_count(name) for name in self._kinds):
                raise _HostOnly
            return {name: kept.values(name) for name in self._kinds}
