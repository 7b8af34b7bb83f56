"""Rows on their way out, piece by piece: Arrow batches and streams, Parquet files."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from gpuvec.api import interop
from gpuvec.errors import bad_number, output_exists
from gpuvec.query.execute import empty_part
from gpuvec.query.plan import Columns
from gpuvec.rows import Rows

PART_ROWS = 1 << 20  # of one file in a folder
GROUP_ROWS = 1 << 17


def arrow_schema(columns: Columns) -> pa.Schema:
    """Return the Arrow schema in which the columns leave."""
    return interop.to_arrow(empty_part(columns).to_rows(columns.visible, columns.vectors)).schema


def arrow_batches(pieces: Iterable[Rows], columns: Columns) -> Iterator[pa.RecordBatch]:
    """Yield one Arrow batch per piece, all of one schema."""
    schema = arrow_schema(columns)
    for rows in pieces:
        table = interop.to_arrow(rows)
        if table.schema != schema:
            table = table.cast(schema)
        yield from table.combine_chunks().to_batches()


def arrow_stream(pieces: Iterable[Rows], columns: Columns) -> pa.RecordBatchReader:
    """Return the pieces as an Arrow stream, read as they are computed."""
    return pa.RecordBatchReader.from_batches(arrow_schema(columns), arrow_batches(pieces, columns))


def write_parquet(
    pieces: Iterable[Rows], columns: Columns, path: str, partition_by: Sequence[str]
) -> None:
    """Write rows as they are computed, in bounded memory.

    Args:
        pieces: the rows.
        columns: their types.
        path: a file, if it ends in `.parquet` and rows are not partitioned, else a folder.
        partition_by: columns whose values name sub-folders `column=value`.

    Raises:
        AlreadyExistsError: `GV-366`, the folder is not empty. A file is replaced when all is
            written.
    """
    import fsspec

    filesystem, target = fsspec.core.url_to_fs(path)
    for name in partition_by:
        if columns.fields[name].is_vector:
            raise bad_number("partition_by", name, "a scalar column")
    if target.endswith(".parquet") and not partition_by:
        _write_file(arrow_stream(pieces, columns), filesystem, target)
        return
    if filesystem.exists(target) and (filesystem.isfile(target) or filesystem.ls(target)):
        raise output_exists(path)
    _write_folder(arrow_stream(pieces, columns), filesystem, target, partition_by)


def _write_file(reader: pa.RecordBatchReader, filesystem: Any, target: str) -> None:
    """Write one file under another name first, so that a broken run leaves no half file."""
    import pyarrow.parquet as pq

    if filesystem.protocol in ("file", ("file", "local")):
        os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
    partial = f"{target}.partial-{os.getpid()}"
    try:
        with filesystem.open(partial, "wb") as file, pq.ParquetWriter(file, reader.schema) as out:
            for batch in reader:
                out.write_batch(batch, row_group_size=GROUP_ROWS)
        filesystem.mv(partial, target)
    finally:
        if filesystem.exists(partial):
            filesystem.rm(partial)


def _write_folder(
    reader: pa.RecordBatchReader, filesystem: Any, target: str, partition_by: Sequence[str]
) -> None:
    import pyarrow.dataset as ds
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    kinds = pa.schema([reader.schema.field(name) for name in partition_by])
    ds.write_dataset(
        reader,
        target,
        format="parquet",
        filesystem=PyFileSystem(FSSpecHandler(filesystem)),
        partitioning=ds.partitioning(kinds, flavor="hive") if partition_by else None,
        max_rows_per_file=PART_ROWS,
        max_rows_per_group=GROUP_ROWS,
        existing_data_behavior="error",
        use_threads=False,  # keeps the order of the rows
        basename_template="part-{i}.parquet",
    )
