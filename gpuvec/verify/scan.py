"""Reading a store for a verification: nothing is written, nothing is held in memory whole."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pyarrow as pa

from gpuvec.clock import SystemClock
from gpuvec.errors import CorruptError, GpuvecError, StorageError, UnsupportedError
from gpuvec.storage.checksum import crc32c
from gpuvec.storage.object_store import ObjectStore, Procedure, run
from gpuvec.storage.records import FileRecord
from gpuvec.verify.report import Finding

T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")
_PIECE_BYTES = 8 << 20
_THREADS = 4


class Scan:
    """One walk over a store.

    Args:
        store: of the database.
        tell: called for each file that was compared.

    Attributes:
        findings: so far.
        files: that were read and compared.
        size_bytes: of them.
    """

    def __init__(self, store: ObjectStore, tell: Callable[[int], None]) -> None:
        self.store = store
        self.findings: list[Finding] = []
        self.files = 0
        self.size_bytes = 0
        self._tell = tell
        self._clock = SystemClock()

    def run(self, procedure: Procedure[T]) -> T:
        """Run a procedure on the store."""
        return run(procedure, self.store, self._clock)

    def add(self, finding: Finding) -> None:
        """Note a finding."""
        self.findings.append(finding)

    def count(self, size_bytes: int) -> None:
        """Note that a file was compared."""
        self.files += 1
        self.size_bytes += size_bytes
        self._tell(1)

    def get(self, key: str) -> bytes | None:
        """Return a small object's bytes, None when there is none now."""
        try:
            data = self.store.get(key)
        except CorruptError as error:
            if error.details.get("missing"):
                return None
            raise
        self.count(len(data))
        return data

    def each(self, work: Callable[[A], B], items: Iterable[A]) -> Iterable[B]:
        """Do some work for every item, a few at a time; results in order."""
        with ThreadPoolExecutor(_THREADS) as pool:
            yield from pool.map(work, items)


def file_problem(store: ObjectStore, record: FileRecord) -> tuple[str, str] | None:
    """Compare a file with what a manifest says of it; return code and problem, None if it is whole.

    Cost: one read of the file, in pieces.
    """
    try:
        size = store.size(record.key)
        if size is None:
            return "GV-501", "it is missing"
        if size != record.length:
            return "GV-502", f"it has {size:,} bytes, it was written with {record.length:,}"
        found = crc32c(
            store.get_range(record.key, start, min(_PIECE_BYTES, size - start))
            for start in range(0, size, _PIECE_BYTES)
        )
    except StorageError as error:
        return problem_of(error)
    if found != record.crc32c:
        return "GV-503", f"its bytes changed: checksum {found:08x}, written as {record.crc32c:08x}"
    return None


def parquet_rows(store: ObjectStore, record: FileRecord) -> int | None:
    """Return how many rows the footer of an intact Parquet file tells of, None without a footer."""
    import pyarrow.parquet as pq

    tail = store.get_range(record.key, record.length - 8, 8)
    length = int.from_bytes(tail[:4], "little") + 8
    if tail[4:] != b"PAR1" or length > record.length:
        return None
    footer = store.get_range(record.key, record.length - length, length)
    try:
        rows: int = pq.read_metadata(pa.BufferReader(footer)).num_rows
    except pa.ArrowException:
        return None
    return rows


def problem_of(error: GpuvecError) -> tuple[str, str]:
    """Return code and problem of an error that a read raised."""
    if error.details.get("missing"):
        return error.code, "it is missing"
    why = error.details.get("why")
    if why:
        return error.code, str(why)
    if isinstance(error, UnsupportedError):
        wanted, got = error.details.get("wanted"), error.details.get("got")
        return error.code, f"a newer gpuvec wrote it: format {got}, this one reads up to {wanted}"
    return error.code, error.message
