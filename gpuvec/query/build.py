"""Plans are made here, and only here: names, types and options are checked before anything runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import pyarrow as pa

from gpuvec import errors
from gpuvec.expr.bind import bind, bind_filter
from gpuvec.expr.tree import Column, Expr
from gpuvec.query import plan as p
from gpuvec.query.aggregate import bind_aggregate, describe_columns
from gpuvec.query.join import HOW
from gpuvec.query.plan import Columns, Plan
from gpuvec.schema import JSON, FieldType, List, SparseVector, is_nullable

DYNAMIC = "_gv_dynamic"  # the hidden column of a dynamic schema


def scan(source: p.Source) -> p.Scan:
    """Return all rows of a source."""
    schema = source.schema
    fields = dict(schema.fields)
    hidden: frozenset[str] = frozenset()
    if getattr(schema, "dynamic", False):
        fields[DYNAMIC] = JSON(nullable=True)
        hidden = frozenset([DYNAMIC])
    return p.Scan(columns=Columns(fields, schema.primary_key, source.name, hidden), source=source)


def check_names(names: Iterable[str], columns: Columns) -> tuple[str, ...]:
    """Return the names if the columns exist.

    Raises:
        NotFoundError: `GV-104`, with the nearest name.
    """
    found = tuple(names)
    for name in found:
        if name not in columns.named:
            known = [field for field in columns.named if field != DYNAMIC]
            raise errors.unknown_field(name, known, where=columns.where)
    return found


def expose(node: Plan, names: Iterable[str]) -> Plan:
    """Return the plan with those of `names` that are dynamic as columns, hidden."""
    known = node.columns.named
    if DYNAMIC not in known:
        return node
    found = {name: Column(name) for name in names if name not in known}
    return with_columns(node, found, hidden=True) if found else node


def filter_rows(node: Plan, predicate: Expr) -> Plan:
    """Return the rows for which `predicate` is true."""
    bound = bind_filter(predicate, node.columns.named, where=node.columns.where)
    return p.Filter(columns=node.columns, input=node, predicate=bound)


def get(node: Plan, ids: Iterable[Any]) -> Plan:
    """Return the rows with these primary keys, in this order."""
    key = node.columns.primary_key
    if key is None:
        raise errors.needs_key("get", node.columns.where)
    kind = node.columns.fields[key].arrow_type()
    return p.Get(columns=node.columns, input=node, ids=as_ids(ids, kind, key))


def as_ids(ids: Any, kind: pa.DataType, key: str) -> pa.Array:
    """Return primary keys as an Arrow array of the key's type.

    Raises:
        SchemaError: `GV-106`, values of another type.
    """
    try:
        found = ids if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(list(ids))
        if isinstance(found, pa.ChunkedArray):
            found = pa.concat_arrays(found.chunks) if found.num_chunks else pa.nulls(0, found.type)
        exact = pa.types.is_integer(found.type) or pa.types.is_null(found.type)
        if exact or not pa.types.is_integer(kind):
            return found.cast(kind)
    except (
        pa.ArrowInvalid,
        pa.ArrowNotImplementedError,
        pa.ArrowTypeError,
        TypeError,
        OverflowError,
    ) as error:
        raise errors.ids_do_not_fit(key, str(kind), str(error)) from error
    raise errors.ids_do_not_fit(key, str(kind), f"they are {found.type}")


def select(node: Plan, wanted: Sequence[str | Expr]) -> Plan:
    """Return only the given columns; expressions are computed and need a name."""
    if not wanted:
        raise errors.bad_number("select", 0, "given at least one column")
    computed: dict[str, Expr] = {}
    names = []
    for item in wanted:
        if isinstance(item, Expr):
            name = bind_name(item)
            if not (isinstance(item, Column) and item.name == name):
                computed[name] = item
        else:
            name = item
            if name not in node.columns.named and DYNAMIC in node.columns.named:
                computed[name] = Column(name)
        names.append(name)
    below = with_columns(node, computed) if computed else node
    found = check_names(names, below.columns)
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise errors.bad_column_name(twice, "it is selected twice")
    return _project(below, found)


def bind_name(expr: Expr) -> str:
    """Return the name of an expression's column, which `alias` gives it."""
    from gpuvec.expr.tree import output_name

    name = output_name(expr)
    if name is None:
        raise errors.bad_column_name(str(expr), 'give it one with .alias("name")')
    return name


def drop(node: Plan, names: Sequence[str]) -> Plan:
    """Return all visible columns but these."""
    gone = frozenset(check_names(names, node.columns))
    left = [name for name in node.columns.visible if name not in gone]
    if not left:
        raise errors.bad_number("drop", list(names), "fewer columns than there are")
    return _project(node, left, gone)


