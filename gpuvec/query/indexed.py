"""Which searches may use an index, and which knobs it has."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gpuvec.errors import params_without_index, params_without_use
from gpuvec.index.spec import SPECS, IndexSpec, check_params
from gpuvec.query import plan as p


def index_unused(search: p.Search) -> str:
    """Return why a search measures every row whatever index there is; "" if it need not."""
    if search.exact or search.recall == 1:
        return "it asks for the exact answer"
    if search.low is not None:
        return "it wants the rows of a ring"
    if search.k is None:
        return "it has no k" if search.high is None else "it wants all rows within a radius"
    if search.group_by is not None:
        return "it counts groups"
    if search.metric != search.input.columns.fields[search.field].metric:  # type: ignore[attr-defined]
        return "its metric is not that of the field"
    return ""


def checked_params(search: p.Search, params: Mapping[str, Any]) -> dict[str, float]:
    """Return the knobs of a search.

    Raises:
        QueryError: `GV-351` the field has no index, `GV-372` this search cannot use it, `GV-318` no
            index of the field has such a knob, or not this value of it.
    """
    sources = list(stored_sources(search.input, search.field))
    specs = [spec for source in sources for spec in _specs(source, search.field)]
    if not specs:
        raise params_without_index(dict(params), search.field)
    reason = index_unused(search)
    if reason:
        raise params_without_use(dict(params), search.field, reason)
    return check_params(next((s for s in specs if has_knobs(s, params)), specs[0]), params)


def has_knobs(spec: IndexSpec, params: Mapping[str, Any]) -> bool:
    """Return whether an index knows all these knobs."""
    return params.keys() <= spec.SEARCH.keys()


def stored_sources(node: p.Plan, field: str) -> Iterator[p.Source]:
    """Yield the sources whose segments a plan passes on, with this field as it is stored."""
    if isinstance(node, p.Scan):
        yield node.source
    elif isinstance(node, p.Filter | p.Project | p.Concat) or (
        isinstance(node, p.WithColumns) and field not in node.computed
    ):
        for below in node.inputs:
            yield from stored_sources(below, field)


def _specs(source: p.Source, field: str) -> Sequence[IndexSpec]:
    """Return what a field's indexes are; before any is built, what they may become."""
    with source.snapshot() as snapshot:
        views = [view.index(field) for view in snapshot]
        built = [index.spec for index in views if index is not None]
        if built or field not in snapshot.indexes:
            return built
        wished = snapshot.indexes[field]
    return [cls() for cls in SPECS.values() if not cls.SCALAR] if wished is None else [wished]
