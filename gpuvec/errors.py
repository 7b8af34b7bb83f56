"""Every error a user can meet: the classes, and one builder per code.

A class tells what the caller can do next; a code names the case. Codes: 1xx names and schemas,
2xx filters, 3xx queries, 4xx memory, 5xx storage, 6xx writers and availability, 7xx rights, quotas
and settings, 8xx jobs, 9xx not available here. A broken invariant is a bug and raises
`AssertionError`, never one of these.
"""

import difflib
import errno
from collections.abc import Iterable, Mapping
from typing import Any


class GpuvecError(Exception):
    """Base of all errors of gpuvec.

    Attributes:
        code: stable, `GV-nnn`.
        message: what was wanted and what came.
        hint: what to do about it; may be empty.
        details: the same facts for programs.
    """

    def __init__(
        self, code: str, message: str, *, hint: str = "", details: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.details: dict[str, Any] = dict(details or {})

    def __str__(self) -> str:
        text = f"[{self.code}] {self.message}"
        return f"{text}\n  {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.code, self.message, self.hint, self.details))


def _rebuild(
    cls: type[GpuvecError], code: str, message: str, hint: str, details: dict[str, Any]
) -> GpuvecError:
    return cls(code, message, hint=hint, details=details)


class NotFoundError(GpuvecError, LookupError):
    """A collection, field, partition, index or version that does not exist."""


class AlreadyExistsError(GpuvecError, ValueError):
    """Creating something whose name is taken."""


class SchemaError(GpuvecError, ValueError):
    """A type, null, dimension or key that the schema does not allow."""


class FilterError(GpuvecError, ValueError):
    """Syntax or type error in a filter."""


class QueryError(GpuvecError, ValueError):
    """Contradictory or impossible options."""


class DeviceMemoryError(GpuvecError, MemoryError):
    """Work that cannot be tiled any further into the memory budget."""


class ResultTooLargeError(GpuvecError, MemoryError):
    """An answer larger than host memory."""


class ConflictError(GpuvecError, RuntimeError):
    """Two writers touched the same rows."""


class StorageError(GpuvecError, OSError):
    """The store is unreachable or refuses."""


class CorruptError(StorageError):
    """A damaged or missing file."""


class UnavailableError(GpuvecError, ConnectionError):
    """No owner or node answers. `details` has `retryable` and `outcome`: `none` or `unknown`."""


class DeadlineError(GpuvecError, TimeoutError):
    """The call's deadline passed."""


class SnapshotExpiredError(GpuvecError, LookupError):
    """A version older than retention."""


class QuotaError(GpuvecError, RuntimeError):
    """A limit was reached."""


class AccessDeniedError(GpuvecError, PermissionError):
    """The caller may not do this."""


class JobError(GpuvecError, RuntimeError):
    """A job failed."""


class UnsupportedError(GpuvecError, NotImplementedError):
    """Not available here."""


class RecallWarning(UserWarning):
    """A recall target that no setting reached."""


class FallbackWarning(UserWarning):
    """Work that a GPU machine had to do on its CPU."""


class CastWarning(UserWarning):
    """Digits were lost in a conversion."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean "x"?`, or nothing when no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f' Did you mean "{near[0]}"?' if near else ""


# 1xx: names and schemas


def unknown_field(name: str, known: Iterable[str], *, where: str = "the schema") -> NotFoundError:
    """Return the error for a field that does not exist, with the nearest name."""
    names = list(known)
    return NotFoundError(
        "GV-104",
        f'no field "{name}" in {where}.{did_you_mean(name, names)}',
        hint=f"fields: {', '.join(names)}",
        details={"field": name, "known": names},
    )


def unknown_column(name: str, known: Iterable[str]) -> NotFoundError:
    """Return the error for a column that no field of the schema takes, with the nearest name."""
    names = list(known)
    return NotFoundError(
        "GV-105",
        f'column "{name}" is no field of the schema.{did_you_mean(name, names)}',
        hint=f"fields: {', '.join(names)}; Schema(..., dynamic=True) keeps unknown columns as JSON",
        details={"column": name, "known": names},
    )


def missing_column(field: str, columns: Iterable[str]) -> SchemaError:
    """Return the error for rows without a column that their schema needs."""
    names = list(columns)
    return SchemaError(
        "GV-106",
        f'the rows have no column for field "{field}".{did_you_mean(field, names)}',
        hint=f"columns: {', '.join(names)}; only nullable fields and those with a default may lack",
        details={"field": field, "columns": names},
    )


def wrong_type(field: str, *, wanted: str, got: object, hint: str = "") -> SchemaError:
    """Return the error for a column of a type that its field does not take."""
    return SchemaError(
        "GV-107",
        f'field "{field}" is {wanted}, got {got}',
        hint=hint or "convert the column, or declare the field with the type that it has",
        details={"field": field, "wanted": wanted, "got": str(got)},
    )


def value_does_not_fit(field: str, row: int, *, wanted: str, got: object) -> SchemaError:
    """Return the error for a value that its field's type cannot hold."""
    return SchemaError(
        "GV-108",
        f'field "{field}", row {row}: wanted {wanted}, got {got!r}',
        hint="rows count from 0; correct the value, or declare the field with a wider type",
        details={"field": field, "row": row, "wanted": wanted, "got": got},
    )


def null_not_allowed(field: str, row: int, *, why: str = "may not be null") -> SchemaError:
    """Return the error for a null where none may be."""
    return SchemaError(
        "GV-109",
        f'field "{field}", row {row}: {why}, got null',
        hint="rows count from 0; give a value, or declare the field nullable=True",
        details={"field": field, "row": row},
    )


def duplicate_key(field: str, row: int, first_row: int, key: object) -> SchemaError:
    """Return the error for a primary key that comes twice in one write."""
    return SchemaError(
        "GV-110",
        f'primary key "{field}": rows {first_row} and {row} both have {key!r}',
        hint="rows count from 0; drop one of them, or use upsert, where the last row wins",
        details={"field": field, "rows": [first_row, row], "key": key},
    )


def vector_not_finite(field: str, row: int, place: int, *, wanted: str, got: object) -> SchemaError:
    """Return the error for a vector with a NaN, an infinite, a missing or a too large number."""
    return SchemaError(
        "GV-111",
        f'field "{field}", row {row}: wanted finite {wanted} numbers, got {got} at position {place}',
        hint="rows count from 0; "
        'on_bad_vectors="drop" leaves such rows out, "null" only their vectors',
        details={"field": field, "row": row, "position": place, "got": str(got)},
    )


def vector_dimension(field: str, row: int, *, wanted: int, got: int) -> SchemaError:
    """Return the error for a row whose vector has another dimension than the field."""
    return SchemaError(
        "GV-112",
        f'field "{field}", row {row}: wanted {wanted} dimensions, got {got}',
        hint="rows count from 0; embed with the model of the field; null means no vector",
        details={"field": field, "row": row, "wanted": wanted, "got": got},
    )


def wrong_dimension(field: str, *, wanted: int, got: int, where: str = "") -> SchemaError:
    """Return the error for query vectors of another dimension than their field."""
    place = f' of "{where}"' if where else ""
    return SchemaError(
        "GV-113",
        f'queries have {got} dimensions; field "{field}"{place} has {wanted}',
        hint="embed the queries with the model that filled the field",
        details={"field": field, "wanted": wanted, "got": got},
    )


def bad_json(field: str, row: int, reason: str) -> SchemaError:
    """Return the error for text that is no JSON."""
    return SchemaError(
        "GV-115",
        f'field "{field}", row {row}: wanted JSON text, got {reason}',
        hint="rows count from 0; give objects, or the text that json.dumps returns",
        details={"field": field, "row": row},
    )


def bad_sparse(field: str, row: int, reason: str) -> SchemaError:
    """Return the error for a sparse vector whose positions make no sense."""
    return SchemaError(
        "GV-116",
        f'field "{field}", row {row}: {reason}',
        hint="rows count from 0; a sparse vector has distinct positions from 0 to 4294967295",
        details={"field": field, "row": row},
    )


def uneven_columns(lengths: Mapping[str, int]) -> SchemaError:
    """Return the error for columns of different lengths."""
    found = ", ".join(f'"{name}" has {rows}' for name, rows in lengths.items())
    return SchemaError(
        "GV-117", f"all columns must have as many rows: {found}", details={"rows": dict(lengths)}
    )


def unreadable_data(got: object) -> SchemaError:
    """Return the error for an object that is no rows in any form we know."""
    return SchemaError(
        "GV-118",
        f"cannot read rows from {type(got).__module__}.{type(got).__qualname__}",
        hint="give a pandas, polars, Dask, cuDF or Arrow table, a DuckDB relation, anything with "
        "__arrow_c_stream__, a dict of columns or a list of dicts",
        details={"type": type(got).__qualname__},
    )


def unreadable_column(name: object, reason: str) -> SchemaError:
    """Return the error for a column whose values are not of one type that we know."""
    return SchemaError(
        "GV-119",
        f"cannot read column {name!r}: {reason}",
        hint="a column holds values of one type: numbers, text, times, lists, vectors or dicts",
        details={"column": str(name), "reason": reason},
    )


def cannot_infer(name: str, got: object, hint: str) -> SchemaError:
    """Return the error for a column from which no field type follows."""
    return SchemaError(
        "GV-120",
        f'no field type follows from column "{name}" of type {got}',
        hint=hint,
        details={"column": name, "type": str(got)},
    )


def needs_primary_key(columns: Iterable[str], known: object) -> SchemaError:
    """Return the error for a schema that is to be inferred without a usable primary key."""
    names = list(columns)
    wanted = f"no column is named {known!r}." if known else "which column is the primary key?"
    near = did_you_mean(known, names) if isinstance(known, str) else ""
    return SchemaError(
        "GV-121",
        wanted + near,
        hint=f"give primary_key=; columns: {', '.join(names)}",
        details={"columns": names},
    )


def unreadable_queries(got: object, wanted: str) -> QueryError:
    """Return the error for queries that are no vectors."""
    return QueryError(
        "GV-123",
        f"queries must be {wanted}, got {got}",
        details={"wanted": wanted, "got": str(got)},
    )


def unfit_queries(error: SchemaError, column: str, wanted: str) -> GpuvecError:
    """Return an error about a column as one about the queries that it holds."""
    found = error.details
    if error.code == "GV-119":
        return QueryError("GV-123", f"queries must be {wanted}; {found['reason']}", details=found)
    if error.code == "GV-107":
        return unreadable_queries(found["got"], wanted)
    if "row" not in found:
        return error
    return SchemaError(
        error.code,
        error.message.replace(f'field "{column}"', "queries", 1),
        hint="rows count from 0; correct such queries, or leave them out",
        details={name: value for name, value in found.items() if name != "field"},
    )


def no_room_for_nulls(field: str) -> SchemaError:
    """Return the error for emptying bad vectors of a field that may not be null."""
    return SchemaError(
        "GV-124",
        f'on_bad_vectors="null" needs a nullable field; "{field}" is not',
        hint='use on_bad_vectors="drop", or declare the field nullable=True',
        details={"field": field},
    )


def no_tensor(columns: Iterable[str]) -> UnsupportedError:
    """Return the error for columns that have no form as a tensor."""
    names = list(columns)
    return UnsupportedError(
        "GV-125",
        f"no tensor can hold {', '.join(names)}",
        hint="select the numeric and vector columns without nulls first",
        details={"columns": names},
    )


def no_data_set(folder: object) -> NotFoundError:
    """Return the error for a folder without the debian-packages files."""
    return NotFoundError(
        "GV-126",
        f"no debian-packages data set in {folder}",
        hint="set GPUVEC_DATA to a folder with packages.parquet, or run from a clone, "
        "whose benchmarks/data holds a sample",
        details={"folder": str(folder)},
    )


def unknown_truth(name: str, known: Iterable[str]) -> NotFoundError:
    """Return the error for a filter that the data set has no truth for."""
    names = list(known)
    return NotFoundError(
        "GV-127",
        f'no truth for filter "{name}".{did_you_mean(name, names)}',
        hint=f"filters: {', '.join(names)}",
        details={"filter": name, "known": names},
    )


def unknown_collection(name: str, known: Iterable[str], *, where: str) -> NotFoundError:
    """Return the error for a collection that does not exist, with the nearest name."""
    names = sorted(known)
    return NotFoundError(
        "GV-150",
        f'no collection "{name}" in {where}.{did_you_mean(name, names)}',
        hint=f"collections: {', '.join(names) or 'none yet; create_collection makes one'}",
        details={"collection": name, "known": names},
    )


def collection_exists(name: str, *, alias_of: str | None = None) -> AlreadyExistsError:
    """Return the error for creating or renaming to a name that is taken."""
    what = f'"{name}" is an alias of "{alias_of}"' if alias_of else f'collection "{name}" exists'
    return AlreadyExistsError(
        "GV-151",
        what,
        hint=f'open it with db["{name}"], pass exist_ok=True, or choose another name',
        details={"collection": name},
    )


def bad_name(what: str, name: object) -> SchemaError:
    """Return the error for a collection, alias or partition name that cannot be used."""
    return SchemaError(
        "GV-152",
        f"{what} must be text of 1 to 255 characters without / or control characters; got {name!r}",
        details={"what": what, "name": name},
    )


def unknown_partition(name: str, known: Iterable[str], *, where: str) -> NotFoundError:
    """Return the error for a partition that does not exist, with the nearest name."""
    names = sorted(known)
    return NotFoundError(
        "GV-153",
        f'no partition "{name}" in collection "{where}".{did_you_mean(name, names)}',
        hint=f"partitions: {', '.join(names) or 'none; insert(..., partition=name) makes one'}",
        details={"partition": name, "known": names},
    )


def field_exists(name: str, *, where: str) -> AlreadyExistsError:
    """Return the error for adding a field whose name is taken."""
    return AlreadyExistsError(
        "GV-154",
        f'field "{name}" exists in collection "{where}"',
        hint="drop_field first, or choose another name",
        details={"field": name},
    )


def field_needs_filling(name: str) -> SchemaError:
    """Return the error for adding a field that the rows already there could not have."""
    return SchemaError(
        "GV-155",
        f'field "{name}" is not nullable and has no default, so existing rows would have no value',
        hint="give default=..., or make the type nullable=True",
        details={"field": name},
    )


def field_in_use(name: str, role: str) -> SchemaError:
    """Return the error for dropping or changing a field that the collection depends on."""
    return SchemaError(
        "GV-156",
        f'field "{name}" is the {role}; it can neither be dropped nor updated',
        hint="create a collection with another schema and insert the rows there",
        details={"field": name, "role": role},
    )


def key_exists(field: str, row: int, key: object, count: int, *, where: str) -> SchemaError:
    """Return the error for inserting keys that exist; nothing of the batch was written."""
    others = f" (and {count - 1:,} more)" if count > 1 else ""
    return SchemaError(
        "GV-157",
        f'{field} {key!r} of row {row} exists in collection "{where}"{others}',
        hint='use upsert, or insert(..., on_conflict="skip" or "replace")',
        details={"field": field, "row": row, "key": key, "count": count},
    )


def bad_choice(option: str, got: object, known: Iterable[str]) -> QueryError:
    """Return the error for an option with a value that does not exist."""
    names = [str(name) for name in known]
    return QueryError(
        "GV-158",
        f"{option} must be one of {', '.join(names)}; got {got!r}.{did_you_mean(str(got), names)}",
        details={"option": option, "got": got, "known": names},
    )


def one_of_needed(options: Iterable[str], given: Iterable[str]) -> QueryError:
    """Return the error for options of which exactly one must be given."""
    names, got = list(options), list(given)
    return QueryError(
        "GV-159",
        f"give exactly one of {', '.join(names)}; got {', '.join(got) or 'none'}",
        hint="to delete every row, use truncate()",
        details={"options": names, "given": got},
    )


def partition_not_allowed(key: str) -> QueryError:
    """Return the error for naming a partition where a partition key decides."""
    return QueryError(
        "GV-160",
        f'the partition of a row is the value of its partition key "{key}"; partition= is not taken',
        hint="leave partition out",
        details={"partition_key": key},
    )


def schema_or_data_needed() -> QueryError:
    """Return the error for creating a collection from nothing."""
    return QueryError(
        "GV-161",
        "create_collection needs a schema, or data and primary_key to infer one",
        hint='db.create_collection("items", data=df, primary_key="id")',
    )


def another_schema(name: str) -> AlreadyExistsError:
    """Return the error for `exist_ok=True` where the collection has another schema."""
    return AlreadyExistsError(
        "GV-162",
        f'collection "{name}" exists with another schema',
        hint=f'open it with db["{name}"] and look at .schema, or choose another name',
        details={"collection": name},
    )


def two_primary_keys(schema: str, argument: str) -> QueryError:
    """Return the error for a primary key beside a schema that has another."""
    return QueryError(
        "GV-165",
        f'the schema has the primary key "{schema}", primary_key says "{argument}"',
        hint="leave primary_key out",
        details={"schema": schema, "argument": argument},
    )


def dynamic_columns_left() -> QueryError:
    """Return the error for writing rows of a dynamic collection without its dynamic columns."""
    return QueryError(
        "GV-166",
        "the rows have dynamic columns, which a frame does not hand on by itself",
        hint='name those you want: frame.select("id", "embedding", "color")',
    )


def bad_ttl(got: object) -> QueryError:
    """Return the error for a time to live that is no positive span."""
    return QueryError(
        "GV-163",
        f'a time to live is seconds, a timedelta or text as "7d", "12h", "30m", "45s"; got {got!r}',
        hint="None keeps rows for ever",
        details={"ttl": got},
    )


def ids_do_not_fit(field: str, wanted: str, why: str) -> SchemaError:
    """Return the error for ids of another type than the primary key."""
    return SchemaError(
        "GV-164",
        f'ids must be {wanted}, the type of the primary key "{field}": {why}',
        details={"field": field, "wanted": wanted},
    )


def bad_default(kind: str, default: object) -> SchemaError:
    """Return the error for a default that the field's type cannot hold."""
    return SchemaError(
        "GV-128",
        f"a field of type {kind} cannot have the default {default!r}",
        details={"type": kind, "default": repr(default)},
    )


# 2xx: filters


def filter_syntax(text: str, position: int, expected: str, *, hint: str = "") -> FilterError:
    """`GV-201`: the text cannot be read; `expected` says what could stand at `position`."""
    return FilterError(
        "GV-201",
        "cannot read this filter",
        hint=_with_caret(text, position, f"expected {expected}", hint),
        details={"text": text, "position": position, "expected": expected},
    )


def filter_type(text: str, position: int, problem: str, *, hint: str = "") -> FilterError:
    """`GV-202`: an operation on values that it is not for."""
    return FilterError(
        "GV-202",
        problem,
        hint=_with_caret(text, position, "here", hint),
        details={"text": text, "position": position},
    )


def missing_parameter(text: str, position: int, name: str, given: Iterable[str]) -> FilterError:
    names = list(given)
    return FilterError(
        "GV-203",
        f"no value for the parameter {{{name}}}.{did_you_mean(name, names)}",
        hint=_with_caret(text, position, f'give params={{"{name}": ...}}'),
        details={"parameter": name, "given": names},
    )


def unused_parameters(names: Iterable[str], known: Iterable[str]) -> FilterError:
    unused, wanted = sorted(names), sorted(known)
    near = did_you_mean(unused[0], wanted)
    has = f"its parameters: {', '.join(wanted)}" if wanted else "it has no parameters"
    return FilterError(
        "GV-204",
        f"the filter does not use {', '.join(unused)}.{near}",
        hint=f"{has}; a parameter is written {{name}}",
        details={"unused": unused, "known": wanted},
    )


def bad_value(value: object) -> FilterError:
    return FilterError(
        "GV-205",
        f"a {type(value).__name__} cannot be a value in an expression: {_short(value)}",
        hint="use a bool, int, float, text, datetime or date; for several values, is_in([...])",
        details={"type": type(value).__name__},
    )


def bad_list(value: object) -> FilterError:
    return FilterError(
        "GV-205",
        f"wanted a flat list of values, got {type(value).__name__}: {_short(value)}",
        hint="use a list, a one-dimensional array or a column",
        details={"type": type(value).__name__},
    )


def null_value(text: str, position: int) -> FilterError:
    """`GV-206`: null where it could never select a row."""
    return FilterError(
        "GV-206",
        "nothing is equal to null, nor different from it",
        hint=_with_caret(text, position, 'write "is null" or .is_null()'),
        details={"text": text, "position": position},
    )


def expression_truth(text: str) -> FilterError:
    return FilterError(
        "GV-207",
        f"an expression is neither true nor false before it is run: {text}",
        hint="write & | ~ for and, or, not, with parentheses around comparisons; "
        ".between(low, high) for a range; .is_in(values) for in",
        details={"text": text},
    )


def filter_too_deep() -> FilterError:
    return FilterError(
        "GV-208",
        "the expression is nested too deeply",
        hint="put long alternatives in a list: name in [...]",
    )


def unknown_function(text: str, position: int, name: str, known: Iterable[str]) -> FilterError:
    names = sorted(known)
    return FilterError(
        "GV-209",
        f'no function "{name}".{did_you_mean(name, names)}',
        hint=_with_caret(text, position, f"functions: {', '.join(names)}"),
        details={"function": name, "known": names},
    )


def not_a_filter(value: object) -> FilterError:
    return FilterError(
        "GV-210",
        f"a filter is text or an expression, got {type(value).__name__}: {_short(value)}",
        hint='write "price < 20" or gv.col("price") < 20',
        details={"type": type(value).__name__},
    )


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"


def _with_caret(text: str, position: int, note: str, hint: str = "") -> str:
    """Return the line of `text` around a position, a caret below it with a note, then the hint."""
    first = text.rfind("\n", 0, position) + 1
    last = text.find("\n", position)
    line = text[first : len(text) if last < 0 else last].replace("\t", " ")
    column = position - first
    skip = max(0, column - 60)
    before = "…" if skip else ""
    after = "…" if len(line) > skip + 120 else ""
    shown = f"{before}{line[skip : skip + 120]}{after}"
    found = f"{shown}\n  {' ' * (column - skip + len(before))}^ {note}"
    return f"{found}\n  {hint}" if hint else found


# 3xx: queries


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


def output_exists(path: str) -> AlreadyExistsError:
    """Return the error for writing where something already is."""
    return AlreadyExistsError(
        "GV-366",
        f'"{path}" exists and is not empty',
        hint="choose another path, or remove it first",
        details={"path": path},
    )


# 4xx: memory


def device_memory_exceeded(
    what: str, *, needed: int, free: int, parts: Mapping[str, int], where: str
) -> DeviceMemoryError:
    """Return the error for work that does not fit into a memory budget, with who holds what."""
    held = ", ".join(f"{name} {size / 2**20:,.0f} MiB" for name, size in parts.items())
    return DeviceMemoryError(
        "GV-400",
        f"{what} needs {needed / 2**20:,.1f} MiB of {where} memory; "
        f"{free / 2**20:,.1f} MiB of the budget are free" + (f" (held: {held})" if held else ""),
        hint="raise the memory limit, close other databases or results, search fewer queries at "
        "once, or choose float16 or int8 vectors",
        details={"what": what, "needed": needed, "free": free, "parts": dict(parts)},
    )


def result_too_large(rows: int, size_bytes: int, limit_bytes: int) -> ResultTooLargeError:
    """Return the error for an answer that host memory cannot hold."""
    return ResultTooLargeError(
        "GV-420",
        f"the answer has about {rows:,} rows and {size_bytes / 2**30:,.2f} GiB; "
        f"{limit_bytes / 2**30:,.2f} GiB of memory may be used",
        hint="write it with to_parquet(path), read it with to_batches(n), select fewer columns, "
        "or give less k",
        details={"rows": rows, "size_bytes": size_bytes, "limit_bytes": limit_bytes},
    )


# 5xx: storage


def missing_object(where: str) -> CorruptError:
    """Return the error for a file that a manifest or a caller names and that is not there."""
    return CorruptError(
        "GV-501",
        f"{where} is missing",
        hint="files of a database are never removed by hand: restore it from a copy",
        details={"path": where, "missing": True},
    )


def object_too_short(where: str, *, wanted: int, got: int) -> CorruptError:
    """Return the error for a file that ends too early."""
    return CorruptError(
        "GV-502",
        f"{where} should have {wanted:,} bytes, it has {got:,}",
        hint="its length changed after it was written: restore it from a copy",
        details={"path": where, "wanted": wanted, "got": got, "missing": False},
    )


def wrong_checksum(where: str, *, wanted: int, got: int) -> CorruptError:
    """Return the error for a file whose bytes changed."""
    return CorruptError(
        "GV-503",
        f"{where} should have checksum {wanted:08x}, it has {got:08x}",
        hint="its bytes changed after they were written: check the disk, restore it from a copy",
        details={"path": where, "wanted": wanted, "got": got, "missing": False},
    )


def storage_failed(action: str, where: str, cause: OSError) -> StorageError:
    """Name the case by what the operating system answered."""
    code, hint = (
        "GV-504",
        "check the disk and the system's log; gpuvec acknowledged nothing of this",
    )
    if cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        code, hint = "GV-505", "make room on the disk and try again; what was acknowledged is safe"
    elif cause.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        code, hint = "GV-506", "give this user the right to do so, or work on a copy"
    elif cause.errno in (errno.ENFILE, errno.EMFILE):
        hint = "raise the limit of open files (ulimit -n)"
    elif cause.errno in (errno.ENOTDIR, errno.EEXIST):
        hint = "a file stands where a folder should be: choose another path"
    elif cause.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
        hint = "gpuvec needs hard links and locks: choose a POSIX file system"
    return StorageError(
        code,
        f"cannot {action} {where}: {cause.strerror or cause}",
        hint=hint,
        details={"path": where, "errno": cause.errno},
    )


def log_failed_before(where: str) -> StorageError:
    """Return the error for a log whose end is unknown since an append failed."""
    return StorageError(
        "GV-507",
        f"cannot append to {where}: an earlier append failed, so its end is unknown",
        hint="reopen the database: it finds what the disk holds and goes on in a new file",
        details={"path": where},
    )


def unknown_store(url: str, scheme: str) -> UnsupportedError:
    """Return the error for a URL of a kind that gpuvec does not open."""
    return UnsupportedError(
        "GV-508",
        f'"{url}" should be a path, file:// and a path, or memory://; got {scheme}://',
        hint="copy the data to a local path",
        details={"url": url, "scheme": scheme},
    )


def locked(where: str, pid: int | None) -> UnavailableError:
    """Return the error for a second process that wants to write."""
    owner = "another process" if pid is None else f"process {pid}"
    return UnavailableError(
        "GV-510",
        f"{where} is held by {owner}, which writes to this database",
        hint="one process writes, any number read: close the other one, or write through it",
        details={"path": where, "pid": pid, "retryable": True, "outcome": "none"},
    )


def unknown_storage_options(scheme: str, options: Iterable[str]) -> UnsupportedError:
    """Return the error for options that a kind of store does not have."""
    names = sorted(options)
    return UnsupportedError(
        "GV-511",
        f"{scheme}:// takes no storage_options; got {', '.join(names)}",
        hint="leave storage_options out",
        details={"options": names},
    )


def unknown_durability(got: object, known: Iterable[str]) -> QueryError:
    """Return the error for a durability that does not exist."""
    names = list(known)
    return QueryError(
        "GV-512",
        f'durability must be one of {", ".join(names)}; got "{got}"',
        hint='"fsync" survives power cuts, "os" only the death of the process',
        details={"got": got, "known": names},
    )


def unreadable_file(where: str, cause: object) -> CorruptError:
    """Return the error for an intact file that is not in the format wanted."""
    return CorruptError(
        "GV-513",
        f"{where} has the right checksum but cannot be read: {cause}",
        hint="it may come from a newer gpuvec: read it with that version",
        details={"path": where, "missing": False},
    )


def missing_entry(where: str) -> CorruptError:
    """Return the error for a gap in a manifest log."""
    return CorruptError(
        "GV-520",
        f"{where} is missing from the history that later entries continue",
        hint="files of a database are never removed by hand: restore it from a copy",
        details={"path": where, "missing": True},
    )


def damaged_entry(where: str, why: str) -> CorruptError:
    """Return the error for a manifest entry or checkpoint whose bytes are not what was written."""
    return CorruptError(
        "GV-521",
        f"{where} is damaged: {why}",
        hint="restore this file from a copy; nothing was read past it",
        details={"path": where, "why": why},
    )


def newer_file(where: str, *, wanted: int, got: object) -> UnsupportedError:
    """Return the error for a file that a newer gpuvec wrote."""
    return UnsupportedError(
        "GV-522",
        f"{where} was written by a newer gpuvec: format {got}, this one reads up to {wanted}",
        hint="upgrade gpuvec; nothing was changed",
        details={"path": where, "wanted": wanted, "got": got},
    )


def generation_lost(*, mine: int, newest: int) -> UnavailableError:
    """Return the error for a commit by a coordinator that another has replaced."""
    return UnavailableError(
        "GV-523",
        f"another coordinator took over: this one has generation {mine}, the log has {newest}",
        hint="nothing was changed; open the database again",
        details={"mine": mine, "newest": newest, "retryable": False, "outcome": "none"},
    )


def commit_unknown(where: str) -> UnavailableError:
    """Return the error for a commit whose outcome the store would not tell."""
    return UnavailableError(
        "GV-524",
        f"the store failed while {where} was committed, and does not say whether it was",
        hint="read again once the store answers; a retry with the same request id is safe",
        details={"path": where, "retryable": True, "outcome": "unknown"},
    )


def manifest_conflict(why: str) -> ConflictError:
    """Return the error for a change that another change made impossible."""
    return ConflictError(
        "GV-525",
        f"another change came first: {why}",
        hint="nothing was changed; look again and retry",
        details={"why": why},
    )


def damaged_log(where: str, why: str) -> CorruptError:
    """Return the error for a write-ahead log whose bytes are not what was written."""
    return CorruptError(
        "GV-526",
        f"write-ahead log {where} is damaged: {why}",
        hint="restore the file from a copy; nothing was read past the damage and nothing was cut",
        details={"path": where, "why": why},
    )


def channel_fenced(channel: str, *, mine: int, newest: int, outcome: str) -> UnavailableError:
    """Return the error for a write by an owner whose channel another process took."""
    return UnavailableError(
        "GV-527",
        f"channel {channel} was taken by another writer: epoch {newest}, this one has {mine}",
        hint="open the database again to write; a retry with the same request id is safe",
        details={"mine": mine, "newest": newest, "retryable": True, "outcome": outcome},
    )


def append_unknown(channel: str, cause: object) -> UnavailableError:
    """Return the error for a write whose outcome the store would not tell."""
    return UnavailableError(
        "GV-528",
        f"the log of channel {channel} could not be written: {cause}",
        hint="the write may be in the log; a retry with the same request id is safe",
        details={"retryable": True, "outcome": "unknown"},
    )


def claim_lost(channel: str, *, mine: int, newest: int) -> UnavailableError:
    """Return the error for a claim that a later claim overtook."""
    return UnavailableError(
        "GV-529",
        f"channel {channel} was claimed with epoch {newest} while epoch {mine} was being set up",
        hint="another process writes to this database; close it there, or write there",
        details={"mine": mine, "newest": newest, "retryable": True, "outcome": "none"},
    )


def log_undecided(where: str) -> UnavailableError:
    """Return the error for a log whose next owner has begun a take-over and not finished it."""
    return UnavailableError(
        "GV-530",
        f"a writer is taking over {where}; whether its last write counts is not decided yet",
        hint="retry shortly; if it goes on, open the database for writing once",
        details={"path": where, "retryable": True, "outcome": "none"},
    )


# 6xx: writers and availability


def database_closed(where: str) -> UnavailableError:
    """Return the error for using a database after `close()`."""
    return UnavailableError(
        "GV-600",
        f"the database {where} was closed",
        hint="open it again with gv.connect",
        details={"retryable": False, "outcome": "none"},
    )


def forked(where: str) -> UnavailableError:
    """Return the error for using a database in a child process made by fork."""
    return UnavailableError(
        "GV-601",
        f"the database {where} was opened before this process was forked",
        hint="call gv.connect in the child; a child reads what the parent acknowledged",
        details={"retryable": False, "outcome": "none"},
    )


def written_elsewhere(where: str, owner: str) -> ConflictError:
    """Return the error for writing to a database that another process is writing to."""
    return ConflictError(
        "GV-602",
        f"{owner} is writing to the database {where}; one process writes at a time",
        hint="nothing was written; reading works here. Write from that process, or close it there",
        details={"path": where, "owner": owner, "retryable": True},
    )


def write_outcome_unknown(where: str, cause: BaseException) -> UnavailableError:
    """Return the error for a write of which nobody can tell whether it became durable."""
    return UnavailableError(
        "GV-603",
        f'the log of "{where}" could neither be written nor read back: {_brief(cause)}',
        hint="make the store writable again; a retry tells whether the write is there",
        details={"retryable": True, "outcome": "unknown"},
    )


def _brief(cause: BaseException) -> str:
    return f"[{cause.code}] {cause.message}" if isinstance(cause, GpuvecError) else str(cause)


def write_failed(where: str, cause: BaseException) -> UnavailableError:
    """Return the error for a write that certainly did not happen."""
    return UnavailableError(
        "GV-604",
        f'nothing was written to "{where}": {_brief(cause)}',
        hint="make the store writable again and retry",
        details={"retryable": True, "outcome": "none"},
    )


def not_a_database(where: str, found: Iterable[str]) -> StorageError:
    """Return the error for a directory that holds other things."""
    names = sorted(found)
    return StorageError(
        "GV-605",
        f"{where} is not a gpuvec database: it has no gpuvec.json, but holds "
        f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}",
        hint="nothing was changed. Give an empty or a new directory",
        details={"path": where, "found": names[:100]},
    )


