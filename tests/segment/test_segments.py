"""Growing and sealed segments, and what a view of them shows."""

import numpy as np
import pyarrow as pa
import pytest

import gpuvec as gv
from gpuvec.meta.changes import SegmentRecord
from gpuvec.node.loader import Loader
from gpuvec.rows import DenseVectors, Rows, SparseVectors
from gpuvec.segment.deletes import DeleteLog
from gpuvec.segment.growing import GrowingSegment
from gpuvec.segment.visible import Layout, fit
from gpuvec.storage import keys
from gpuvec.storage.memory import MemoryStore
from gpuvec.storage.segment_files import write_deletes, write_segment

SCHEMA = gv.Schema(
    {
        "id": gv.Int64(),
        "word": gv.String(nullable=True),
        "v": gv.Vector(3, nullable=True),
        "s": gv.SparseVector(),
    },
    "id",
)
LAYOUT = Layout(SCHEMA, 1, dict.fromkeys(SCHEMA.fields, 1))


def rows_of(ids, valid=None):
    ids = np.asarray(ids)
    count = len(ids)
    dense = np.repeat(ids[:, None], 3, axis=1).astype(np.float32)
    offsets = np.arange(count + 1, dtype=np.int64)
    sparse = SparseVectors(offsets, ids.astype(np.uint32), np.ones(count, np.float32))
    table = pa.table({"id": ids, "word": [f"w{n}" for n in ids]})
    return Rows(table, {"v": DenseVectors(dense, valid), "s": sparse})


def growing(*batches, layout=LAYOUT):
    segment = GrowingSegment("seg", "", layout, capacity_rows=100)
    for number, batch in enumerate(batches):
        segment.append(rows_of(batch), 10 * (number + 1))
    return segment


def visible(view):
    ids = view.scalars(["id"])["id"].to_numpy()
    keep = view.keep()
    return ids.tolist() if keep is None else ids[keep].tolist()


def test_rows_show_only_after_publish():
    segment = growing([1, 2])
    assert segment.view(LAYOUT, 0).num_rows == 0
    assert visible(segment.view(LAYOUT, 0, working=True)) == [1, 2]
    segment.publish()
    assert visible(segment.view(LAYOUT, 0)) == [1, 2]


def test_a_view_never_changes():
    segment = growing([1, 2, 3])
    segment.publish()
    before = segment.view(LAYOUT, 0)
    segment.delete(np.array([1]), 50)
    segment.append(rows_of(np.arange(100, 5100)), 60)
    segment.publish()
    after = segment.view(LAYOUT, 0)
    assert visible(before) == [1, 2, 3]
    assert before.generation != after.generation
    assert visible(after)[:3] == [1, 3, 100]
    assert after.num_rows == 5003
    assert (before.vectors("v").values == [[1] * 3, [2] * 3, [3] * 3]).all()
    assert len(before.vectors("s")) == 3


def test_vectors_of_many_appends_are_one_array():
    segment = growing(*[[n * 10, n * 10 + 1] for n in range(300)])
    segment.publish()
    column = segment.view(LAYOUT, 0).vectors("v")
    assert column.values.shape == (600, 3)
    assert column.values.flags.c_contiguous
    assert (column.values[:, 0] == segment.table(["id"], 600)["id"].to_numpy()).all()


def test_what_the_caller_does_with_its_array_later_does_not_matter():
    batch = rows_of([1, 2])
    segment = GrowingSegment("seg", "", LAYOUT, capacity_rows=10)
    segment.append(batch, 5)
    segment.settle()
    batch.vectors["v"].values[:] = -1
    segment.publish()
    assert (segment.view(LAYOUT, 0).vectors("v").values[:, 0] == [1, 2]).all()


def test_null_vectors_are_remembered():
    segment = GrowingSegment("seg", "", LAYOUT, capacity_rows=10)
    segment.append(rows_of([1, 2]), 5)
    segment.append(rows_of([3, 4], valid=np.array([True, False])), 6)
    segment.publish()
    assert segment.view(LAYOUT, 0).vectors("v").valid.tolist() == [True, True, True, False]


def test_deleted_hidden_and_unknown_keys_are_not_found():
    segment = growing([1, 2], [3, 4])
    segment.delete(np.array([1]), 25)
    asked = pa.array([1, 2, 3, 9])
    assert segment.find(asked).tolist() == [0, -1, 2, -1]
    assert segment.find(asked, hidden_until=10).tolist() == [-1, -1, 2, -1]


