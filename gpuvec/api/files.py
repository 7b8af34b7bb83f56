"""Rows of files as one Arrow dataset: globs of Parquet, CSV or Arrow, from any fsspec URL."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gpuvec.errors import no_such_file, unknown_file_kind, unreadable_source

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


def open_files(pattern: str, options: Mapping[str, Any] | None = None) -> "ds.Dataset":
    """Return the files that a path, URL or glob names, as one Arrow dataset.

    Args:
        pattern: what names them.
        options: of the fsspec file system.

    Raises:
        NotFoundError: `GV-703`, no file matches.
        QueryError: `GV-705`, an ending that is none of `FORMATS`.
        CorruptError: `GV-709`, a file is not what its ending says.
    """
    import fsspec
    import pyarrow.dataset as ds

    filesystem, path = fsspec.core.url_to_fs(pattern, **(options or {}))
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


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0]
