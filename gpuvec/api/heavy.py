"""Heavy work on files: what any process can do that reads the store, and where it is done.

A work is a value that travels. It reads files, writes new ones, and returns their records: nothing
is changed by it. Done twice it leaves files that nobody names, which are collected.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gpuvec.api.external_files import ExternalFiles
from gpuvec.coord.data_coord import wants_index
from gpuvec.meta.catalog import IndexRecord
from gpuvec.node.build import BuildPlan, carry_out
from gpuvec.node.loader import Loader
from gpuvec.node.ports import FilesHost, Progress
from gpuvec.node.reindex import with_indexes
from gpuvec.node.rewriting import Indexing, Rewriting, Written, rewrite
from gpuvec.query.session import Session
from gpuvec.storage import keys

if TYPE_CHECKING:
    from gpuvec.api.engine import Engine


class Stopped(Exception):
    """Nobody wants the work any more."""


class Work(Protocol):
    """See the module."""

    @property
    def job_id(self) -> str:
        """A name that follows from what is read and what is wanted."""

    @property
    def what(self) -> str:
        """The work, for people."""

    @property
    def size_bytes(self) -> int:
        """What is read, about."""

    def run(self, engine: "Engine", session: Session, progress: Progress) -> Any:
        """Do it; return what was written.

        Args:
            engine: of the database, in this process.
            session: threads and memory that it may take.
            progress: told the share that is done; raises `Stopped` to end it.
        """


class Workplace(Protocol):
    """Where other processes do heavy work."""

    @property
    def width(self) -> int:
        """How many works are done at once, at least 1, as far as it is known."""

    def look(self) -> int:
        """Return how many works are done at once."""

    def takes(self, work: Work) -> bool:
        """Return whether a work is large enough to be worth the way."""

    def do(self, work: Work, progress: Progress) -> Any:
        """Return what came of a work; `progress` is told how far it is, and may raise."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Building:
    """The index of a segment.

    Attributes:
        key: the primary key's field.
    """

    plan: BuildPlan
    key: str

    @property
    def job_id(self) -> str:
        """See `Work.job_id`."""
        return _name("build", self.plan.segment.segment_id, self.plan.definition.index_id)

    @property
    def what(self) -> str:
        """See `Work.what`."""
        return f"index of {self.plan.field}, {self.plan.segment.row_count:,} rows"

    @property
    def size_bytes(self) -> int:
        """See `Work.size_bytes`."""
        return self.plan.segment.size_bytes

    def run(self, engine: "Engine", session: Session, progress: Progress) -> IndexRecord:
        """See `Work.run`."""
        return carry_out(
            self.plan,
            loader_of(engine, self.plan.collection_id, self.key),
            host=engine,
            threads=session.threads,
            memory_limit=session.memory_limit,
            progress=progress,
            device=session.device,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Compacting:
    """Segments that others take the place of.

    Attributes:
        indexed: whether the new ones get indexes.
    """

    order: Rewriting
    indexed: bool

    @property
    def job_id(self) -> str:
        """See `Work.job_id`."""
        order = self.order
        inputs = [(i.record.segment_id, str(i.record.deletes), len(i.rows)) for i in order.inputs]
        return _name("compact", *map(str, inputs), str(order.need))

    @property
    def what(self) -> str:
        """See `Work.what`."""
        return f"compaction of {len(self.order.inputs)} segments"

    @property
    def size_bytes(self) -> int:
        """See `Work.size_bytes`."""
        return sum(item.record.size_bytes for item in self.order.inputs)

    def run(self, engine: "Engine", session: Session, progress: Progress) -> Written:
        """See `Work.run`."""
        state = self.order.state
        index = indexing(engine, session, progress) if self.indexed else None
        return rewrite(
            self.order,
            loader_of(engine, state.collection_id, state.schema.primary_key),
            host=engine,
            memory_bytes=session.memory_limit,
            index=index,
            progress=progress,
        )


def indexing(host: FilesHost, session: Session, progress: Callable[[float], None]) -> Indexing:
    """Return what gives new segments the indexes that they shall have."""

    def index(state: Any, old: Any, new: Any, loader: Loader) -> Any:
        names = [name for name in state.indexes if wants_index(state, new, name)]
        return with_indexes(
            state, old, new, loader, names, host=host, session=session, progress=progress
        )

    return index


def loader_of(engine: "Engine", collection_id: str, key: str) -> Loader:
    """Return what opens segments of a collection, whether or not it is open in this process."""
    outside = ExternalFiles(
        engine,
        lambda: engine.state(collection_id).schema,
        lambda: engine.name_of(collection_id),
    )
    return Loader(engine.store, key, prefix=keys.collection(collection_id), outside=outside)


def _name(*said: str) -> str:
    return hashlib.blake2b("\0".join(said).encode(), digest_size=12).hexdigest()
