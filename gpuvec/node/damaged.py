"""Which indexes cannot be read, so that they are built anew."""

from gpuvec import errors
from gpuvec.index import registry
from gpuvec.node.build import metric_of
from gpuvec.node.ports import Segments
from gpuvec.rows import DenseVectors
from gpuvec.schema import FieldType
from gpuvec.types import SegmentId


def damaged(shard: Segments, field: str, kind: FieldType) -> set[SegmentId]:
    """Return the segments whose index of a field cannot be used, as far as its files tell.

    Raises:
        CorruptError: a file of the rows is damaged.

    Cost: one read of each index that this process has not opened yet.
    """
    metric = metric_of(kind)
    found = set()
    for segment in shard.sealed():
        index = segment.indexes.get(field)
        if index is None:
            continue
        vectors = None if metric is None else segment.rows.vector(field)
        try:
            index.curve()
            files = index.files()
            if metric is not None and isinstance(vectors, DenseVectors):
                registry.load(index.spec, vectors, metric, files)
        except (errors.CorruptError, errors.UnsupportedError) as error:
            if error.code != "GV-320":  # nothing is wrong with the files
                found.add(segment.segment_id)
    return found
