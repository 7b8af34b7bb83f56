"""compact() and vacuum(): what users call, and what the database does by itself."""

import datetime
import gc
import time

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.messages import SegmentWeight
from gpuvec.node import reindex

SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(4, metric="l2")}, "id")


@pytest.fixture
def items(db):
    return db.create_collection("items", SCHEMA)


def rows(*ids, add=0):
    ids = np.array(ids, np.int64)
    return {"id": ids, "v": np.repeat((ids + add)[:, None], 4, axis=1).astype(np.float32)}


def fill(items, flushes=3, each=10):
    for number in range(flushes):
        items.insert(rows(*range(number * each, number * each + each)))
        items.flush()


def ids_of(items):
    return sorted(items.select("id").to_arrow()["id"].to_pylist())


def on_disk(items):
    """Return the files of segments, and those that the manifest names."""
    engine = items._engine
    state = engine.state(items._id)
    prefix = f"collections/{items._id}"
    there = {k for f in ("seg", "dv", "idx") for k in engine.store.list(f"{prefix}/{f}/")}
    named = set()
    for record in state.segments.values():
        named |= {record.files["scalar"]["key"]}
        named |= {file["key"] for file in record.files["vectors"].values()}
        named |= {record.deletes["key"]} if record.deletes else set()
        named |= {f["key"] for i in record.indexes.values() for f in i.files.values()}
    return there, named


def test_compact_makes_one_segment_and_tells_so(items):
    fill(items)
    items.delete(ids=[0, 1])
    report = items.compact()
    assert (report.segments_before, report.segments_after) == (3, 2)
    assert report.rows_removed == 0, "the version before the delete is kept for a day"
    assert report.bytes_written > 0
    assert "made 2 of 3 segments" in repr(report)
    assert ids_of(items) == list(range(2, 30))
    assert items.compact().segments_before == 2
    assert items.compact().bytes_written == 0, "there is nothing left to do"


def test_compact_can_only_tell(items):
    fill(items)
    report = items.compact(dry_run=True)
    assert (report.segments_before, report.segments_after) == (3, 1)
    assert report.dry_run
    assert "would make 1 of 3" in repr(report)
    assert items.stats()["segments"] == 3


def test_what_compact_would_do_counts_rows_that_are_only_in_the_log(items):
    items.insert(rows(1, 2))
    assert repr(items.compact(dry_run=True)).startswith("CompactReport(would make 1 of 1 segment,")
    items.flush()
    items.insert(rows(3, 4))
    report = items.compact(dry_run=True)
    assert (report.segments_before, report.segments_after) == (2, 1)
    done = items.compact()
    assert (done.segments_before, done.segments_after) == (2, 1)


def test_segments_of_deleted_rows_are_listed_as_history(items):
    fill(items, flushes=1)
    items.upsert(rows(*range(5), add=1))
    items.flush()
    items.compact()
    states = items.segments().to_arrow()["state"].to_pylist()
    assert sorted(states) == ["flushed", "history"]


def test_indexes_stay_when_segments_are_compacted(items):
    fill(items, each=400)
    items.create_index("v", gv.index.HNSW(m=8))
    items.compact()
    (segment,) = items.segments().to_arrow().to_pylist()
    assert segment["indexes"] == ["v"]
    assert segment["state"] == "indexed"
    found = items.search(np.full((1, 4), 7, np.float32), k=1).to_arrow()
    assert found["id"].to_pylist() == [7]


def test_vacuum_leaves_the_files_that_are_in_use_and_no_others(items):
    with gv.config.set(store__grace_s=0.001):
        fill(items)
        for _ in range(3):
            items.upsert(rows(*range(30), add=1))
            items.flush()
        items.create_index("id", gv.index.Sorted())
        items.compact()
        report = items.vacuum("0s")
    assert report.rows_removed == 90
    assert report.files_deleted > 0
    assert report.bytes_deleted > 0
    assert report.files_waiting == 0
    there, named = on_disk(items)
    assert there == named
    assert ids_of(items) == list(range(30))


def test_files_that_another_process_may_read_wait(items):
    fill(items)
    items.compact()
    report = items.vacuum("0s")
    assert report.files_deleted == 0
    assert report.files_waiting == 6, "scalars and vectors of three segments"
    assert 0 < report.wait_s <= 120
    assert "wait up to" in repr(report)
    assert items.vacuum().wait_s > 120, "the grace of those who do not say how old"


def test_vacuum_can_only_tell(items):
    fill(items)
    items.delete(ids=list(range(10)))
    items.flush()
    before = on_disk(items)
    with gv.config.set(store__grace_s=0.001):
        report = items.vacuum("0s", dry_run=True)
    assert report.rows_removed == 10
    assert report.dry_run
    assert "would remove 10 rows" in repr(report)
    assert on_disk(items) == before


def test_vacuum_forgets_versions_but_not_tags(items):
    fill(items, flushes=1)
    tagged = items.version
    items.tag("first")
    items.upsert(rows(*range(5), add=1))
    between = items.version
    items.upsert(rows(*range(5), add=2))
    items.flush()
    items.vacuum("0s")
    with pytest.raises(gv.SnapshotExpiredError):
        items.at(version=between).to_arrow()
    old = items.at(tag="first").to_arrow()
    assert items.at(version=tagged).to_arrow().equals(old)
    assert sorted(old["id"].to_pylist()) == list(range(10))
    assert {tuple(v) for v in old["v"].to_pylist()} == {(float(i),) * 4 for i in range(10)}