def newer_format(where: str, got: object, known: int) -> UnsupportedError:
    """Return the error for a database that a later gpuvec wrote."""
    return UnsupportedError(
        "GV-606",
        f"the database {where} has format {got}; this gpuvec reads up to {known}",
        hint="upgrade gpuvec. Nothing was changed",
        details={"path": where, "format": got, "known": known},
    )


def not_a_directory(where: str) -> StorageError:
    """Return the error for a database path that is a file."""
    return StorageError(
        "GV-607",
        f"{where} is a file; a database is a directory",
        hint="give a directory; gv.frame reads single files",
        details={"path": where},
    )


def collection_gone(name: str) -> NotFoundError:
    """Return the error for using a collection that was dropped since."""
    return NotFoundError("GV-608", f'collection "{name}" was dropped', details={"collection": name})


def damaged_format(where: str) -> CorruptError:
    """Return the error for a database whose gpuvec.json cannot be read."""
    return CorruptError(
        "GV-609",
        f"gpuvec.json of the database {where} is damaged",
        hint='if it was a database of this gpuvec, write {"format": 1} into it',
        details={"path": where},
    )


def opened_otherwise(where: str, durability: str) -> QueryError:
    """Return the error for opening a database twice in one process, with different durability."""
    return QueryError(
        "GV-612",
        f'{where} is open in this process with durability="{durability}"',
        hint="close it first, or open it the same way",
        details={"path": where, "durability": durability},
    )


