"""One part of a bulk import: some rows of files that become segments together, in any process."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpuvec.api.import_rows import ImportRows
from gpuvec.api.source_files import Piece, SourceFiles
from gpuvec.kernels.parallel import thread_count
from gpuvec.messages import OnConflict
from gpuvec.meta.import_jobs import PartDone
from gpuvec.node.import_files import Goal, write_part
from gpuvec.node.ports import Progress
from gpuvec.query.session import Session
from gpuvec.rows import Rows
from gpuvec.segment.visible import Layout
from gpuvec.storage import keys
from gpuvec.storage.outside import OutsideFile, kind_of_place, open_outside
from gpuvec.types import ChannelName

if TYPE_CHECKING:
    from gpuvec.api.engine import Engine

HELD = 5  # times a group's bytes while it is made: read, sorted, written

Tell = Callable[[int], None]  # so many bytes more are done; raises to end the work


@dataclass(frozen=True, slots=True)
class Part:
    """Pieces that become segments together, and the first number of each piece's rows."""

    pieces: tuple[Piece, ...]
    first_ids: tuple[int | None, ...]  # None: the rows bring their keys

    @property
    def size_bytes(self) -> int:
        """Bytes of the rows in memory, about."""
        return sum(piece.size_bytes for piece in self.pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportingPart:
    """A part that is to be written; see `gpuvec.api.heavy.Work`.

    Attributes:
        job: name of the import.
        number: of the part.
        pattern, options: where the files lie; see `files_at`.
        files: all files of the import, as they were found.
        group_bytes, group_rows: see `gpuvec.node.import_files.Goal`.
    """

    job: str
    number: int
    part: Part
    collection_id: str
    pattern: str
    options: Mapping[str, Any] | None
    files: tuple[OutsideFile, ...]
    columns: Mapping[str, str | None]
    layout: Layout
    channels: tuple[ChannelName, ...]
    partition: str
    on_conflict: OnConflict
    group_bytes: int
    group_rows: int

    @property
    def job_id(self) -> str:
        """See `Work.job_id`."""
        return f"{self.job}-{self.number}"

    @property
    def what(self) -> str:
        """See `Work.what`."""
        return f"part {self.number:,} of the import of {self.pattern}"

    @property
    def size_bytes(self) -> int:
        """See `Work.size_bytes`."""
        return self.part.size_bytes

    def run(self, engine: "Engine", session: Session, progress: Progress) -> PartDone:
        """See `Work.run`.

        Raises:
            SchemaError: rows that do not fit; `GV-663`, a key that comes twice.
            CorruptError, ConflictError: of the files.
        """
        source = files_at(engine, self.pattern, self.options, self.files)
        rows = ImportRows(source, self.columns, self.layout.schema)
        threads, total, done = thread_count(session.threads), max(1, self.size_bytes), 0

        def tell(size: int) -> None:
            nonlocal done
            done += size
            progress(min(1.0, done / total))

        with ThreadPoolExecutor(threads, "gpuvec-read") as readers:
            goal = self.goal(engine, rows, session.memory_limit)
            return engine.run(
                write_part(self.number, batches(self.part, rows, readers, tell), goal)
            )

    def goal(self, engine: "Engine", rows: ImportRows, memory_bytes: int) -> Goal:
        """Return what the segments have in common; those made at once fit the memory."""
        return Goal(
            prefix=keys.collection(self.collection_id),
            channels=self.channels,
            partition=self.partition,
            layout=self.layout,
            on_conflict=self.on_conflict,
            group_bytes=min(self.group_bytes, max(1 << 20, memory_bytes // HELD)),
            group_rows=self.group_rows,
            mint=engine.mint,
            locate=rows.locate,
        )


def files_at(
    engine: "Engine",
    pattern: str,
    options: Mapping[str, Any] | None,
    files: tuple[OutsideFile, ...] | None = None,
) -> SourceFiles:
    """Return the files of a glob; with the database's `storage_options` if these fit and none came.

    Args:
        engine: of the database.
        pattern: path, URL or glob.
        options: see `open_outside`.
        files: as they were found before; None: they are looked for.
    """
    if options is None and kind_of_place(pattern) == kind_of_place(engine.where):
        options = engine.storage_options
    outside, inner = open_outside(pattern, options)
    return SourceFiles(outside, outside.find(inner) if files is None else files)


def batches(
    part: Part, rows: ImportRows, readers: ThreadPoolExecutor, tell: Tell
) -> Iterator[Rows]:
    """Yield the rows of a part in order; its pieces are read at the same time."""
    pairs = list(zip(part.pieces, part.first_ids, strict=True))
    if len(pairs) == 1:  # perhaps a large file: one batch after the other
        for found in rows.read(*pairs[0]):
            tell(0)
            yield found
        tell(part.size_bytes)
        return
    waiting: list[Future[list[Rows]]] = [
        readers.submit(_read_all, rows, piece, first_id) for piece, first_id in pairs
    ]
    waiting.reverse()
    try:
        for piece in part.pieces:
            read = waiting.pop().result()
            tell(piece.size_bytes)
            yield from read
    finally:
        for future in waiting:
            future.cancel()


def _read_all(rows: ImportRows, piece: Piece, first_id: int | None) -> list[Rows]:
    return list(rows.read(piece, first_id))
