"""`Collection.bulk_import`: files straight into segments, waited for or as a `Job`."""

import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, overload

from gpuvec import errors
from gpuvec.api.bulk import BulkImport, ImportWish
from gpuvec.api.job import Job, Status
from gpuvec.api.progress import progress
from gpuvec.api.source import WriteResult
from gpuvec.api.works import said_of
from gpuvec.coord.root_coord import check_name
from gpuvec.messages import OnConflict, WorkStatus
from gpuvec.query.session import Session

if TYPE_CHECKING:
    from gpuvec.api.source import CollectionSource


class Importing:
    """The part of `Collection` that is about files."""

    _source: "CollectionSource"
    _session: Session

    @overload
    def bulk_import(
        self,
        glob: str | PathLike[str],
        *,
        columns: Mapping[str, str | None] | None = None,
        partition: str | None = None,
        on_conflict: str = "error",
        storage_options: Mapping[str, Any] | None = None,
        wait: Literal[True] = True,
    ) -> "WriteResult": ...

    @overload
    def bulk_import(
        self,
        glob: str | PathLike[str],
        *,
        columns: Mapping[str, str | None] | None = None,
        partition: str | None = None,
        on_conflict: str = "error",
        storage_options: Mapping[str, Any] | None = None,
        wait: Literal[False],
    ) -> "Job[WriteResult]": ...

    def bulk_import(
        self,
        glob: str | PathLike[str],
        *,
        columns: Mapping[str, str | None] | None = None,
        partition: str | None = None,
        on_conflict: str = "error",
        storage_options: Mapping[str, Any] | None = None,
        wait: bool = True,
    ) -> "WriteResult | Job[WriteResult]":
        """Copy files into the collection: one write, whose rows go past the log into segments.

        Nothing is visible before the end, then all rows are, at one version. What is done is noted
        in the store: the same call after a failure, a kill or `Job.cancel` goes on where it was,
        for a day. The same call after its end returns the same result while all its rows are there.

        Args:
            glob: a path, URL or glob of Parquet, Arrow (`.arrow`, `.feather`), NumPy or CSV files.
                A `.npy` holds vectors of the only vector field; where the key is `Int64`, its rows
                are numbered from 0 through the files, or go on from the highest key if it is
                `auto`. The arrays of a `.npz` are columns.
            columns: column of the files to field, where the names differ; None leaves one out.
            partition: where to put the rows; made if it is not there.
            on_conflict: what to do with keys that exist, or come twice in the files: `error`,
                `skip` the later row, or `replace` the earlier one.
            storage_options: of the files' store; by default the database's, if they are of a kind.
            wait: False returns a `Job` at once.

        Returns:
            What was written; `ids` is empty.

        Raises:
            NotFoundError: `GV-703` no file, `GV-708` no such column, `GV-105` no such field.
            SchemaError: a row that does not fit, with its file; `GV-663` a key that comes twice in
                the files, `GV-664` one that exists. Nothing is imported.
            CorruptError: `GV-709`, `GV-666`, a file that cannot be read.
            ConflictError: `GV-662`, a file was written again meanwhile.
        """
        if on_conflict not in list(OnConflict):
            raise errors.bad_choice("on_conflict", on_conflict, OnConflict)
        given: Any = {} if columns is None else columns
        if not isinstance(given, Mapping) or not all(
            isinstance(name, str) and isinstance(field, str | None) for name, field in given.items()
        ):
            raise errors.bad_columns(columns)
        field, times = (Counter(filter(None, given.values())).most_common(1) or [("", 0)])[0]
        if times > 1:
            raise errors.unreadable_column(
                field, f"{times} columns of the files are to be this one"
            )
        work = _ImportWork(
            BulkImport(
                self._source.engine,
                self._session,
                ImportWish(
                    collection_id=self._source.collection_id,
                    name=self._source.name,
                    pattern=os.fspath(glob),
                    columns=dict(given),
                    partition=self._checked_partition(partition),
                    on_conflict=OnConflict(on_conflict),
                    options=storage_options,
                ),
            )
        )
        return work.run() if wait else Job(work.name, work.start())

    def _checked_partition(self, name: str | None) -> str:
        if name is None:
            return ""
        key = self._source.schema.partition_key
        if key is not None:
            raise errors.partition_not_allowed(key)
        check_name("a partition name", name)
        return name


class _Cancelled(Exception):
    """Nobody wants the import any more."""


class _ImportWork:
    """See `gpuvec.api.job.Work`."""

    is_new = True

    def __init__(self, bulk: BulkImport) -> None:
        self._bulk = bulk
        self.size = bulk.size_bytes
        self.name = bulk.job
        self.what = bulk.what
        self._status: WorkStatus = "running"
        self._cancel = threading.Event()
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._total = 1
        self._done = 0
        self._found: WriteResult | None = None
        self._error: BaseException | None = None

    def run(self) -> WriteResult:
        """Import on this thread, with a bar.

        Raises:
            JobError: `GV-622`, it was cancelled from elsewhere.
        """
        with progress("import", self._bulk.size_bytes, "bytes") as advance:

            def tell(size: int) -> None:
                advance(size)
                self._tell(size)

            self._listed()
            self._work(tell)
        return self.result()

    def start(self) -> "_ImportWork":
        """Begin, or go on, on a thread of its own."""
        self._cancel.clear()
        self._ended.clear()
        self._status, self._done, self._error = "running", 0, None
        self._listed()
        args = (self._tell,)
        threading.Thread(target=self._work, args=args, name="gpuvec-import", daemon=True).start()
        return self

    def _listed(self) -> None:
        """Have it told of among the works of the database."""
        self._entry = self._bulk.works.begin(
            "import", self._bulk.collection_id, self.what, job_id=self.name, cancel=self._cancel.set
        )

    def _work(self, tell: Callable[[int], None]) -> None:
        try:
            self._found = self._bulk.run(tell, self._begin)
        except _Cancelled:
            self._status = "cancelled"
        except BaseException as error:  # whoever waits raises it
            self._error, self._status = error, "failed"
        else:
            self._status = "done"
        self._entry.end(self._status, "" if self._error is None else said_of(self._error))
        self._ended.set()

    def _begin(self, size: int) -> None:
        self._total = max(1, size)

    def _tell(self, size: int) -> None:
        with self._lock:
            self._done += size
            self._entry.share = self.share()
        if self._cancel.is_set():
            raise _Cancelled

    def status(self) -> Status:
        """See `Work.status`."""
        return self._status

    def share(self) -> float:
        """See `Work.share`; the comparison of keys and the commit are the last twentieth."""
        return 1.0 if self._status == "done" else 0.95 * min(1.0, self._done / self._total)

    def pause(self, timeout_s: float) -> None:
        """See `Work.pause`."""
        self._ended.wait(timeout_s)

    def result(self) -> WriteResult:
        """See `Work.result`."""
        if self._error is not None:
            raise self._error
        if self._found is None:
            raise errors.job_cancelled(self.what)
        return self._found

    def cancel(self) -> None:
        """See `Work.cancel`: no row is visible; what is done stays for a day, to be resumed."""
        self._cancel.set()
        self._ended.wait()

    def resume(self) -> None:
        """Go on where it was."""
        self.start()
