"""3xx: options of searches and frames."""

from collections.abc import Iterable

from gpuvec.errors.base import AlreadyExistsError, QueryError, UnsupportedError, did_you_mean


def bad_k(k: object) -> QueryError:
    """Return the error for a number of neighbours that is not a positive integer."""
    return QueryError(
        "GV-310",
        f"k must be an integer of at least 1, got {k!r}",
        hint="to get every row within a distance, give a radius and no k",
        details={"k": k},
    )


def mixed_devices() -> QueryError:
    """Return the error for host and device arrays in one call."""
    return QueryError(
        "GV-311",
        "arrays must lie all in host memory or all on the GPU; got both",
        hint="bring them together with to_device() or to_host()",
    )


def metric_needs(metric: str, dtype: object, *, wanted: str) -> QueryError:
    """Return the error for a metric over vectors of a kind that it does not measure."""
    return QueryError(
        "GV-312",
        f'metric "{metric}" measures {wanted} vectors; these are {dtype}',
        hint="choose hamming or jaccard for packed bits; cosine, l2, sqeuclidean or ip for numbers",
        details={"metric": str(metric), "dtype": str(dtype)},
    )


def wrong_width(*, wanted: int, got: int) -> QueryError:
    """Return the error for queries and rows whose arrays have different widths."""
    return QueryError(
        "GV-313",
        f"queries have {got} columns, rows have {wanted}",
        hint="both must come from the same model, packed alike",
        details={"wanted": wanted, "got": got},
    )


def wrong_length(what: str, *, wanted: int, got: int) -> QueryError:
    """Return the error for a mask, rank or bound that is not as long as what it goes with."""
    return QueryError(
        "GV-314",
        f"{what} must have {wanted} entries, got {got}",
        details={"what": what, "wanted": wanted, "got": got},
    )


def unknown_index(kind: object, known: Iterable[str]) -> QueryError:
    """Return the error for an index type that does not exist, with the nearest name."""
    names = sorted(known)
    return QueryError(
        "GV-315",
        f'no index type "{kind}".{did_you_mean(str(kind), names)}',
        hint=f"index types: {', '.join(names)}",
        details={"kind": kind, "known": names},
    )


def unknown_index_option(kind: str, name: str, known: Iterable[str]) -> QueryError:
    """Return the error for a parameter that an index type does not have."""
    names = list(known)
    return QueryError(
        "GV-316",
        f'index type "{kind}" has no parameter "{name}".{did_you_mean(name, names)}',
        hint=f"parameters: {', '.join(names)}" if names else "it takes none",
        details={"kind": kind, "parameter": name, "known": names},
    )


def bad_index_parameter(
    kind: str, name: str, got: object, wanted: str, *, code: str = "GV-317"
) -> QueryError:
    """Return the error for a parameter of an index (or, `GV-318`, of its search) that cannot be."""
    return QueryError(
        code,
        f"{kind}: {name} must be {wanted}, got {got!r}",
        details={"kind": kind, "parameter": name, "wanted": wanted, "got": got},
    )


def scalar_index_for(index: str, field: str, kind: object) -> QueryError:
    """Return the error for a scalar index of a field that cannot have one."""
    instead = f'vectors have indexes of their own: create_index("{field}") chooses one'
    if str(kind).startswith("List"):
        instead = "gv.index.Bitmap() finds rows by the elements of their lists"
    wanted = "scalar fields" + (" and lists" if index == "Bitmap" else ", which have an order")
    return QueryError(
        "GV-340",
        f'{index} is for {wanted}; field "{field}" is {kind}',
        hint=instead,
        details={"index": index, "field": field},
    )


def json_index(index: str, field: str) -> UnsupportedError:
    """Return the error for a scalar index of a JSON field."""
    return UnsupportedError(
        "GV-341",
        f'{index} cannot index JSON; field "{field}" holds it',
        hint="put the values that you filter by into a field of their own and index that",
        details={"index": index, "field": field},
    )