def _project(node: Plan, names: Sequence[str], gone: frozenset[str] = frozenset()) -> Plan:
    """Return `names` in that order; vectors and key stay, hidden, for a later search."""
    return p.Project(columns=_projected(node.columns, tuple(names), gone), input=node)


@lru_cache(maxsize=256)  # loops make the same frames again and again
def _projected(old: Columns, names: tuple[str, ...], gone: frozenset[str]) -> Columns:
    kept = {name for name in (*old.vectors, old.primary_key) if name in old.fields}
    hidden = frozenset(str(name) for name in kept) - set(names) - gone
    fields = {name: old.fields[name] for name in (*names, *(n for n in old.fields if n in hidden))}
    key = old.primary_key if old.primary_key in fields else None
    return Columns(fields, key, old.name, hidden, hidden)


def with_columns(node: Plan, computed: Mapping[str, Expr], *, hidden: bool = False) -> Plan:
    """Return the frame with columns added or replaced; with `hidden`, to leave when selected."""
    old = node.columns
    for name in () if hidden else computed:
        check_new_name(name)
    bound = {name: bind(e, old.named, where=old.where) for name, e in computed.items()}
    fields = {**old.fields, **{name: b.type for name, b in bound.items()}}
    key = None if old.primary_key in computed else old.primary_key
    shown = old.hidden | set(computed) if hidden else old.hidden - set(computed)
    columns = Columns(fields, key, old.name, shown, old.inner - set(computed))
    return p.WithColumns(columns=columns, input=node, computed=bound)


def check_new_name(name: object) -> None:
    """Refuse names that a column cannot have."""
    if not isinstance(name, str) or not name or name.startswith("_gv_"):
        raise errors.bad_column_name(
            name, 'names are texts, not empty, and do not begin with "_gv_"'
        )


def sort(node: Plan, names: Sequence[str], descending: bool | Sequence[bool]) -> Plan:
    """Return the rows ordered by columns."""
    below = expose(node, names)
    check_names(names, below.columns)
    if not names:
        raise errors.bad_number("sort", 0, "given at least one column")
    downs = [descending] * len(names) if isinstance(descending, bool) else list(descending)
    if len(downs) != len(names):
        raise errors.bad_number("descending", descending, f"one bool or {len(names)} of them")
    keys: list[tuple[str, bool]] = []
    numbers: dict[str, Expr] = {}
    for name, down in zip(names, downs, strict=True):
        check_comparable(below.columns, name, "be ordered")
        if isinstance(below.columns.fields[name], JSON):  # numbers first, then by text
            numbers[f"_gv_number_{name}"] = Column(name) + 0
            keys.append((f"_gv_number_{name}", down))
        keys.append((name, down))
    if numbers:
        below = with_columns(below, numbers, hidden=True)
    return p.Sort(columns=node.columns, input=below, keys=tuple(keys))


def check_comparable(columns: Columns, name: str, what: str) -> None:
    """Refuse columns whose values have no order or equality."""
    kind = columns.fields[name]
    if kind.is_vector or isinstance(kind, List):
        raise errors.cannot_compare_column(name, what=what)


def limit(node: Plan, count: int) -> Plan:
    """Return the first rows."""
    return p.Limit(columns=node.columns, input=node, count=whole_number("limit", count, least=0))


def sample(node: Plan, count: int, seed: int | None) -> Plan:
    """Return rows drawn without replacement."""
    number = whole_number("sample", count, least=0)
    return p.Sample(columns=node.columns, input=node, count=number, seed=seed)


def whole_number(option: str, got: Any, *, least: int) -> int:
    """Return an integer option if it is one.

    Raises:
        QueryError: `GV-354`.
    """
    import operator

    try:
        number = operator.index(got)
    except TypeError:
        number = least - 1
    if isinstance(got, bool) or number < least:
        raise errors.bad_number(option, got, f"a whole number of at least {least}")
    return number


def join(
    left: Plan,
    right: Plan,
    left_on: Sequence[str],
    right_on: Sequence[str],
    *,
    how: str,
    suffix: str,
) -> Plan:
    """Return the equality join; right columns with taken names get the suffix."""
    if how not in HOW:
        raise errors.bad_choice("how", how, HOW)
    if not left_on or len(left_on) != len(right_on):
        raise errors.bad_number("on", list(left_on), "one or more columns, as many on both sides")
    for one, other in zip(left_on, right_on, strict=True):
        check_names([one], left.columns)
        check_names([other], right.columns)
        check_comparable(left.columns, one, "be joined on")
        check_comparable(right.columns, other, "be joined on")
        kinds = (left.columns.fields[one], right.columns.fields[other])
        if kinds[0].arrow_type() != kinds[1].arrow_type():
            raise errors.keys_of_two_types(one, other, kinds)
    fields = {name: left.columns.fields[name] for name in left.columns.visible}
    renamed: dict[str, str] = {}
    if how in ("inner", "left"):
        same = {r for one, r in zip(left_on, right_on, strict=True) if one == r}
        for name in right.columns.visible:
            if name not in same:
                out = free_name(name, fields, suffix)
                kind = right.columns.fields[name]
                fields[out] = nullable(kind) if how == "left" else kind
                renamed[out] = name
    key = left.columns.primary_key if how in ("semi", "anti") else None
    columns = Columns(fields, key if key in fields else None, left.columns.name)
    return p.Join(
        columns=columns, left=left, right=right, left_on=tuple(left_on), right_on=tuple(right_on),
        how=how, renamed=renamed,
    )  # fmt: skip