def test_rows_up_to_a_timestamp_can_be_hidden():
    segment = growing([1, 2], [3, 4])
    segment.publish()
    assert visible(segment.view(LAYOUT, 10)) == [3, 4]
    assert visible(segment.view(LAYOUT, 9)) == [1, 2, 3, 4]
    assert visible(segment.view(LAYOUT, 20)) == []


def sealed(segment, deleted=()):
    store = MemoryStore()
    prefix = keys.collection("c-1")
    count = len(segment)
    files, record = write_segment(
        prefix, "seg2", segment.layout.schema, segment.rows(count), segment.timestamps(count)
    )
    deletes = None
    if deleted:
        rows, ts = np.array([d[0] for d in deleted]), np.array([d[1] for d in deleted])
        more, found = write_deletes(prefix, "seg2", "01d", rows.astype(np.uint32), ts)
        files, deletes = [*files, *more], found.to_json()
    for key, parts in files:
        store.put(key, parts)
    described = SegmentRecord(
        segment_id="seg2", channel="s000", partition="", schema_version=segment.layout.version,
        row_count=count, size_bytes=1, first_ts=segment.first_ts, last_ts=segment.last_ts,
        files=record.to_json(), deletes=deletes,
    )  # fmt: skip
    return Loader(store, "id").load(described)


def test_a_sealed_segment_shows_the_same_rows():
    segment = growing([1, 2], [3, 4])
    segment.publish()
    view, twin = segment.view(LAYOUT, 0), sealed(segment).view(LAYOUT, 0)
    assert twin.scalars(["word", "id"]).to_pydict() == view.scalars(["word", "id"]).to_pydict()
    assert twin.scalars(["id"]).schema == view.scalars(["id"]).schema
    assert (twin.vectors("v").values == view.vectors("v").values).all()
    assert twin.statistics("id").low == 1
    assert twin.statistics("id").high == 4


def test_a_sealed_segment_knows_its_deletes_old_and_new():
    segment = sealed(growing([1, 2], [3, 4]), deleted=[(0, 30)])
    assert visible(segment.view(LAYOUT, 0)) == [2, 3, 4]
    assert segment.find(pa.array([1, 4])).tolist() == [-1, 3]
    segment.delete(np.array([3]), 40)
    assert visible(segment.view(LAYOUT, 0)) == [2, 3, 4]
    segment.publish()
    assert visible(segment.view(LAYOUT, 0)) == [2, 3]
    assert visible(segment.view(LAYOUT, 10)) == [3]
    assert segment.find(pa.array([1, 2, 3, 4, 5]), 10).tolist() == [-1, -1, 2, -1, -1]
    assert segment.find(pa.array([3]), 20).tolist() == [-1]


def with_fields(added, version):
    fields = {**SCHEMA.fields, **added}
    since = {**dict.fromkeys(SCHEMA.fields, 1), **dict.fromkeys(added, version)}
    return Layout(gv.Schema(fields, "id"), version, since)


@pytest.mark.parametrize("make", [lambda s: s, sealed])
def test_a_field_that_came_later_has_its_default_or_null(make):
    segment = growing([1, 2])
    segment.publish()
    layout = with_fields(
        {
            "n": gv.Int32(default=7),
            "m": gv.Float64(nullable=True),
            "w": gv.Vector(2, nullable=True),
        },
        2,
    )
    view = make(segment).view(layout, 0)
    assert view.scalars(["m", "n", "id"]).to_pydict() == {
        "m": [None, None], "n": [7, 7], "id": [1, 2],
    }  # fmt: skip
    assert view.vectors("w").valid.tolist() == [False, False]
    assert view.vectors("w").values.shape == (2, 2)
    assert view.statistics("n").low == 7
    assert view.statistics("m").null_count == 2


def test_a_field_that_was_dropped_and_came_again_is_a_new_one():
    segment = growing([1, 2])
    segment.publish()
    layout = with_fields({"word": gv.String(nullable=True)}, 3)
    assert segment.view(layout, 0).scalars(["word"])["word"].null_count == 2
    assert fit(rows_of([5]), layout, 1).table["word"].to_pylist() == [None]
    assert fit(rows_of([5]), layout, 3).table["word"].to_pylist() == ["w5"]


def test_deletes_are_kept_in_the_order_of_time():
    log = DeleteLog(np.array([3, 1]), np.array([20, 10]))
    log.add(np.array([7, 8]), 30)
    assert log.entries(1, 3)[0].tolist() == [3, 7]
    assert log.is_dead(np.array([0, 1, 3, 7, 99])).tolist() == [False, True, True, True, False]
    keep = np.ones(10, bool)
    log.hide(keep, 2)
    assert np.flatnonzero(~keep).tolist() == [1, 3]
