"""Reading rows from files: globs of Parquet, CSV or Arrow, in batches, from any fsspec URL."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from gpuvec.errors import no_such_column, no_such_file, unknown_file_kind, unreadable_source

if TYPE_CHECKING:
    import pyarrow.dataset as ds

FORMATS = {
    "parquet": "parquet",
    "pq": "parquet",
    "csv": "csv",
    "arrow": "ipc",
    "feather": "ipc",
    "ipc": "ipc",
}


def open_files(pattern: str) -> "ds.Dataset":
    """Return the files that a path, URL or glob names, as one Arrow dataset.

    Raises:
        NotFoundError: `GV-703`, no file matches.
        QueryError: `GV-705`, an ending that is none of `FORMATS`.
        CorruptError: `GV-709`, a file is not what its ending says.
    """
    import fsspec
    import pyarrow.dataset as ds

    filesystem, path = fsspec.core.url_to_fs(pattern)
    paths = sorted(filesystem.glob(path)) if any(c in path for c in "*?[") else [path]
    files = [found for found in paths if filesystem.isfile(found)]
    if not files:
        raise no_such_file(pattern, what="file")
    ending = files[0].rsplit(".", 1)[-1].lower()
    if ending not in FORMATS:
        raise unknown_file_kind(files[0], FORMATS)
    try:
        return ds.dataset(files, format=FORMATS[ending], filesystem=filesystem)
    except (pa.ArrowInvalid, OSError) as error:
        raise unreadable_source(pattern, _reason(error)) from error


def count_rows(pattern: str) -> int:
    """Return how many rows the files hold; Parquet and Arrow answer from their footers."""
    try:
        return int(open_files(pattern).count_rows())
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise unreadable_source(pattern, _reason(error)) from error


def read_batches(
    pattern: str, batch_rows: int, renames: Mapping[str, str] | None = None
) -> Iterator[pa.Table]:
    """Yield the rows of the files, in order, as tables of `batch_rows` rows; the last may be short.

    Args:
        pattern: see `open_files`.
        batch_rows: rows of a table, at least 1.
        renames: column of the files to field.
    """
    files = open_files(pattern)
    wanted = renames or {}
    for name in wanted:
        if name not in files.schema.names:
            raise no_such_column(name, files.schema.names)
    waiting: list[pa.Table] = []
    rows = 0
    for batch in _batches(files, batch_rows, pattern):
        names = [wanted.get(name, name) for name in batch.schema.names]
        waiting.append(pa.Table.from_batches([batch]).rename_columns(names))
        rows += batch.num_rows
        while rows >= batch_rows:
            joined = pa.concat_tables(waiting)
            yield joined.slice(0, batch_rows)
            waiting = [joined.slice(batch_rows)]
            rows -= batch_rows
    if rows:
        yield pa.concat_tables(waiting)


def _batches(files: "ds.Dataset", batch_rows: int, pattern: str) -> Iterator[pa.RecordBatch]:
    try:
        yield from files.to_batches(batch_size=batch_rows)
    except (pa.ArrowInvalid, pa.ArrowIOError) as error:
        raise unreadable_source(pattern, _reason(error)) from error


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0]
