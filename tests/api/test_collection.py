"""What writes do, and what they refuse."""

import datetime
import itertools

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import gpuvec as gv

DIM = 4


@pytest.fixture
def items(db):
    schema = gv.Schema(
        {
            "id": gv.Int64(),
            "brand": gv.String(nullable=True),
            "price": gv.Float32(nullable=True),
            "embedding": gv.Vector(DIM),
        },
        "id",
    )
    return db.create_collection("items", schema)


def rows(ids, price=1.0, brand="acme"):
    return {
        "id": list(ids),
        "brand": [brand] * len(ids),
        "price": [price] * len(ids),
        "embedding": np.ones((len(ids), DIM), np.float32),
    }


def ids_of(frame):
    return sorted(frame.to_arrow()["id"].to_pylist())


# insert


def test_insert_returns_what_it_did(items):
    result = items.insert(rows([3, 1]))
    assert (result.inserted, result.updated, result.deleted) == (2, 0, 0)
    assert result.ids.to_pylist() == [3, 1]
    assert result.version == items.version > 0
    assert ids_of(items) == [1, 3]


@pytest.mark.parametrize(
    "convert",
    [
        pd.DataFrame,
        lambda d: pa.table({**d, "embedding": list(d["embedding"])}),
        lambda d: pl.DataFrame({**d, "embedding": d["embedding"]}),
        lambda d: [dict(zip(d, values, strict=True)) for values in zip(*d.values(), strict=True)],
    ],
    ids=["pandas", "arrow", "polars", "dicts"],
)
def test_rows_come_from_any_library(items, convert):
    data = rows([1, 2])
    if convert is pd.DataFrame:
        data["embedding"] = list(data["embedding"])
    items.insert(convert(data))
    assert ids_of(items) == [1, 2]


def test_rows_come_from_another_collection(db, items):
    items.insert(rows([1, 2, 3]))
    copy = db.create_collection("copy", items.schema)
    copy.insert(items.filter("id > 1"))
    assert ids_of(copy) == [2, 3]


def test_dynamic_columns_are_not_lost_in_silence(db):
    schema = gv.Schema({"id": gv.Int64(), "v": gv.Vector(2)}, "id", dynamic=True)
    one, other = db.create_collection("one", schema), db.create_collection("other", schema)
    one.insert([{"id": 1, "v": [1, 2]}])
    assert other.insert(one).inserted == 1
    one.insert([{"id": 2, "v": [1, 2], "color": "red"}])
    one.insert([{"id": 3, "v": [1, 2], "color": "blue", "size": {"x": [1, None]}}])
    other.upsert(one.filter("id > 1"))
    other.upsert(one.select("id", "v", "color").filter("id == 3"))
    found = other.sort("id").select("color", "$meta").to_arrow().to_pylist()
    assert [row["color"] for row in found] == [None, '"red"', '"blue"']
    assert [row["$meta"] for row in found] == [None, '{"color":"red"}', '{"color":"blue"}']
    other.upsert(one.select("id", "v", "color").filter("id == 2").collect())
    assert other.filter("color == 'red'").count() == 1
    copy = db.create_collection("copy", schema, data=one)
    assert copy.filter("size['x'][0] == 1").count() == 1
    plain = db.create_collection("plain", gv.Schema(schema.fields, "id"))
    with pytest.raises(gv.QueryError, match="GV-166"):
        plain.insert(one)
    inferred = db.create_collection("inferred", data=one, primary_key="id")
    assert inferred.filter("color == 'red'").count() == 1


def test_a_collection_can_be_made_from_a_stream_that_is_read_once(db):
    table = pa.table({"id": [1, 2], "name": ["a", "b"]})
    for number, stream in enumerate([table.to_reader(), pl.from_arrow(table).lazy()]):
        made = db.create_collection(f"c{number}", data=stream, primary_key="id")
        assert ids_of(made) == [1, 2]


def test_an_existing_key_is_refused_and_nothing_is_written(items):
    items.insert(rows([1, 2]))
    version = items.version
    with pytest.raises(gv.SchemaError, match=r'GV-157\] id 2 of row 1 exists in .*"items" \(and 1'):
        items.insert(rows([7, 2, 1]))
    assert ids_of(items) == [1, 2]
    assert items.version == version


