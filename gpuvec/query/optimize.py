"""Plans that mean the same and read less: filters move down to the rows."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from gpuvec.expr.bind import Bound, bind_filter
from gpuvec.expr.tree import combine
from gpuvec.query import plan as p
from gpuvec.query.plan import Plan


def optimize(node: Plan) -> Plan:
    """Return a plan with the same rows in the same order, each filter as far down as it may go.

    A filter never passes a search, limit, sample, group or distinct: there its place is its
        meaning.
    """
    if isinstance(node, p.Filter):
        return push_filter(optimize(node.input), node.predicate)
    if isinstance(node, p.Project) and isinstance(node.input, p.Project):
        return optimize(replace(node, input=node.input.input))
    return with_inputs(node, optimize)


def apart(node: Plan) -> Plan:
    """Return the same plan where each node stands in one place, though a frame is used twice."""
    return replace(with_inputs(node, apart))


def with_inputs(node: Plan, change: Callable[[Plan], Plan]) -> Plan:
    """Return a node with `change` of each plan below it."""
    if isinstance(node, p.Concat):
        return replace(node, parts=tuple(map(change, node.parts)))
    if isinstance(node, p.Join):
        return replace(node, left=change(node.left), right=change(node.right))
    changed = {}
    if isinstance(node, p.Search) and isinstance(node.queries, p.QueryFrame):
        changed["queries"] = replace(node.queries, plan=change(node.queries.plan))
    below = getattr(node, "input", None)
    if below is not None:
        found = change(below)
        if found is not below:
            changed["input"] = found  # type: ignore[assignment]
    return replace(node, **changed) if changed else node  # type: ignore[arg-type]


def push_filter(node: Plan, predicate: Bound) -> Plan:
    """Return `node` filtered, the filter below projections, sorts and columns it does not need."""
    if isinstance(node, p.Filter):
        fields = node.input.columns
        both = bind_filter(combine("and", node.predicate.expr, predicate.expr), fields.fields)
        return p.Filter(columns=node.columns, input=node.input, predicate=both)
    if isinstance(node, p.Project | p.Sort):
        return replace(node, input=push_filter(node.input, predicate))
    if isinstance(node, p.WithColumns) and uses(predicate).isdisjoint(node.computed):
        return replace(node, input=push_filter(node.input, predicate))
    if isinstance(node, p.Concat):
        return replace(node, parts=tuple(push_filter(part, predicate) for part in node.parts))
    return p.Filter(columns=node.columns, input=node, predicate=predicate)


def columns_read(node: Plan, names: Iterable[str]) -> dict[int, set[str]]:
    """Return what is read by each scan and wanted of each search, by `id`, to give `names`."""
    read: dict[int, set[str]] = {}
    _read(node, set(names), read)
    return read


def _read(node: Plan, names: set[str], read: dict[int, set[str]]) -> None:
    if isinstance(node, p.Scan):
        read.setdefault(id(node), set()).update(names & set(node.columns.fields))
    elif isinstance(node, p.Search):
        _read_search(node, names, read)
    elif isinstance(node, p.Join):
        _read(node.left, (names - set(node.renamed)) | set(node.left_on), read)
        _read(node.right, _named(names, node.renamed) | set(node.right_on), read)
    else:
        wanted = needed(node, names)
        for below in node.inputs:
            _read(below, wanted, read)


def _read_search(node: p.Search, names: set[str], read: dict[int, set[str]]) -> None:
    read.setdefault(id(node), set()).update(names)
    own = {"query_id", "rank", "distance"}
    wanted = {node.renamed.get(name, name) for name in names - own} | {node.field}
    wanted |= {name for name in (node.group_by, node.input.columns.primary_key) if name}
    _read(node.input, wanted, read)
    if isinstance(node.queries, p.QueryFrame):
        named = {node.queries.vector, node.queries.query_id, node.queries.key}
        _read(node.queries.plan, {name for name in named if name}, read)


def needed(node: Plan, names: set[str]) -> set[str]:
    """Return what a node needs of its input to give the named columns."""
    if isinstance(node, p.Filter):
        return names | uses(node.predicate)
    if isinstance(node, p.Get):
        return names | {str(node.input.columns.primary_key)}
    if isinstance(node, p.WithColumns):
        used = [uses(bound) for name, bound in node.computed.items() if name in names]
        return (names - set(node.computed)).union(*used)
    if isinstance(node, p.Sort):
        return names | {name for name, _ in node.keys}
    if isinstance(node, p.Distinct):
        return names | set(node.names)
    if isinstance(node, p.GroupHead):
        return names | set(node.keys)
    if isinstance(node, p.Describe):
        return set(node.input.columns.visible)
    if isinstance(node, p.Group):
        steps = [step for a in node.aggregates.values() for step in a.steps]
        return set(node.keys).union(*(uses(s.operand) for s in steps if s.operand is not None))
    return names


def uses(bound: Bound) -> frozenset[str]:
    """Return the columns an expression reads, vectors too."""
    return bound.columns | bound.vectors


def _named(names: set[str], renamed: Mapping[str, str]) -> set[str]:
    return {source for name, source in renamed.items() if name in names}


def source_scans(node: Plan) -> dict[int, p.Source]:
    """Return every source below a node, by `id(source)`."""
    found = {id(node.source): node.source} if isinstance(node, p.Scan) else {}
    for below in node.inputs:
        found.update(source_scans(below))
    return found