def no_such_node(node: str) -> UnavailableError:
    """Return the error for a call to a node that is not there."""
    return UnavailableError(
        "GV-610",
        f'no node "{node}" answers',
        details={"node": node, "retryable": True, "outcome": "none"},
    )


def deadline_passed(what: str, seconds: float) -> DeadlineError:
    """Return the error for a call that got no answer in time."""
    return DeadlineError(
        "GV-611",
        f"no answer within {seconds:g} s from {what}",
        hint="the outcome is unknown; look before you write again",
        details={"waited_for": what, "seconds": seconds, "outcome": "unknown"},
    )


# 7xx: rights, quotas, settings


def unknown_setting(key: str, known: Iterable[str], *, where: str = "") -> NotFoundError:
    """Return the error for a setting that does not exist, with the nearest name."""
    names = sorted(known)
    place = f" (in {where})" if where else ""
    return NotFoundError(
        "GV-701",
        f'no setting "{key}"{place}.{did_you_mean(key, names)}',
        hint=f"settings: {', '.join(names)}",
        details={"setting": key, "known": names},
    )


def bad_setting(key: str, got: object, wanted: str, *, where: str) -> QueryError:
    """Return the error for a setting whose value is of the wrong kind."""
    return QueryError(
        "GV-702",
        f'setting "{key}" cannot be {got!r}: {wanted}',
        hint=f"it came from {where}",
        details={"setting": key, "got": got},
    )