def test_conflicts_can_be_skipped_or_replaced(items):
    items.insert(rows([1, 2], price=1))
    skipped = items.insert(rows([2, 3], price=5), on_conflict="skip")
    assert (skipped.inserted, skipped.updated, skipped.ids.to_pylist()) == (1, 0, [3])
    replaced = items.insert(rows([1, 4], price=9), on_conflict="replace")
    assert (replaced.inserted, replaced.updated) == (1, 1)
    found = items.sort("id").to_arrow().select(["id", "price"]).to_pydict()
    assert found == {"id": [1, 2, 3, 4], "price": [9, 1, 5, 9]}
    with pytest.raises(gv.QueryError, match="GV-158"):
        items.insert(rows([9]), on_conflict="ignore")


def test_a_key_twice_in_one_insert_is_refused(items):
    with pytest.raises(gv.SchemaError):
        items.insert(rows([1, 2, 1]))
    assert items.count() == 0


def test_in_an_upsert_the_last_row_of_a_key_wins(items):
    items.insert(rows([1], price=1))
    data = rows([1, 2, 1])
    data["price"] = [5, 6, 7]
    result = items.upsert(data)
    assert (result.inserted, result.updated) == (1, 1)
    assert items.filter("id == 1").to_arrow()["price"].to_pylist() == [7]


def test_bad_vectors_are_refused_or_dropped(items):
    data = rows([1, 2])
    data["embedding"][1, 0] = np.nan
    with pytest.raises(gv.SchemaError):
        items.insert(data)
    assert items.insert(data, on_bad_vectors="drop").inserted == 1


def test_a_write_of_nothing_makes_no_version(items):
    version = items.insert(rows([1])).version
    assert items.insert(rows([])).version == version
    assert items.delete(ids=[99]).version == version
    assert items.delete(filter="id > 99").deleted == 0
    assert items.update({"price": 2}, filter="id > 99").updated == 0
    assert items.version == version


def test_a_changed_array_does_not_change_what_was_written(items):
    data = rows([1, 2])
    items.insert(data)
    data["embedding"][:] = 77
    assert (np.stack(items.to_arrow()["embedding"].to_numpy()) == 1).all()


def test_automatic_ids_number_the_rows(db):
    schema = gv.Schema({"id": gv.Int64(auto=True), "v": gv.Vector(2)}, "id")
    log = db.create_collection("log", schema)
    assert log.insert({"v": np.ones((3, 2))}).ids.to_pylist() == [0, 1, 2]
    log.flush()
    assert log.insert({"v": np.ones((2, 2))}).ids.to_pylist() == [3, 4]
    log.delete(ids=[4])
    assert log.insert({"v": np.ones((1, 2))}).ids.to_pylist() == [5], "an id comes once"


def test_dynamic_fields_are_kept_and_updated_around(db):
    schema = gv.Schema({"id": gv.Int64(), "v": gv.Vector(2), "n": gv.Int32()}, "id", dynamic=True)
    free = db.create_collection("free", schema)
    free.insert([{"id": 1, "v": [1, 2], "n": 1, "color": "red"}, {"id": 2, "v": [1, 2], "n": 2}])
    free.flush()
    assert free.update({"n": gv.col("n") + 10}, filter='color == "red"').updated == 1
    assert free.filter('color == "red" and n == 11').count() == 1


# update and delete


def test_update_computes_from_the_old_row(items):
    items.insert(rows([1, 2], price=10))
    items.flush()
    items.insert(rows([3], price=20, brand="zeta"))
    result = items.update({"price": gv.col("price") * 2, "brand": "new"}, filter="id >= 2")
    assert (result.updated, sorted(result.ids.to_pylist())) == (2, [2, 3])
    found = items.sort("id").to_arrow().select(["price", "brand"]).to_pydict()
    assert found == {"price": [10, 20, 40], "brand": ["acme", "new", "new"]}


def test_update_can_set_null_and_vectors(items):
    items.insert(rows([1, 2]))
    items.update({"price": None, "embedding": [1, 2, 3, 4]}, filter="id == 1")
    assert items.filter("price is null").to_arrow()["embedding"].to_pylist() == [[1, 2, 3, 4]]


