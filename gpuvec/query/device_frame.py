"""The scalar columns of a plan's rows as one frame on the card, where they lie already."""

import contextlib
from functools import partial

from gpuvec.device.columns import (
    ColumnEngine,
    ColumnRefusedError,
    CudfColumns,
    column_engine,
)
from gpuvec.device.frames import CudfFrame, ScalarFrame
from gpuvec.errors import DeviceMemoryError
from gpuvec.kernels.bitset import unpack
from gpuvec.query.device_columns import DeviceColumns, filter_engine, is_of_segments
from gpuvec.query.execute import Run
from gpuvec.query.optimize import optimize
from gpuvec.query.part import Part
from gpuvec.query.plan import Plan
from gpuvec.query.session import Session


def frame_on_device(plan: Plan, session: Session) -> CudfFrame | None:
    """Return the rows of a plan as a cuDF frame of its own, which never were on the host.

    Returns:
        None where the host must make it: rows that are sorted, joined, computed or at nodes,
        vectors, no cuDF, or too little device memory.
    """
    engine = column_engine()
    if not isinstance(engine, CudfColumns):
        return None
    found = rows_on_device(plan, session, engine)
    assert found is None or isinstance(found, CudfFrame)
    return found


def load_scalars(plan: Plan, session: Session) -> None:
    """Copy the scalar columns of a plan's segments, and which rows are visible, to the card.

    They stay as `DeviceStore.pin` says. Columns that cannot lie there stay on the host.

    Raises:
        DeviceMemoryError: `GV-903`, there is no room for them.
    """
    engine, fields = filter_engine(), plan.columns.fields
    kinds = {name: k.arrow_type() for name, k in fields.items() if not k.is_vector}
    assert session.device_store is not None

    def load(part: Part) -> None:
        assert part.origin is not None
        if getattr(part.origin.view, "is_growing", False):
            return
        columns = DeviceColumns(part.origin, session, engine, plan.columns.name)
        for name, kind in kinds.items():
            with contextlib.suppress(ColumnRefusedError), columns.held({name: kind}):
                pass
        if part.origin.rows is not None:
            part.origin.rows.bits(session, plan.columns.name)

    with Run(session, for_search=True) as run:
        for part in run.parts(plan):
            session.device_store.run(partial(load, part), what="loading columns")


def rows_on_device(plan: Plan, session: Session, engine: ColumnEngine) -> ScalarFrame | None:
    """Return the rows of a plan as a frame of an engine; see `frame_on_device`."""
    store, fields = session.device_store, plan.columns.fields
    names = plan.columns.visible
    if store is None or not names or not is_of_segments(plan):
        return None
    if any(fields[name].is_vector for name in names):
        return None
    kinds = {name: fields[name].arrow_type() for name in names}

    def slice_of(part: Part) -> ScalarFrame | None:
        origin = part.origin
        if origin is None or not origin.computed.isdisjoint(names):
            return None
        columns = DeviceColumns(origin, session, engine, plan.columns.name)
        with columns.held(kinds) as held:
            whole = engine.frame(held, kinds)
            if origin.rows is None:
                return whole.followed_by([])  # what the user changes is a copy
            return whole.filter(unpack(origin.rows.bits(session, plan.columns.name)))

    def work() -> ScalarFrame | None:
        with Run(session, for_search=True) as run:
            if run.fragment(plan) is not None:
                return None
            frames = [slice_of(part) for part in run.parts(optimize(plan)) if part.num_rows]
        own = [frame for frame in frames if frame is not None]
        if not own or len(own) < len(frames):
            return None
        return own[0] if len(own) == 1 else own[0].followed_by(own[1:])

    try:
        return store.run(work, what="a frame")
    except (DeviceMemoryError, ColumnRefusedError):
        return None
