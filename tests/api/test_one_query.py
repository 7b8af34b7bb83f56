"""What is kept between single queries never shows in an answer."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import gpuvec as gv

ROWS = 60
VECTORS = np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32)
SCHEMA = gv.Schema(
    {
        "id": gv.Int64(),
        "name": gv.String(),
        "rank": gv.Int64(nullable=True),
        "v": gv.Vector(4),
    },
    primary_key="id",
)


def rows(start, stop):
    ids = range(start, stop)
    return {
        "id": list(ids),
        "name": [f"n{i}" for i in ids],
        "rank": [None if i % 3 else i for i in ids],
        "v": VECTORS[start:stop],
    }


@pytest.fixture
def items(tmp_path):
    """Rows in two segments, one of them growing."""
    with gv.connect(tmp_path / "db") as db:
        made = db.create_collection("items", SCHEMA)
        made.insert(rows(0, 40))
        made.flush()
        made.insert(rows(40, ROWS))
        yield made


def check(table):
    ids = table["id"].to_pylist()
    assert table["name"].to_pylist() == [f"n{i}" for i in ids]
    assert table["rank_right"].to_pylist() == [None if i % 3 else i for i in ids]


def test_every_column_is_that_of_its_row(items):
    for _ in range(2):
        for few in (VECTORS[3], VECTORS[[1, 50, 7]]):
            table = items.search(few, k=5).to_arrow()
            assert table["rank"].to_pylist() == [1, 2, 3, 4, 5] * (len(table) // 5)
            check(table)
    assert items.search(VECTORS[50], k=1).to_arrow()["id"].to_pylist() == [50]


def test_vectors_come_with_the_other_columns(items):
    found = items.search(VECTORS[[1, 50]], k=3).select("v", "name", "id").to_numpy()
    assert np.array_equal(found["v"], VECTORS[found["id"]])
    assert found["name"].tolist() == [f"n{i}" for i in found["id"]]


def test_a_plan_lives_as_long_as_the_fields_and_the_name(items):
    plan = items.plan
    assert items.plan is plan
    items.insert(rows(0, 1) | {"id": [1000]})
    assert items.plan is plan
    items.add_field("more", gv.Int64(nullable=True))
    assert "more" in items.search(VECTORS[0], k=1).to_arrow().column_names


def test_a_field_made_anew_is_not_taken_from_what_was_kept(items):
    old = items.search(VECTORS[0], k=2)
    check(old.to_arrow())
    items.drop_field("name")
    items.add_field("name", gv.Int64(nullable=True))
    with pytest.raises(gv.NotFoundError, match="GV-104"):
        old.to_arrow()
    assert items.search(VECTORS[0], k=2).to_arrow()["name"].to_pylist() == [None, None]


def test_rows_written_and_deleted_between_queries_are_seen(items):
    for number in range(5):
        items.insert(rows(number, number + 1) | {"id": [100 + number], "v": VECTORS[:1] + number})
        near = VECTORS[0] + number
        assert items.search(near, k=1).to_arrow()["id"].to_pylist()[0] in (0, 100, 100 + number)
        items.delete(ids=[100 + number])
        assert 100 + number not in items.search(near, k=ROWS + 5).to_arrow()["id"].to_pylist()


def test_pandas_gets_each_column_as_if_it_were_alone(items):
    frame = items.search(VECTORS[0], k=9)
    for chosen in (frame, frame.select("id", "name", "distance")):  # with nulls and without
        found, table = chosen.to_pandas(), chosen.to_arrow()
        assert list(found.columns) == table.column_names
        for name in found.columns:
            types = {pa.int64(): pd.Int64Dtype()}.get if table[name].null_count else None
            alone = table[name].to_pandas(types_mapper=types)
            pd.testing.assert_series_equal(found[name], alone, check_names=False)
