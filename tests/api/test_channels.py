"""Collections with several channels: the same answers, one version per write."""

import threading

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.errors import QueryError, SchemaError, UnsupportedError

DIM = 4


def rows(*keys, n=0):
    keys = np.array(keys, np.int64)
    vectors = np.repeat(keys[:, None], DIM, axis=1).astype(np.float32)
    return {"key": keys, "n": np.full(len(keys), n), "v": vectors}


@pytest.fixture
def schema():
    fields = {"key": gv.Int64(), "n": gv.Int64(), "v": gv.Vector(DIM, metric="l2")}
    return gv.Schema(fields, "key")


@pytest.fixture
def items(db, schema):
    return db.create_collection("items", schema, channels=3)


def there(frame):
    return sorted(frame.to_arrow()["key"].to_pylist())


def channels(items):
    return set(items.segments().to_arrow()["channel"].to_pylist())


def test_rows_spread_over_all_channels_and_come_back_together(items):
    items.insert(rows(*range(100)))
    items.flush()
    items.insert(rows(*range(100, 150)))
    assert channels(items) == {"s000", "s001", "s002"}
    assert there(items) == list(range(150))
    found = items.search(np.full(DIM, 70.2, np.float32), k=3).to_arrow()
    assert found["key"].to_pylist() == [70, 71, 69]


def test_a_write_is_one_version_with_one_line(items):
    items.insert(rows(*range(50)))
    written = items.update({"n": 7}, filter="key < 40")
    assert (written.updated, items.version) == (40, written.version)
    items.flush()
    gone = items.delete(filter="key >= 45")
    lines = items.versions().to_arrow().to_pylist()
    assert [(line["operation"], line["version"]) for line in lines[:2]] == [
        ("delete", gone.version),
        ("update", written.version),
    ]
    assert lines[1]["updated"] == 40
    assert there(items.at(version=written.version)) == list(range(50))
    assert items.at(version=written.version).filter("n == 7").count() == 40


def test_a_key_that_exists_in_any_channel_stops_the_whole_insert(items):
    items.insert(rows(*range(30)))
    with pytest.raises(SchemaError, match=r"key 20 of row 5 exists in .*and 1 more") as raised:
        items.insert(rows(100, 101, 102, 103, 104, 20, 105, 7))
    assert raised.value.details["count"] == 2
    assert there(items) == list(range(30))


def test_what_is_skipped_is_told_in_the_order_of_the_batch(items):
    items.insert(rows(*range(0, 20, 2)))
    written = items.insert(rows(*range(10, 0, -1)), on_conflict="skip")
    assert written.ids.to_pylist() == [9, 7, 5, 3, 1]
    assert items.delete(ids=[19, 8, 3, 8, 2, 77]).ids.to_pylist() == [8, 3, 2]


def test_automatic_keys_count_over_all_channels(db):
    schema = gv.Schema({"key": gv.Int64(auto=True), "v": gv.Vector(DIM)}, "key")
    items = db.create_collection("numbered", schema, channels=4)
    vectors = np.ones((10, DIM), np.float32)
    assert items.insert({"v": vectors}).ids.to_pylist() == list(range(10))
    assert items.insert({"key": [50], "v": vectors[:1]}).ids.to_pylist() == [50]
    assert items.insert({"v": vectors}).ids.to_pylist() == list(range(51, 61))
    items.flush()
    items.delete(filter="key > 55")
    assert items.insert({"v": vectors[:2]}).ids.to_pylist() == [61, 62]


def test_text_keys_spread_too(db):
    schema = gv.Schema({"key": gv.String(), "v": gv.Vector(DIM)}, "key")
    items = db.create_collection("texts", schema, channels=2)
    keys = [f"doc {number}" for number in range(40)]
    items.insert({"key": keys, "v": np.ones((40, DIM), np.float32)})
    assert items.upsert({"key": keys[:10], "v": np.ones((10, DIM), np.float32)}).updated == 10
    assert items.get(["doc 7"]).count() == 1
    assert items.count() == 40


def test_many_writers_share_groups(items):
    def write(writer):
        for batch in range(5):
            first = writer * 1000 + batch * 10
            items.insert(rows(*range(first, first + 10)))

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert items.count() == 8 * 5 * 10
    lines = items.versions().to_arrow().to_pylist()
    assert [line["inserted"] for line in lines if line["operation"] == "insert"] == [10] * 40


def test_schema_truncation_indexes_and_compaction_reach_all_channels(items):
    items.insert(rows(*range(60)))
    items.add_field("tag", gv.String(), default="x")
    items.flush()
    items.insert({**rows(*range(60, 90)), "tag": ["y"] * 30})
    items.flush()
    items.create_index("key", gv.index.Sorted())
    indexed = items.segments().to_arrow()["indexes"].to_pylist()
    assert indexed == [["key"]] * len(indexed)
    assert items.filter("tag == 'x'").count() == 60
    items.delete(filter="key % 2 == 0")
    items.compact()
    assert channels(items) == {"s000", "s001", "s002"}
    assert there(items) == list(range(1, 90, 2))
    items.truncate()
    assert items.count() == 0
    items.insert({**rows(1, 2, 3), "tag": ["z"] * 3})
    assert there(items) == [1, 2, 3]


def test_another_process_reads_whole_writes_of_one_version(tmp_path, where, schema):
    place = where(tmp_path / "db")
    with gv.connect(**place) as db:
        items = db.create_collection("items", schema, channels=3)
        reader = gv.connect(**place) if "://" in str(place["path"]) else None
        for number in range(5):
            items.upsert(rows(*range(40), n=number))
            if reader is not None:
                found = reader["items"].to_arrow()
                assert found["n"].to_pylist() == [number] * 40
        if reader is not None:
            reader.close()
    with gv.connect(**place) as db:
        assert db["items"].to_arrow()["n"].to_pylist() == [4] * 40
        assert db["items"].insert(rows(40)).inserted == 1


def test_the_number_of_channels_is_checked(db, schema):
    for wrong in (0, 65, 1.5, True, "3", None):
        with pytest.raises(QueryError, match="channels must be a whole number from 1 to 64"):
            db.create_collection("items", schema, channels=wrong)
    items = db.create_collection("items", schema, channels=64)
    items.insert(rows(*range(10)))
    assert db.create_collection("items", exist_ok=True).count() == 10
    assert db.create_collection("items", exist_ok=True, channels=64).count() == 10
    with pytest.raises(QueryError, match="has 64 channels, not 2"):
        db.create_collection("items", exist_ok=True, channels=2)


def test_files_of_others_have_no_channels(db, tmp_path):
    with pytest.raises(UnsupportedError, match="not available for a collection with 3 channels"):
        db.create_collection("items", external=f"{tmp_path}/*", primary_key="key", channels=3)


def test_a_collection_with_one_channel_writes_frames_of_the_first_format(tmp_path, schema):
    with gv.connect(tmp_path / "db") as db:
        items = db.create_collection("items", schema)
        items.insert(rows(*range(20)))
        log = max((tmp_path / "db").glob("collections/*/wal/s000/e*.log"), key=lambda p: p.name)
        assert log.read_bytes()[4] == 1
