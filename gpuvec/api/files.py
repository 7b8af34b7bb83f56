"""Reading rows from files: globs of Parquet, CSV or Arrow, in batches, from any fsspec URL."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from gpuvec.errors import no_such_file, unknown_file_kind

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
    """
    import fsspec
    import pyarrow.dataset as ds

    filesystem, path = fsspec.core.url_to_fs(pattern)
    paths = sorted(filesystem.glob(path)) if "*" in path else [path]
    files = [found for found in paths if filesystem.isfile(found)]
    if not files:
        raise no_such_file(pattern, what="file")
    ending = files[0].rsplit(".", 1)[-1].lower()
    if ending not in FORMATS:
        raise unknown_file_kind(files[0], FORMATS)
    return ds.dataset(files, format=FORMATS[ending], filesystem=filesystem)


def count_rows(pattern: str) -> int:
    """Return how many rows the files hold; Parquet and Arrow answer from their footers."""
    return int(open_files(pattern).count_rows())


def read_batches(
    pattern: str, batch_rows: int, renames: Mapping[str, str] | None = None
) -> Iterator[pa.Table]:
    """Yield the rows of the files, in order, as tables of `batch_rows` rows; the last may be short.

    Args:
        pattern: see `open_files`.
        batch_rows: rows of a table, at least 1.
        renames: column of the files to field.
    """
    waiting: list[pa.Table] = []
    rows = 0
    for batch in open_files(pattern).to_batches(batch_size=batch_rows):
        table = pa.Table.from_batches([batch])
        names = [(renames or {}).get(name, name) for name in table.column_names]
        waiting.append(table.rename_columns(names))
        rows += batch.num_rows
        while rows >= batch_rows:
            joined = pa.concat_tables(waiting)
            yield joined.slice(0, batch_rows)
            waiting = [joined.slice(batch_rows)]
            rows -= batch_rows
    if rows:
        yield pa.concat_tables(waiting)
