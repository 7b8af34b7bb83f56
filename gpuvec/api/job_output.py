"""Where the rows of a batch job go: one Parquet file per part, whole or not there at all."""

import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from gpuvec import errors
from gpuvec.api.output import GROUP_ROWS, arrow_batches, arrow_schema
from gpuvec.query.plan import Columns
from gpuvec.rows import Rows
from gpuvec.storage.durable import is_temporary

if TYPE_CHECKING:
    from gpuvec.api.frame import Frame
    from gpuvec.query.session import Session

NOTE = "_gpuvec_job.json"  # readers of Parquet folders pass over names that begin so
_WHOLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")  # a file appears when complete


class Output:
    """A folder, local or of any file system that fsspec knows.

    Args:
        url: a path or URL.
        options: of the fsspec file system.

    Raises:
        QueryError: `GV-660`, fsspec does not know the scheme, or lacks the library for it.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        import fsspec

        self.url = url
        self._options = options
        try:
            self._filesystem, self._folder = fsspec.core.url_to_fs(url, **(options or {}))
        except (ImportError, ValueError, TypeError) as error:
            raise errors.unreachable_files(url, error) from error
        protocol = self._filesystem.protocol
        names = (protocol,) if isinstance(protocol, str) else tuple(protocol)
        self._is_local = "file" in names
        self._is_whole = bool(set(names) & set(_WHOLE))

    def take(self, job_id: str) -> None:
        """Refuse a place where something is; leave a note there, so that no other job takes it.

        Raises:
            AlreadyExistsError: `GV-366`.
            StorageError: `GV-661`, nothing can be written there.
        """
        there = self._filesystem
        there.invalidate_cache()
        if there.exists(self._folder) and (there.isfile(self._folder) or there.ls(self._folder)):
            raise errors.output_exists(self.url)
        note = json.dumps({"job": job_id}).encode()
        try:
            there.makedirs(self._folder, exist_ok=True)
            there.pipe_file(f"{self._folder.rstrip('/')}/{NOTE}", note)
        except OSError as error:
            raise errors.outside_failed("write to", self.url, error) from error

    def write(
        self, part: int, pieces: Iterable[Rows], columns: Columns, wanted: Callable[[], bool]
    ) -> tuple[int, int]:
        """Write the file of a part in bounded memory, over any other of that part.

        Args:
            part: its number.
            pieces: its rows.
            columns: their types.
            wanted: asked when all is written, before the file gets its name; False: it is dropped.

        Returns:
            Rows and bytes.
        """
        target = f"{self._folder.rstrip('/')}/{part_name(part)}"
        folder = self._folder if self._is_local else tempfile.gettempdir()
        os.makedirs(folder, exist_ok=True)
        partial = os.path.join(folder, f".{secrets.token_hex(8)}.tmp")
        try:
            handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            rows = _write_rows(handle, pieces, columns)
            size = os.path.getsize(partial)
            if wanted():
                self._put(partial, target)
            return rows, size
        finally:
            with suppress(FileNotFoundError):
                os.unlink(partial)

    def _put(self, partial: str, target: str) -> None:
        if self._is_local:
            os.replace(partial, target)
            _sync_folder(self._folder)
        elif self._is_whole:
            self._filesystem.put_file(partial, target)
        else:
            there = f"{target}.partial-{secrets.token_hex(4)}"
            self._filesystem.makedirs(self._folder, exist_ok=True)
            self._filesystem.put_file(partial, there)
            self._filesystem.mv(there, target)

    def frame(self, session: "Session") -> "Frame":
        """Return the rows of all parts, in order, as a frame that reads the files when it runs."""
        from gpuvec.api.frame import Frame
        from gpuvec.api.inputs import FileSource
        from gpuvec.query.build import scan

        pattern = f"{self.url.rstrip('/')}/part-*.parquet"
        return Frame(scan(FileSource(pattern, None, self._options)), session)

    def tidy(self) -> None:
        """Delete what killed writers left, once every part is there."""
        if not self._is_local:
            return
        for name in os.listdir(self._folder):
            if is_temporary(name):
                with suppress(FileNotFoundError):
                    os.unlink(os.path.join(self._folder, name))

    def remove(self) -> None:
        """Delete the folder with what is in it."""
        if self._filesystem.exists(self._folder):
            self._filesystem.rm(self._folder, recursive=True)


def part_name(part: int) -> str:
    """Return the name of a part's file; names sort as parts do."""
    return f"part-{part:05d}.parquet"


def _write_rows(handle: int, pieces: Iterable[Rows], columns: Columns) -> int:
    import pyarrow.parquet as pq

    rows = 0
    with os.fdopen(handle, "wb") as file:
        with pq.ParquetWriter(file, arrow_schema(columns)) as out:
            for batch in arrow_batches(pieces, columns):
                out.write_batch(batch, row_group_size=GROUP_ROWS)
                rows += batch.num_rows
        file.flush()
        os.fsync(file.fileno())
    return rows


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