def no_such_file(path: str, *, what: str) -> NotFoundError:
    """Return the error for a file, glob or database that is not there."""
    return NotFoundError("GV-703", f"no {what} at {path}", details={"path": path})


def not_a_collection_path(target: str) -> QueryError:
    """Return the error for a command-line target that names no collection."""
    return QueryError(
        "GV-704",
        f'"{target}" names no collection',
        hint="wanted: database path, slash, collection: ./shop/items",
    )


def unknown_file_kind(path: str, known: Iterable[str]) -> QueryError:
    """Return the error for a file whose ending is not understood."""
    return QueryError("GV-705", f"cannot read {path}", hint=f"endings: {', '.join(known)}")


# 9xx: not available here


def package_missing(package: str, purpose: str) -> UnsupportedError:
    """Return the error for a conversion to a library that is not installed."""
    return UnsupportedError(
        "GV-930",
        f"{purpose} needs {package}, which is not installed",
        hint=f"install {package}, or use to_arrow(), which needs nothing",
        details={"package": package},
    )


def no_cluster_yet() -> UnsupportedError:
    """Return the error for a cluster, which this version cannot use."""
    return UnsupportedError(
        "GV-640",
        "this version runs in one process; cluster= is not available",
        hint="leave cluster out: the same files can be opened by a cluster later",
    )


