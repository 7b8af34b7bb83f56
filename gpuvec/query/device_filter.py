"""Filters on the card: a segment's scalars lie there, conditions run there, and bits stay there.

Columns go up when a filter of a search first needs them and stay while the budget has room; so do
the bits of a condition. What the card cannot say, or hold, runs on the host; of it only bits go up.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary

from gpuvec.device.columns import ColumnEngine, ColumnRefusedError
from gpuvec.device.fallback import fall_back
from gpuvec.device.program import Op, columns_of, walk
from gpuvec.errors import DeviceMemoryError
from gpuvec.expr.bound import Bound
from gpuvec.expr.on_device import NO_COLUMN, Split, split
from gpuvec.index.keep import as_bits
from gpuvec.kernels.bitset import WORD, BitSet, both
from gpuvec.query.device_columns import DeviceColumns, filter_engine
from gpuvec.query.part import Origin
from gpuvec.query.row_set import Name, RowSet
from gpuvec.query.session import Session
from gpuvec.types import RowMask

_ROW_BYTES = 9  # of a temporary column: 8 bytes and its null bit, rounded up

_REFUSED = "columns that cannot lie there"  # which was said when they were tried

_Key = tuple[type[ColumnEngine], frozenset[str]]
_splits: WeakKeyDictionary[Bound, dict[_Key, Split]] = WeakKeyDictionary()


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
        None where the host does it all: of rows that are still written, whose bits alone go up; or
        it was said why.
    """
    store = session.device_store
    assert store is not None
    rows = origin.base.num_rows
    if name is not None and store.has(name):
        with suppress(_GoneError), store.use(name, 0, _gone, part="bits") as bits:
            return RowSet(bits, lambda: name)
    if getattr(origin.view, "is_growing", False):  # columns that the next write would change
        return None
    columns = DeviceColumns(origin, session, filter_engine(), owner)
    found = _split(bound, origin, columns, said=not reads_on)
    program = found.program
    if program is None:
        return None
    if not reads_on and not all(map(columns.has, columns_of(program))):
        return None

    def make() -> BitSet:
        sets = [_bits(program, columns)]
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
    except ColumnRefusedError as error:  # a column that is tried no more
        fall_back("a filter", str(error))
        return filtered(bound, origin, session, name, host, reads_on=reads_on, owner=owner)


class _GoneError(Exception):
    """Bits that were there have had to go meanwhile."""


def _gone() -> Any:
    raise _GoneError


def _split(bound: Bound, origin: Origin, columns: DeviceColumns, *, said: bool) -> Split:
    """Return what of a condition the card does; warn of what it does not, unless it was said."""
    why = ""
    if not origin.computed.isdisjoint(bound.columns):
        why = "it reads columns that are computed"
    elif getattr(origin.view, "transient", False):
        why = "it reads files of which nothing is kept"
    if why:
        if not said:
            fall_back("a filter", why)
        return Split(None, bound, ())
    refused = frozenset(columns.refused & bound.columns)

    def refuses(program: Op) -> str:
        return _REFUSED if refused & columns_of(program) else columns.engine.refuses(program)

    own = _splits.setdefault(bound, {})
    key = type(columns.engine), refused
    if key not in own:
        own[key] = split(bound, refuses)
    for reason in own[key].reasons:
        if not said and reason not in (NO_COLUMN, _REFUSED):
            fall_back(f"a filter with {reason}", "a card cannot say it as exactly")
    return own[key]


def _bits(program: Op, columns: DeviceColumns) -> BitSet:
    """Return the rows of a segment for which a condition is true."""
    kinds = {str(op.value): op.kind for op in walk(program) if op.name == "column"}
    steps = sum(op.name not in ("column", "constant") for op in walk(program))
    scratch = columns.rows * _ROW_BYTES * max(1, steps)
    budget = columns.store.budget
    with columns.held(kinds) as held, budget.scratch(scratch, scratch, what="a filter"):
        return BitSet(columns.engine.words(program, held, columns.rows), columns.rows)