def test_update_refuses_what_the_schema_does_not_allow(items):
    items.insert(rows([1]))
    with pytest.raises(gv.SchemaError, match="GV-156"):
        items.update({"id": 5}, filter="id == 1")
    with pytest.raises(gv.NotFoundError, match="price"):
        items.update({"prise": 5}, filter="id == 1")
    with pytest.raises(gv.SchemaError):
        items.update({"embedding": None}, filter="id == 1")
    with pytest.raises(gv.FilterError):
        items.update({"price": 5}, filter="price <<< 1")
    for values in ({"price": "cheap"}, {"embedding": [1, 2]}, {"embedding": gv.col("price")},
                   {"brand": object()}):  # fmt: skip
        with pytest.raises(gv.SchemaError):
            items.update(values, filter="id == 1")
    assert items.count() == 1


def test_update_moves_no_row_to_another_partition(items):
    items.insert(rows([1]), partition="a")
    items.insert(rows([2]), partition="b")
    items.update({"price": 5}, filter="id > 0")
    assert ids_of(items.partition("a")) == [1]
    assert ids_of(items.partition("b")) == [2]


def test_rows_are_deleted_by_ids_filter_or_frame(items):
    items.insert(rows(range(10)))
    items.flush()
    assert items.delete(ids=[1, 1, 99]).deleted == 1
    assert items.delete(ids=np.array([2, 3])).deleted == 2
    assert items.delete(ids=4).ids.to_pylist() == [4]
    assert items.delete(filter=gv.col("id") == 5).deleted == 1
    assert items.delete(items.filter("id == 6")).deleted == 1
    assert items.delete(pd.DataFrame({"id": [7], "other": ["x"]})).deleted == 1
    assert ids_of(items) == [0, 8, 9]


def test_delete_wants_exactly_one_of_its_arguments(items):
    for arguments in ({}, {"filter": "id > 1", "ids": [1]}):
        with pytest.raises(gv.QueryError, match="GV-159"):
            items.delete(**arguments)
    with pytest.raises(gv.QueryError, match="filter"):
        items.delete("id > 1")
    with pytest.raises(gv.SchemaError, match="GV-164"):
        items.delete(ids=["a"])


def test_a_deleted_key_can_come_again(items):
    items.insert(rows([1], price=1))
    items.delete(ids=[1])
    items.insert(rows([1], price=2))
    items.flush()
    items.delete(ids=[1])
    items.insert(rows([1], price=3))
    assert items.to_arrow()["price"].to_pylist() == [3]


# definition


def test_a_field_comes_with_its_default_and_goes(items):
    items.insert(rows([1]))
    items.add_field("stock", gv.Int32(), default=7)
    items.insert({**rows([2]), "stock": [3]})
    items.insert(rows([3]))
    assert items.sort("id").to_arrow()["stock"].to_pylist() == [7, 3, 7]
    assert items.filter("stock == 7").count() == 2
    items.drop_field("stock")
    assert "stock" not in items.columns
    with pytest.raises(gv.NotFoundError):
        items.filter("stock == 7")
    items.add_field("stock", gv.String(nullable=True))
    assert items.to_arrow()["stock"].null_count == 3, "a field that came again is a new one"


def test_fields_that_cannot_come_or_go_are_refused(items):
    with pytest.raises(gv.SchemaError, match="GV-155"):
        items.add_field("x", gv.Int32())
    with pytest.raises(gv.SchemaError, match=r"GV-128.*Vector\(3"):
        items.add_field("w", gv.Vector(3), default=[1, 2, 3])
    with pytest.raises(gv.AlreadyExistsError, match="GV-154"):
        items.add_field("price", gv.Int32(nullable=True))
    with pytest.raises(gv.SchemaError, match="GV-156"):
        items.drop_field("id")
    with pytest.raises(gv.NotFoundError, match="price"):
        items.drop_field("prise")


def test_an_open_handle_sees_a_new_field(db, items):
    other = db["items"]
    items.add_field("stock", gv.Int32(nullable=True))
    assert "stock" in other.columns
    assert other.filter("stock is null").count() == 0


def test_truncate_deletes_all_and_frees_the_keys(items):
    items.insert(rows([1, 2]))
    items.flush()
    items.insert(rows([3]))
    items.truncate()
    assert items.count() == 0
    items.insert(rows([1, 3]))
    assert ids_of(items) == [1, 3]


