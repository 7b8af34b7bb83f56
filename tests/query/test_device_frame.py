"""Scalar columns of filtered rows as a frame on a rehearsed card: the host's rows, not copied."""

import numpy as np
import pyarrow as pa
import pytest

import gpuvec as gv
from gpuvec.device import columns, fallback, transfer
from gpuvec.device.arrays import is_device_array
from gpuvec.kernels.predicate import PlainColumns
from gpuvec.query.device_frame import frame_on_device, load_scalars, rows_on_device
from gpuvec.testing.programs import MeaningColumns

SCHEMA = gv.Schema(
    {
        "id": gv.Int64(),
        "brand": gv.String(nullable=True),
        "at": gv.Timestamp(nullable=True),
        "tags": gv.List(gv.String()),
        "extra": gv.JSON(nullable=True),
        "v": gv.Vector(4),
    },
    primary_key="id",
)


class NoArrays(MeaningColumns):
    """Frames that say whether the mask was on the device when rows were chosen."""

    def frame(self, held, kinds):
        found = super().frame(held, kinds)
        plain = found.filter

        def filter_on_device(mask):
            assert is_device_array(mask)
            return plain(mask.get())  # which Arrow needs, and cuDF does not

        found.filter = filter_on_device
        return found


@pytest.fixture
def items(rehearsed, tmp_path):
    fallback.forget()
    with columns.using(NoArrays()), gv.connect(tmp_path / "db", device="gpu") as db:
        made = db.create_collection("items", SCHEMA)
        for start in (0, 50):
            ids = np.arange(start, start + 50)
            made.insert(
                {
                    "id": ids,
                    "brand": [None if i % 7 == 0 else f"brand {i % 3}" for i in ids],
                    "at": [None if i % 5 == 0 else f"2026-01-{i % 28 + 1:02}" for i in ids],
                    "tags": [["a"] * (i % 3) for i in ids],
                    "extra": [{"n": int(i)} for i in ids],
                    "v": np.ones((50, 4), np.float32),
                }
            )
            made.flush()
        made.delete(filter="id % 10 == 3")
        yield made


QUESTIONS = {
    "all": lambda items: items.drop("v"),
    "some columns": lambda items: items.select("at", "brand"),
    "filtered": lambda items: items.filter('brand == "brand 1" and id > 5').select("id", "tags"),
    "half on the host": lambda items: items.filter('extra["n"] < 60 and id > 5').select("id"),
    "one segment": lambda items: items.filter("id < 20").select("id", "extra"),
}


def on_device(frame):
    return rows_on_device(frame.plan, frame._session, NoArrays())


@pytest.mark.filterwarnings("ignore::gpuvec.FallbackWarning")
@pytest.mark.parametrize("question", QUESTIONS)
def test_rows_are_those_of_the_host(items, question):
    frame = QUESTIONS[question](items)
    wanted = frame.to_arrow()
    found = on_device(frame).to_arrow()
    assert found.select(wanted.column_names).combine_chunks().equals(wanted.combine_chunks())


def test_a_frame_that_lies_there_crosses_nothing(items):
    frame = items.filter("id > 5").select("id", "brand", "tags")
    on_device(frame)
    before = transfer.copied()
    on_device(frame)
    assert transfer.copied() == before


@pytest.mark.parametrize(
    "make",
    [
        lambda items: items.select("v"),
        lambda items: items.drop("v").sort("brand"),
        lambda items: items.with_columns(twice="id * 2").select("id", "twice"),
        lambda items: items.search(np.ones(4, np.float32), k=3).select("id"),
        lambda items: items.filter("id < 0").select("id"),
    ],
    ids=["vectors", "sorted", "computed", "searched", "none"],
)
def test_what_is_not_rows_of_segments_is_made_on_the_host(items, make):
    assert on_device(make(items)) is None


def test_loaded_columns_lie_there_and_stay(items):
    load_scalars(items.plan, items._session)
    before = transfer.copied()
    on_device(items.drop("v"))
    on_device(items.filter('brand == "brand 1"').select("id", "tags", "extra", "at"))
    assert transfer.copied() == before


def test_columns_that_cannot_lie_there_are_left_out(items):
    with columns.using(PlainColumns()):
        load_scalars(items.plan, items._session)
        before = transfer.copied()
        items.filter('brand == "brand 1" and id > 5').search(np.ones(4, np.float32), k=3).to_arrow()
        moved = {key for key, size in transfer.copied().items() if size != before.get(key)}
    assert (transfer.UP, "scalars") not in moved


def test_without_cudf_there_is_no_frame(items):
    with columns.using(PlainColumns()):
        assert frame_on_device(items.select("id").plan, items._session) is None


def test_vectors_become_lists_that_share_their_values():
    from gpuvec.api.export import as_lists

    values = np.arange(12, dtype=np.float32)
    fixed = pa.FixedSizeListArray.from_arrays(
        pa.array(values), 3, mask=pa.array([False, True, False, False])
    )
    table = pa.table({"n": [1, 2, 3], "v": fixed.slice(1)})
    found = as_lists(table)
    assert found.schema.field("v").type == pa.list_(pa.float32())
    assert found["v"].to_pylist() == table["v"].to_pylist()


def test_a_column_of_more_values_than_cudf_holds_is_refused():
    from gpuvec.api.export import as_lists

    wide = pa.FixedSizeListArray.from_arrays(pa.nulls(2**31), 2**30)
    with pytest.raises(gv.UnsupportedError, match="2,147,483,647") as caught:
        as_lists(pa.table({"v": wide}))
    assert caught.value.code == "GV-910"
    assert "1 rows at a time" in caught.value.hint
