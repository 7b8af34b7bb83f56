"""Segments in memory with scalar indexes, as a read sees them."""

import itertools
from dataclasses import dataclass, field

import numpy as np

from gpuvec.index import scalar
from gpuvec.index.base import IndexFile
from gpuvec.index.spec import Bitmap, Sorted
from gpuvec.query.cache import DerivedCache
from gpuvec.query.memory_source import MemoryView, new_segment_id
from gpuvec.query.part import segment_part
from gpuvec.query.session import Session
from gpuvec.query.stored import StoredColumns
from gpuvec.rows import Rows
from gpuvec.schema import JSON, List

_numbers = itertools.count()


@dataclass
class BuiltIndex:
    """A `SegmentIndex` whose files are in memory."""

    spec: object
    contents: dict
    index_id: str = ""
    opened: int = 0

    @property
    def target(self):
        return None

    @property
    def size_bytes(self):
        return sum(len(data) for data in self.contents.values())

    def curve(self, device="cpu"):
        return None

    def files(self):
        self.opened += 1
        return {
            name: IndexFile(data=np.frombuffer(data, np.uint8), path=None)
            for name, data in self.contents.items()
        }


@dataclass(frozen=True)
class IndexedView(MemoryView):
    """Rows in memory with indexes, and a count of the columns that were read."""

    indexes: dict = field(default_factory=dict)
    read: list = field(default_factory=list)

    def scalars(self, names):
        self.read.extend(names)
        return super().scalars(names)

    def index(self, name):
        return self.indexes.get(name)


def built(spec, column):
    """Return an index of a column, written to bytes."""
    files = scalar.build(spec, column).files()
    contents = {name: b"".join(map(bytes, parts)) for name, parts in files.items()}
    return BuiltIndex(spec, contents, f"index-{next(_numbers)}")


def loaded(spec, column):
    """Return an index of a column after a trip through its files."""
    index = built(spec, column)
    return scalar.load(spec, index.files())


def kinds_of_index(kind):
    """Return the specs that a field can have."""
    if isinstance(kind, JSON):
        return ()
    return (Bitmap(),) if isinstance(kind, List) else (Bitmap(), Sorted())


def indexed_view(table, specs, visible=None):
    """Return a segment of a table's rows with an index for each field in `specs`."""
    indexes = {name: built(spec, table[name]) for name, spec in specs.items()}
    rows = Rows(table, {}, tuple(table.column_names))
    return IndexedView(new_segment_id(), rows, visible, indexes=indexes)


def part_of(view, fields, cache=None):
    """Return a segment's visible rows as a plan sees them, and the cache that its indexes need."""
    session = Session(memory_limit=1 << 30, cache=cache or DerivedCache(1 << 28))
    stored = StoredColumns(view, session, fields, "a table")
    return segment_part(view, 0, stored.read, stored.load), session.cache