def unknown_index_format(got: object, known: str) -> UnsupportedError:
    """Return the error for the file of a scalar index in a layout of another version."""
    return UnsupportedError(
        "GV-342",
        f'the file of a scalar index has layout "{got}"; this version of gpuvec reads "{known}"',
        hint="open the database with the version of gpuvec that built it, or build the index anew",
        details={"got": got, "known": known},
    )


def options_in_conflict(options: Iterable[str], reason: str, *, instead: str) -> QueryError:
    """Return the error for options that contradict one another."""
    names = list(options)
    return QueryError(
        "GV-350",
        f"{' and '.join(names)} cannot be combined: {reason}",
        hint=f"{instead}",
        details={"options": names},
    )


def params_without_index(params: object, field: str) -> QueryError:
    """Return the error for index parameters where there is no index."""
    return QueryError(
        "GV-351",
        f'params={params!r} set an index, and field "{field}" has none: the scan is exact',
        hint="leave params out",
        details={"field": field, "params": params},
    )


def params_without_use(params: object, field: str, reason: str) -> QueryError:
    """Return the error for index parameters of a search that measures every row."""
    return QueryError(
        "GV-372",
        f'params={params!r} set the index of "{field}", and this search cannot use one: {reason}',
        hint="leave params out",
        details={"field": field, "params": params},
    )


def which_vector(option: str, vectors: Iterable[str], *, where: str) -> QueryError:
    """Return the error for a search that does not say which vector column it means."""
    names = list(vectors)
    if not names:
        message = f"{where} has no vector column to search"
        hint = "add one, or search the frame it came from"
    else:
        message = f"{where} has several vector columns; {option} must name one"
        hint = f"vector columns: {', '.join(names)}"
    return QueryError("GV-352", message, hint=hint, details={"known": names})


def not_a_vector(name: str, kind: object, vectors: Iterable[str], *, option: str) -> QueryError:
    """Return the error for searching a column that holds no vectors."""
    names = list(vectors)
    return QueryError(
        "GV-352",
        f'{option}="{name}" is {kind}, not a vector column',
        hint=f"vector columns: {', '.join(names) or 'none'}",
        details={"field": name, "known": names},
    )


def metric_not_for(metric: object, field: str, known: Iterable[str]) -> QueryError:
    """Return the error for a metric that a field's vectors do not have."""
    names = [str(name) for name in known]
    return QueryError(
        "GV-353",
        f'metric "{metric}" does not measure field "{field}".{did_you_mean(str(metric), names)}',
        hint=f"metrics of this field: {', '.join(names)}",
        details={"metric": str(metric), "field": field, "known": names},
    )


def bad_number(option: str, got: object, wanted: str) -> QueryError:
    """Return the error for an option that must be another number."""
    return QueryError(
        "GV-354", f"{option} must be {wanted}, got {got!r}", details={"option": option, "got": got}
    )


def no_own_key(reason: str) -> QueryError:
    """Return the error for `exclude_self` with queries that have no primary key in common."""
    return QueryError(
        "GV-355",
        f"exclude_self needs queries that are rows with a primary key: {reason}",
        hint="search(items.get([...]), exclude_self=True), or filter the answer",
    )


def only_for_frames(options: Iterable[str]) -> QueryError:
    """Return the error for options that name columns of queries which have none."""
    names = list(options)
    return QueryError(
        "GV-356",
        f"{' and '.join(names)} name columns of a query frame; these queries are vectors only",
        hint="leave them out, or give a frame with the vectors in a column",
        details={"options": names},
    )


def cannot_compare_column(name: str, *, what: str = "be compared") -> QueryError:
    """Return the error for ordering or grouping by values that have no order or equality."""
    return QueryError(
        "GV-357",
        f'the values of column "{name}" cannot {what}',
        hint="name scalar columns: numbers, texts, times, booleans",
        details={"column": name},
    )


def not_an_aggregate(name: str, expression: str) -> QueryError:
    """Return the error for an output of `agg` that does not aggregate."""
    return QueryError(
        "GV-358",
        f'"{name}" = {expression} does not say one value per group',
        hint="use gv.count(), or .min() .max() .sum() .mean() .count() of a column",
        details={"name": name},
    )


