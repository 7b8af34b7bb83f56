"""66x, 67x: files of others: bulk imports and external collections."""

from collections.abc import Sequence
from typing import Any

from gpuvec.errors.base import (
    ConflictError,
    CorruptError,
    GpuvecError,
    QueryError,
    SchemaError,
    StorageError,
    UnsupportedError,
)


def unreachable_files(pattern: str, cause: Exception) -> QueryError:
    """Return the error for a URL that no library here can open."""
    return QueryError(
        "GV-660",
        f"cannot open {pattern}: {cause}",
        hint="wanted: a path, s3://, gs://, az://, or a URL whose fsspec library is installed",
        details={"path": pattern},
    )


def outside_failed(action: str, path: str, cause: Exception) -> StorageError:
    """Return the error for a file of others that cannot be listed, looked at or read."""
    reason = str(cause).splitlines()[0] if str(cause) else type(cause).__name__
    return StorageError(
        "GV-661",
        f"cannot {action} {path}: {reason}",
        hint="check the path, the rights and storage_options; nothing of the database changed",
        details={"path": path},
    )


def file_changed(path: str, *, call: str) -> ConflictError:
    """Return the error for a file that is not what it was when the work began."""
    return ConflictError(
        "GV-662",
        f"{path} was written again since it was looked at",
        hint=f"leave files alone while they are read; {call}",
        details={"path": path, "retryable": True},
    )


def bad_rows_in_file(path: str, first_row: int, cause: GpuvecError) -> GpuvecError:
    """Return an error of the door with the file's name; its row counts from the file's start."""
    row = cause.details.get("row")
    place = f", row {first_row + row:,}" if isinstance(row, int) else ""
    details = {**cause.details, "path": path, "first_row": first_row}
    if isinstance(row, int):
        details["row"] = first_row + row
    message = cause.message
    if isinstance(row, int) and first_row:
        message += f" (rows of this message count from row {first_row:,} of the file)"
    return type(cause)(cause.code, f"{path}{place}: {message}", hint=cause.hint, details=details)


def duplicate_in_files(
    field: str, key: object, places: Sequence[str], count: int, *, external: bool = False
) -> SchemaError:
    """Return the error for a primary key that comes twice in files, imported or read in place."""
    others = f", and {count - 1:,} more keys come twice" if count > 1 else ""
    where = f": {'; '.join(places)}" if places else ""
    return SchemaError(
        "GV-663",
        f'primary key "{field}": {key!r} comes twice in the files{where}{others}',
        hint="rows count from 0; "
        + (
            "an external collection shows every row of its files: leave one of these out there, or "
            'bulk_import(..., on_conflict="skip" or "replace") into a collection of its own'
            if external
            else 'on_conflict="skip" keeps the first row of a key, "replace" the last; nothing was '
            "imported"
        ),
        details={"field": field, "key": key, "places": list(places), "count": count},
    )


def imported_key_exists(
    field: str, key: object, count: int, *, where: str, places: Sequence[str]
) -> SchemaError:
    """Return the error for importing keys that exist; no row is visible."""
    others = f" (and {count - 1:,} more)" if count > 1 else ""
    place = f" of {places[0]}" if places else ""
    return SchemaError(
        "GV-664",
        f'{field} {key!r}{place} exists in collection "{where}"{others}',
        hint='bulk_import(..., on_conflict="skip" or "replace"); nothing was imported',
        details={"field": field, "key": key, "count": count},
    )


def no_keys_in_array(path: str, field: str, kind: str) -> SchemaError:
    """Return the error for vectors without keys where keys cannot be counted."""
    return SchemaError(
        "GV-665",
        f'{path} holds vectors and no keys; the primary key "{field}" is {kind}',
        hint="only Int64 keys are numbered, from 0 through the files: give keys beside the vectors "
        "in a .npz or Parquet file",
        details={"path": path, "field": field},
    )


def unfit_array(path: str, why: str) -> CorruptError:
    """Return the error for a NumPy file that holds no rows."""
    return CorruptError(
        "GV-666",
        f"cannot import {path}: {why}",
        hint="wanted: .npy with a 2-D array of numbers in C order, .npz with arrays of one length",
        details={"path": path},
    )


def bad_columns(columns: object) -> QueryError:
    """Return the error for a mapping of columns that is none."""
    return QueryError(
        "GV-668",
        f"cannot read columns={columns!r}",
        hint='wanted: column of the files to field, {"emb": "embedding"}; None leaves a column out',
        details={"got": repr(columns)},
    )


def cannot_resume(what: str) -> UnsupportedError:
    """Return the error for resuming a job that cannot go on where it was."""
    return UnsupportedError(
        "GV-669",
        f"{what} cannot be resumed",
        hint="start it again: create_index goes on with the segments that lack the index",
    )


def external_read_only(name: str, call: str) -> UnsupportedError:
    """Return the error for writing to a collection whose rows lie in files of others."""
    return UnsupportedError(
        "GV-670",
        f'"{name}" reads files in place: {call} cannot change them',
        hint=f'change the files, then db["{name}"].refresh(); or copy them into a collection with '
        "bulk_import",
        details={"collection": name},
    )


def external_changed(path: str, name: str) -> ConflictError:
    """Return the error for a file of an external collection that is not what it was."""
    return ConflictError(
        "GV-671",
        f'{path} was written again since "{name}" looked at it',
        hint=f'db["{name}"].refresh() takes its new rows over',
        details={"path": path, "collection": name, "retryable": True},
    )


def external_gone(path: str, name: str) -> StorageError:
    """Return the error for a file of an external collection that is not there any more."""
    return StorageError(
        "GV-672",
        f'{path} of the external collection "{name}" is gone',
        hint=f'put it back, or db["{name}"].refresh() to go on without its rows',
        details={"path": path, "collection": name},
    )


def external_needs_parquet(path: str) -> UnsupportedError:
    """Return the error for an external collection of files that are not Parquet."""
    return UnsupportedError(
        "GV-673",
        f"an external collection reads Parquet files, not {path}",
        hint="bulk_import copies Arrow, NumPy and CSV files into a collection",
        details={"path": path},
    )


def external_options(given: Sequence[str]) -> QueryError:
    """Return the error for options that do not go with external files."""
    wrong = f"external= does not go with {', '.join(given)}" if given else "external= needs a key"
    return QueryError(
        "GV-674",
        wrong,
        hint='create_collection(name, external="…/*.parquet", primary_key="id"): schema and rows '
        "follow from the files",
        details={"given": list(given)},
    )


def bad_external(got: object) -> QueryError:
    """Return the error for external files that are not named by one text."""
    return QueryError(
        "GV-674",
        f"external= wants one path, URL or glob, as text; got {got!r}",
        hint='a glob stands for several files: external="crawl/part*.parquet"',
        details={"got": repr(got)},
    )


def drifted_file(path: str, field: str, wanted: Any, got: Any) -> SchemaError:
    """Return the error for a file whose columns are not those of the collection."""
    return SchemaError(
        "GV-676",
        f'{path}: field "{field}" should be {wanted}, it is {got}',
        hint="write the file with the columns of the others, or bulk_import it, which casts",
        details={"path": path, "field": field, "wanted": str(wanted), "got": str(got)},
    )
