"""A collection's rows made ready where they are searched, before anybody asks."""

from contextlib import ExitStack

from gpuvec.device.rows import DeviceRows
from gpuvec.errors import device_budget_exceeded
from gpuvec.index.flat import FlatIndex
from gpuvec.query.build_search import field_metric
from gpuvec.query.device_frame import load_scalars
from gpuvec.query.execute import Run
from gpuvec.query.nearest import in_order
from gpuvec.query.plan import Scan
from gpuvec.query.session import Session
from gpuvec.query.target import Target, field_targets
from gpuvec.query.together import Together


def load(plan: Scan, session: Session) -> None:
    """Bring all vectors, indexes and, on a card, scalars of a plan's rows to where they serve.

    On a card they stay until `release`, whatever else needs the room. In host memory they are
    verified, mapped or fetched, and then cached as all is.

    Raises:
        DeviceMemoryError: `GV-903`, the card has no room for all of them; then none stays.
    """
    store, owner = session.device_store, plan.columns.name
    if store is None:
        _load_vectors(plan, session)
        return
    store.pin(owner)
    try:
        store.run(lambda: _load_vectors(plan, session), what=f"loading {owner}", kind="load")
        load_scalars(plan, session)
    except BaseException:
        store.release(owner)
        raise


def release(plan: Scan, session: Session) -> None:
    """Let go of all that a plan's rows have on a card; on the host caches let go by themselves."""
    if session.device_store is not None:
        session.device_store.release(plan.columns.name)


def _load_vectors(plan: Scan, session: Session) -> None:
    with Run(session, for_search=True) as run:
        parts = list(run.parts(plan))
        for name in plan.columns.vectors:
            for _ in range(2):  # small segments lie side by side from the second time on
                metric = field_metric(plan.columns.fields[name], name, None)
                targets = field_targets(parts, plan.columns, name, metric, session)
                found = in_order(targets)
            for one in found:
                if isinstance(one, Together):
                    for number in one.numbers:
                        _warm(targets[number])
                else:
                    _warm(one.target)


def _warm(target: Target) -> None:
    if target.indexed is not None:
        _ = target.approximate
    exact, ties = target.exact, target.ties
    if not isinstance(exact, FlatIndex) or not isinstance(exact.vectors, DeviceRows):
        return
    with ExitStack() as stack:
        for rows in (exact.vectors, ties):
            if not isinstance(rows, DeviceRows) or not len(rows):
                continue
            if stack.enter_context(rows.held()).array is None:
                store = target.session.device_store
                assert store is not None
                budget = store.budget
                raise device_budget_exceeded(
                    f"loading {target.owner}",
                    needed=rows.nbytes,
                    limit=budget.resident_limit,
                    parts=budget.parts() | {"scratch": 0},
                )