def bad_column_name(name: object, reason: str) -> QueryError:
    """Return the error for an output column that cannot have its name."""
    return QueryError("GV-359", f"a column cannot be named {name!r}: {reason}")


def keys_of_two_types(left: str, right: str, kinds: Iterable[object] = ()) -> QueryError:
    """Return the error for joining columns whose types differ."""
    names = " and ".join(map(str, kinds))
    return QueryError(
        "GV-360",
        f'"{left}" and "{right}" cannot be equal: {names or "their types differ"}',
        hint="join on columns of one scalar type",
        details={"left": left, "right": right},
    )


def unclear_join_keys() -> QueryError:
    """Return the error for a join that does not say on which columns."""
    return QueryError(
        "GV-367",
        "a join needs on=, or both left_on= and right_on=",
        hint='frame.join(other, "id"), or left_on="id", right_on="user_id"',
    )


def untyped_nulls(name: str) -> QueryError:
    """Return the error for a computed column that has only nulls and so no type."""
    return QueryError(
        "GV-368",
        f'column "{name}" would hold only nulls, which have no type',
        hint=f'leave it out, or drop("{name}") to be rid of it',
        details={"column": name},
    )


def not_for_aggregate(function: str, expression: str, kind: object) -> QueryError:
    """Return the error for an aggregate of values that it is not for."""
    wanted = "numbers" if function in ("sum", "mean") else "values that have an order"
    return QueryError(
        "GV-369",
        f"{function} is of {wanted}; {expression} is {kind}",
        hint="count() and gv.count() take any column",
        details={"function": function},
    )


def frames_differ(first: Iterable[str], other: Iterable[str], reason: str) -> QueryError:
    """Return the error for putting frames one after the other that have other columns."""
    return QueryError(
        "GV-361",
        f"frames to concatenate must have the same columns: {reason}",
        hint=f"first: {', '.join(first)}\n  other: {', '.join(other)}",
    )


def nothing_to_evaluate() -> QueryError:
    """Return the error for measuring the recall of a frame without search."""
    return QueryError(
        "GV-362",
        "evaluate() measures a search; this frame has none",
        hint="frame.search(...) first",
    )


def needs_key(what: str, where: str) -> QueryError:
    """Return the error for asking rows by key where there is no key."""
    return QueryError(
        "GV-363",
        f"{what} needs a primary key, and {where} has none",
        hint='name one: gv.frame(data, primary_key="id")',
    )


def wrong_query_kind(field: str, *, wanted: object, got: object) -> QueryError:
    """Return the error for queries that are vectors of another kind."""
    return QueryError(
        "GV-364",
        f'field "{field}" is {wanted}; the queries are {got}',
        hint="queries and field must both be dense, both binary or both sparse",
        details={"field": field},
    )


def frame_is_lazy(what: str, instead: str) -> QueryError:
    """Return the error for using a frame as if its rows were there."""
    return QueryError("GV-365", f"a frame is a query, not yet rows: {what}", hint=instead)


def result_is_columns() -> QueryError:
    """Return the error for walking a result row by row."""
    return QueryError(
        "GV-370",
        "a result is columns, not a sequence of rows",
        hint='for rows, result.to_arrow().to_pylist(); for a column, result["distance"]',
    )


def names_only(call: str, got: object) -> QueryError:
    """Return the error for an expression, or what else is no name, where columns are named."""
    return QueryError(
        "GV-371",
        f"{call} takes names of columns, not {got}",
        hint=f'compute a column first: frame.with_columns(x=...).{call}("x")',
        details={"got": str(got)},
    )


def output_exists(path: str) -> AlreadyExistsError:
    """Return the error for writing where something already is."""
    return AlreadyExistsError(
        "GV-366",
        f'"{path}" exists and is not empty',
        hint="choose another path, or remove it first",
        details={"path": path},
    )