def test_partitions(items):
    items.insert(rows([1, 2]), partition="2026-11")
    items.insert(rows([3]))
    assert items.partitions == ["2026-11"]
    assert ids_of(items.partition("2026-11")) == [1, 2]
    assert ids_of(items.partition("2026-11").search(np.ones(DIM), k=1)) == [1]
    with pytest.raises(gv.NotFoundError, match="2026-11"):
        items.partition("2026-12")
    items.upsert(rows([1]))
    assert ids_of(items.partition("2026-11")) == [2], "an upsert moves the row"
    items.drop_partition("2026-11")
    assert ids_of(items) == [1, 3]
    assert items.partitions == []
    items.insert(rows([2]), partition="2026-11")
    assert ids_of(items.partition("2026-11")) == [2]


def test_with_a_partition_key_the_value_is_the_partition(db):
    schema = gv.Schema(
        {"id": gv.Int64(), "country": gv.String(), "v": gv.Vector(2)},
        "id",
        partition_key="country",
    )
    shops = db.create_collection("shops", schema)
    shops.insert({"id": [1, 2, 3], "country": ["no", "se", "no"], "v": np.ones((3, 2))})
    assert ids_of(shops.partition("no")) == [1, 3]
    with pytest.raises(gv.QueryError, match="GV-160"):
        shops.insert({"id": [4], "country": ["no"], "v": np.ones((1, 2))}, partition="x")
    shops.drop_partition("no")
    assert ids_of(shops) == [2]


def test_a_large_flush_splits_rows_by_partition_key(db):
    schema = gv.Schema(
        {"id": gv.Int64(), "country": gv.String(), "v": gv.Vector(256)},
        "id",
        partition_key="country",
    )
    shops = db.create_collection("shops", schema)
    count = 20_000
    country = [f"c{n % 40:02d}" for n in range(count)]
    shops.insert({"id": np.arange(count), "country": country, "v": np.ones((count, 256))})
    shops.delete(ids=[5])
    shops.flush()
    segments = db["shops"]._engine.snapshot(shops._id).segments
    assert len(segments) > 2
    bounds = [segment.statistics("country") for segment in segments]
    for one, other in itertools.pairwise(bounds):
        assert one.high < other.low
    assert shops.count() == count - 1
    assert shops.filter("country == 'c05'").count() == count // 40 - 1


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [("7d", 604800), ("1.5 h", 5400), ("30m", 1800), (45, 45.0), (datetime.timedelta(1), 86400)],
)
def test_a_time_to_live_is_kept(items, ttl, seconds):
    items.set_ttl(ttl)
    assert items._state.ttl_s == seconds
    items.set_ttl(None)
    assert items._state.ttl_s is None


@pytest.mark.parametrize("ttl", ["7 days", -1, 0, float("inf"), True, [1]])
def test_a_time_to_live_that_is_none_is_refused(items, ttl):
    with pytest.raises(gv.QueryError, match="GV-163"):
        items.set_ttl(ttl)


# looking


def test_stats_and_segments_come_from_metadata(items):
    items.insert(rows(range(5)), partition="p")
    items.flush()
    items.insert(rows([7]))
    items.delete(ids=[0])
    stats = items.stats()
    assert (stats["rows"], stats["stored_rows"], stats["deleted_rows"]) == (5, 6, 1)
    assert (stats["segments"], stats["partitions"]) == (2, 1)
    found = items.segments().to_arrow()
    assert found["state"].to_pylist() == ["flushed", "growing"]
    assert found["rows"].to_pylist() == [5, 1]
    assert "5 rows" in repr(items)
    assert "items" in items._repr_html_()


def test_one_read_sees_one_version(items):
    items.insert(rows(range(100)))
    with items._source.snapshot() as snapshot:
        items.delete(filter="id < 50")
        items.insert(rows(range(200, 300)))
        items.flush()
        kept = [
            view.num_rows if view.keep() is None else int(view.keep().sum()) for view in snapshot
        ]
        assert sum(kept) == 100
        assert len(snapshot.segments[0].vectors("embedding")) == 100
    assert items.count() == 150