def free_name(name: str, taken: Mapping[str, Any], suffix: str = "_right") -> str:
    """Return the name, with the suffix as often as it takes to be free."""
    if not suffix:
        raise errors.bad_number("suffix", suffix, "a text that is not empty")
    while name in taken:
        name += suffix
    return name


def nullable(kind: FieldType) -> FieldType:
    """Return the same type with nulls allowed."""
    return kind if is_nullable(kind) else replace(kind, nullable=True)  # type: ignore[call-arg]


def concat(parts: Sequence[Plan]) -> Plan:
    """Return the rows of several frames with the same columns."""
    first = parts[0].columns
    fields = {name: first.fields[name] for name in first.visible}
    aligned = []
    for part in parts:
        if set(part.columns.visible) != set(fields):
            odd = sorted(set(part.columns.visible) ^ set(fields))
            raise errors.frames_differ(
                fields, part.columns.visible, f"{', '.join(odd)} in one only"
            )
        for name in fields:
            got = part.columns.fields[name]
            if not same_storage(fields[name], got):
                reason = f'"{name}" is {fields[name]} and {got}'
                raise errors.frames_differ(fields, part.columns.visible, reason)
            if is_nullable(got):
                fields[name] = nullable(fields[name])
        aligned.append(_project(part, list(fields), frozenset(part.columns.fields)))
    return p.Concat(columns=Columns(fields, None, first.name), parts=tuple(aligned))


def same_storage(one: FieldType, other: FieldType) -> bool:
    """Return whether values of both types can stand in one column."""
    if one.is_vector or other.is_vector:
        shapes = [(k.KIND, getattr(k, "dim", 0), getattr(k, "dtype", "")) for k in (one, other)]
        return shapes[0] == shapes[1]
    return bool(one.arrow_type() == other.arrow_type())


def distinct(node: Plan, names: Sequence[str]) -> Plan:
    """Return the first row of each combination; without names, of all visible columns."""
    below = expose(node, names)
    found = check_names(names, below.columns) if names else node.columns.visible
    for name in found:
        if isinstance(below.columns.fields[name], List | SparseVector):
            raise errors.cannot_compare_column(name)
    return p.Distinct(columns=node.columns, input=below, names=found)


def group(node: Plan, keys: Sequence[str], aggregates: Mapping[str, Expr]) -> Plan:
    """Return one row per combination of the keys with aggregates."""
    node = expose(node, keys)
    _check_keys(node, keys)
    if not aggregates:
        raise errors.bad_number("agg", 0, "given at least one aggregate, such as n=gv.count()")
    fields = {key: node.columns.fields[key] for key in keys}
    bound = {}
    for name, expr in aggregates.items():
        check_new_name(name)
        if name in keys:
            raise errors.bad_column_name(name, "it is a key of the group")
        if not isinstance(expr, Expr):
            raise errors.not_an_aggregate(name, repr(expr))
        bound[name] = bind_aggregate(name, expr, node.columns, keys)
        fields[name] = bound[name].result.type
    columns = Columns(fields, keys[0] if len(keys) == 1 else None, node.columns.name)
    return p.Group(columns=columns, input=node, keys=tuple(keys), aggregates=bound)


def group_head(node: Plan, keys: Sequence[str], count: int) -> Plan:
    """Return the first rows of each combination of the keys."""
    below = expose(node, keys)
    _check_keys(below, keys)
    number = whole_number("head", count, least=1)
    return p.GroupHead(columns=node.columns, input=below, keys=tuple(keys), count=number)


def _check_keys(node: Plan, keys: Sequence[str]) -> None:
    check_names(keys, node.columns)
    if not keys:
        raise errors.bad_number("group_by", 0, "given at least one column")
    for name in keys:
        check_comparable(node.columns, name, "be grouped by")


def describe(node: Plan) -> Plan:
    """Return what the values of each column are like."""
    return p.Describe(columns=describe_columns(), input=node)
