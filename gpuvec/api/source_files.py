"""Files that rows come from, in pieces that are read one by one: Parquet, Arrow, NumPy, CSV.

A piece is a row group of a Parquet file, a range of rows of a `.npy` file, else a whole file, whose
batches are read one after the other. What a piece holds can change only with its file, which is
compared with what it was when it was found.
"""

import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpuvec import errors
from gpuvec.api.files import FORMATS
from gpuvec.storage.outside import Outside, OutsideFile

VECTOR_COLUMN = "vector"  # of a .npy file
_KINDS = {**FORMATS, "npy": "npy", "npz": "npz"}
_BATCH_BYTES = 32 << 20  # of a batch of a large piece
_NPY_ROWS_BYTES = 64 << 20  # of a piece of a .npy file
_LOOK_THREADS = 16
_UNREADABLE = (pa.ArrowException, OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some rows of one file.

    Attributes:
        file: number of the file in its list.
        group: of a Parquet file; else 0.
        first_row: in the file.
        rows: -1 where only reading tells.
        size_bytes: of the rows in memory, about.
    """

    file: int
    group: int
    first_row: int
    rows: int
    size_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a JSON object."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Survey:
    """What footers and headers say: pieces in order, and the columns that each file has."""

    pieces: tuple[Piece, ...]
    columns: tuple[tuple[str, ...] | None, ...]  # by file; None where only reading tells


def _changed(path: str, _: OutsideFile | None) -> errors.GpuvecError:
    return errors.file_changed(path, call="then do it again")


class SourceFiles:
    """The files of one glob, in the order of their paths. Safe for use by several threads.

    Args:
        outside: where they lie.
        files: as they were found.
        changed: makes the error for a file that is not what it was, from its path and what it is
            now, None if it is gone.

    Raises:
        QueryError: `GV-705`, an ending that is none of those which are understood.
    """

    def __init__(
        self,
        outside: Outside,
        files: Sequence[OutsideFile],
        changed: Callable[[str, OutsideFile | None], errors.GpuvecError] = _changed,
    ) -> None:
        self.files = tuple(files)
        self._changed = changed
        self._outside = outside
        self._kinds = [_kind(file.path) for file in files]
        self._metadata: dict[int, pq.FileMetaData] = {}

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.size_bytes for file in self.files)

    def survey(self) -> Survey:
        """Read the footers of all files, several at a time.

        Raises:
            CorruptError: `GV-709` a file is not what its ending says, `GV-666` an array of no rows.
            ConflictError: `GV-662`, a file was written again.
        """
        with ThreadPoolExecutor(_LOOK_THREADS) as pool:
            looked = list(pool.map(self._survey, range(len(self.files))))
        pieces = tuple(piece for found, _ in looked for piece in found)
        return Survey(pieces, tuple(names for _, names in looked))

    def pieces(self, number: int) -> list[Piece]:
        """Return the pieces of one file."""
        return self._survey(number)[0]

    def schema(self, number: int) -> pa.Schema | None:
        """Return the Arrow schema of a Parquet file; None for other kinds."""
        if self._kinds[number] != "parquet":
            return None
        return self._parquet(number).schema_arrow

    def metadata(self, number: int) -> pq.FileMetaData:
        """Return the footer of a Parquet file."""
        if number not in self._metadata:
            self._parquet(number)
        return self._metadata[number]

    def read(self, piece: Piece, columns: Sequence[str] | None = None) -> Iterator[Any]:
        """Yield the rows of a piece as Arrow tables, or as dicts of arrays.

        Args:
            piece: what to read.
            columns: of Parquet files, only these; None: all.

        Raises:
            CorruptError: `GV-709`; ConflictError: `GV-662`.
        """
        readers: dict[str, Callable[..., Iterator[Any]]] = {
            "parquet": partial(self._read_parquet, columns=columns),
            "ipc": self._read_ipc,
            "npy": self._read_npy,
            "npz": self._read_npz,
            "csv": self._read_csv,
        }
        path = self.files[piece.file].path
        self.check(piece.file)
        try:
            yield from readers[self._kinds[piece.file]](piece)
        except _UNREADABLE as error:
            if isinstance(error, errors.GpuvecError):
                raise
            raise errors.unreadable_source(path, _reason(error)) from error
        self.check(piece.file)

    def check(self, number: int) -> None:
        """Compare a file with what it was when it was found."""
        known = self.files[number]
        now = self._outside.look(known.path)
        if now != known:
            raise self._changed(known.path, now)

    def _survey(self, number: int) -> tuple[list[Piece], tuple[str, ...] | None]:
        file, kind = self.files[number], self._kinds[number]
        self.check(number)
        try:
            if kind == "parquet":
                return self._survey_parquet(number)
            if kind == "npy":
                return self._survey_npy(number)
            names, rows = None, -1
            if kind == "npz":
                names, rows = self._survey_npz(number)
            elif kind == "ipc":
                with self._outside.open(file.path) as source:
                    names = tuple(_ipc_reader(source).schema.names)
        except _UNREADABLE as error:
            if isinstance(error, errors.GpuvecError):
                raise
            raise errors.unreadable_source(file.path, _reason(error)) from error
        whole = Piece(file=number, group=0, first_row=0, rows=rows, size_bytes=file.size_bytes)
        return [whole], names

    # Parquet

    def _parquet(self, number: int) -> pq.ParquetFile:
        source = self._outside.open(self.files[number].path)
        found = pq.ParquetFile(source, metadata=self._metadata.get(number), pre_buffer=False)
        self._metadata[number] = found.metadata
        return found

    def _survey_parquet(self, number: int) -> tuple[list[Piece], tuple[str, ...]]:
        with self._parquet(number) as file:
            names, metadata = tuple(file.schema_arrow.names), file.metadata
        pieces, first = [], 0
        for group in range(metadata.num_row_groups):
            found = metadata.row_group(group)
            if found.num_rows:
                pieces.append(
                    Piece(
                        file=number,
                        group=group,
                        first_row=first,
                        rows=found.num_rows,
                        size_bytes=found.total_byte_size,
                    )
                )
            first += found.num_rows
        return pieces, names

    def _read_parquet(self, piece: Piece, columns: Sequence[str] | None) -> Iterator[pa.Table]:
        with self._parquet(piece.file) as file:
            if columns is not None:
                columns = [name for name in columns if name in file.schema_arrow.names]
            if piece.size_bytes <= 2 * _BATCH_BYTES:
                yield file.read_row_group(piece.group, columns=columns)
                return
            rows = max(1, _BATCH_BYTES * piece.rows // piece.size_bytes)
            batches = file.iter_batches(rows, row_groups=[piece.group], columns=columns)
            for batch in batches:
                yield pa.Table.from_batches([batch])

    # Arrow, CSV

    def _read_ipc(self, piece: Piece) -> Iterator[pa.Table]:
        with self._outside.open(self.files[piece.file].path) as source:
            reader = _ipc_reader(source)
            if isinstance(reader, pa.RecordBatchFileReader):
                batches = (reader.get_batch(n) for n in range(reader.num_record_batches))
            else:
                batches = iter(reader)
            for batch in batches:
                yield pa.Table.from_batches([batch])

    def _read_csv(self, piece: Piece) -> Iterator[pa.Table]:
        import pyarrow.csv

        options = pyarrow.csv.ReadOptions(block_size=_BATCH_BYTES)
        with self._outside.open(self.files[piece.file].path) as source:
            for batch in pyarrow.csv.open_csv(source, read_options=options):
                yield pa.Table.from_batches([batch])

    # NumPy

    def _survey_npy(self, number: int) -> tuple[list[Piece], tuple[str, ...]]:
        path = self.files[number].path
        with self._outside.open(path) as source:
            shape, dtype, _ = _npy_header(source, path)
        if len(shape) != 2:
            raise errors.unfit_array(path, f"it holds an array of shape {shape}")
        width = max(1, shape[1] * dtype.itemsize)
        step = max(1, _NPY_ROWS_BYTES // width)
        pieces = [
            Piece(
                file=number, group=0, first_row=first, rows=rows, size_bytes=rows * width
            )
            for first in range(0, shape[0], step)
            if (rows := min(step, shape[0] - first))
        ]  # fmt: skip
        return pieces, (VECTOR_COLUMN,)

    def _read_npy(self, piece: Piece) -> Iterator[dict[str, Any]]:
        path = self.files[piece.file].path
        with self._outside.open(path) as source:
            shape, dtype, start = _npy_header(source, path)
            width = shape[1] * dtype.itemsize
            source.seek(start + piece.first_row * width)
            data = source.read_buffer(piece.rows * width)
        if data.size != piece.rows * width:
            raise errors.unfit_array(path, "it ends too early")
        yield {VECTOR_COLUMN: np.frombuffer(data, dtype).reshape(piece.rows, shape[1])}

    def _survey_npz(self, number: int) -> tuple[tuple[str, ...], int]:
        path = self.files[number].path
        with self._outside.open(path) as source, zipfile.ZipFile(source) as archive:
            lengths = {}
            for name in archive.namelist():
                with archive.open(name) as member:
                    shape, *_ = _npy_header(member, path)
                lengths[name.removesuffix(".npy")] = shape[0] if shape else -1
        if len(set(lengths.values())) != 1 or min(lengths.values()) < 0:
            raise errors.unfit_array(path, f"its arrays have these lengths: {lengths}")
        return tuple(lengths), next(iter(lengths.values()))

    def _read_npz(self, piece: Piece) -> Iterator[dict[str, Any]]:
        with self._outside.open(self.files[piece.file].path) as source:
            found = np.load(source, allow_pickle=False)
            yield {name: found[name] for name in found.files}


def _kind(path: str) -> str:
    ending = path.rpartition(".")[2].lower()
    if ending not in _KINDS:
        raise errors.unknown_file_kind(path, _KINDS)
    return _KINDS[ending]


def _ipc_reader(source: pa.NativeFile) -> Any:
    """Return a reader of an Arrow file, or of an Arrow stream."""
    try:
        return pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return pa.ipc.open_stream(source)


def _npy_header(source: Any, path: str) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Return shape, dtype and where the numbers begin."""
    version = np.lib.format.read_magic(source)
    readers: Mapping[Any, Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise errors.unfit_array(path, f"its format version is {version}")
    shape, by_column, dtype = readers[version](source)
    if dtype.hasobject:
        raise errors.unfit_array(path, "it holds Python objects")
    if by_column and len(shape) > 1:
        raise errors.unfit_array(path, "its array is in Fortran order")
    return shape, dtype, source.tell()


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