def test_without_an_age_the_retention_says_what_is_kept(items):
    fill(items, flushes=1)
    before = items.version
    items.delete(ids=[3])
    items.flush()
    assert items.vacuum().rows_removed == 0
    assert items.vacuum("7d").rows_removed == 0, "no longer than the retention"
    assert len(items.at(version=before).to_arrow()) == 10
    gc.collect()  # handles on versions keep them
    assert items.vacuum(datetime.timedelta(0)).rows_removed == 1


@pytest.mark.parametrize("age", ["7 years", -1, "", "d", float("nan"), True, [7]])
def test_an_age_that_is_none_is_refused(items, age):
    with pytest.raises(gv.QueryError, match="GV-630"):
        items.vacuum(age)


@pytest.mark.embedded
def test_a_read_that_runs_keeps_its_files(items):
    fill(items)
    with gv.config.set(store__grace_s=0.001):
        batches = iter(items.select("id", "v").to_batches(10))
        first = next(batches)
        items.compact()
        assert items.vacuum("0s").files_deleted == 0
        left = list(batches)
        assert sum(map(len, [first, *left])) == 30
        del batches
        assert items.vacuum("0s").files_deleted == 6


def test_dropped_collections_and_closed_databases_refuse(db):
    items = db.create_collection("items", SCHEMA)
    db.drop_collection("items")
    with pytest.raises(gv.NotFoundError):
        items.compact()
    other = db.create_collection("other", SCHEMA)
    db.close()
    with pytest.raises(gv.UnavailableError):
        other.vacuum()


@pytest.mark.parametrize("channels", [1, 3])
def test_compaction_and_vacuum_go_through_all_channels_and_partitions(db, channels):
    items = db.create_collection("items", SCHEMA, channels=channels)
    for number in range(3):
        items.insert(rows(*range(number * 20, number * 20 + 10)))
        items.insert(rows(*range(number * 20 + 10, number * 20 + 20)), partition="p")
        items.flush()
    items.delete(ids=list(range(0, 60, 5)))
    with gv.config.set(store__grace_s=0.001):
        items.compact()
        items.vacuum("0s")
    left = [number for number in range(60) if number % 5]
    assert ids_of(items) == left
    found = items.segments().to_arrow()
    assert len(found) == 2 * channels, "one per channel and partition"
    assert sum(found["rows"].to_pylist()) == len(left)
    there, named = on_disk(items)
    assert there == named


def test_automatic_keys_are_never_used_again(db):
    items = db.create_collection(
        "items", gv.Schema({"id": gv.Int64(auto=True), "n": gv.Int64()}, "id")
    )
    ids = items.insert({"n": [1, 2, 3]}).ids.to_pylist()
    items.delete(ids=ids)
    items.vacuum("0s")
    assert items.stats()["stored_rows"] == 0
    items._engine.channel(items._id).close()  # the next write claims it again
    assert items.insert({"n": [4]}).ids.to_pylist() == [max(ids) + 1]


# By itself


def wait_until(done):
    end = time.monotonic() + 20
    while not done():
        assert time.monotonic() < end, "maintenance did not get there"
        time.sleep(0.01)


def test_small_segments_are_merged_by_themselves(items):
    fill(items, flushes=4)
    items._engine.maintenance.tend()
    wait_until(lambda: items.stats()["segments"] == 1)
    assert ids_of(items) == list(range(40))
    figures = items.stats()["maintenance"]
    assert figures["compactions"] == 1
    assert figures["written_bytes"] > 0
    assert figures["behind"] < 1


def test_segments_that_lost_many_rows_are_written_anew_by_themselves(items):
    fill(items, flushes=1, each=100)
    before = items.version
    items.delete(ids=list(range(30)))
    items._engine.maintenance.tend()
    wait_until(lambda: items.stats()["segments"] == 2)
    assert sorted(items.segments().to_arrow()["rows"].to_pylist()) == [30, 70]
    assert ids_of(items) == list(range(30, 100))
    assert len(items.at(version=before).to_arrow()) == 100


def test_closing_a_database_does_what_costs_little(tmp_path):
    with gv.connect(tmp_path / "db") as db:
        items = db.create_collection("items", SCHEMA)
        fill(items, flushes=4)
    with gv.connect(tmp_path / "db") as db:
        assert db["items"].stats()["segments"] == 1
        assert ids_of(db["items"]) == list(range(40))


@pytest.mark.embedded
def test_writers_wait_a_little_while_compaction_is_behind(items):
    maintenance = items._engine.maintenance
    coord = maintenance._data
    weight = dict(channel="s000", partition="", layout=1, rows=10, live=10, kept=10, size_bytes=9)
    crowd = [SegmentWeight(segment_id=str(number), **weight) for number in range(200)]
    coord.note_weights(items._id, crowd)
    start = time.monotonic()
    items.insert(rows(1))
    assert time.monotonic() - start >= 0.3
    assert items.stats()["maintenance"]["waits"] == 1
    assert items.stats()["maintenance"]["behind"] > 1
    coord.note_weights(items._id, ())
    items.insert(rows(2))
    assert items.stats()["maintenance"]["waits"] == 1


@pytest.mark.embedded
def test_a_compaction_that_fails_is_told_and_tried_again_without_indexes(items, monkeypatch):
    fill(items, flushes=2, each=200)
    items.create_index("id", gv.index.Sorted())

    def fail(*_, **__):
        raise RuntimeError("a library's own error")

    monkeypatch.setattr(reindex, "make", fail)
    with pytest.raises(RuntimeError):
        items.compact()
    assert items.stats()["segments"] == 2
    assert ids_of(items) == list(range(400))