def no_external_yet() -> UnsupportedError:
    """Return the error for an external collection, which this version cannot make."""
    return UnsupportedError(
        "GV-641",
        "external collections are not available",
        hint='gv.frame("…/*.parquet") reads files in place; create_collection(data="…") copies them',
    )


def no_gpu(reason: str) -> UnsupportedError:
    """Return the error for `device="gpu"` where no GPU can be used."""
    return UnsupportedError(
        "GV-900",
        f'device="gpu" was asked for, but {reason}',
        hint='use device="auto" to take a GPU only where there is one, or run `nvidia-smi` and '
        "check the driver and CUDA_VISIBLE_DEVICES",
        details={"reason": reason},
    )


def gpu_package_missing(package: str) -> UnsupportedError:
    """Return the error for GPU work without the Python package that it needs."""
    return UnsupportedError(
        "GV-901",
        f'GPU work needs the package "{package}", which is not installed',
        hint='pip install "gpuvec[gpu-cu12]" (CUDA 12) or "gpuvec[gpu-cu13]" (CUDA 13)',
        details={"package": package},
    )


def unknown_device(device: object) -> QueryError:
    """Return the error for a device name that does not exist."""
    return QueryError(
        "GV-902",
        f'device must be "auto", "cpu" or "gpu"; got {device!r}',
        details={"device": device},
    )
