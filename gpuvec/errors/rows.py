"""105 to 127: rows and columns that do not fit their schema."""

from collections.abc import Iterable, Mapping

from gpuvec.errors.base import (
    GpuvecError,
    NotFoundError,
    QueryError,
    SchemaError,
    UnsupportedError,
    did_you_mean,
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
        f'field "{field}", row {row}: wanted finite {wanted} numbers, '
        f"got {got} at position {place}",
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
