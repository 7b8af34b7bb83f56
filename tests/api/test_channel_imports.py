"""Imports into collections with several channels: one write, rows in their own channels."""

import contextlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpuvec as gv
from gpuvec.segment.routing import channel_of

SCHEMA = gv.Schema({"id": gv.Int64(), "n": gv.Int64(), "v": gv.Vector(4, metric="l2")}, "id")


def table(ids, n=0):
    ids = np.asarray(ids, np.int64)
    vectors = np.repeat(ids.astype(np.float32), 4)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors), 4)
    return pa.table({"id": ids, "n": np.full(len(ids), n), "v": flat})


def write(folder, *tables):
    for number, found in enumerate(tables):
        pq.write_table(found, folder / f"p{number}.parquet")
    return str(folder / "p*.parquet")


def content(items):
    rows = items.to_arrow()
    keys = rows["id"].to_pylist()
    assert len(set(keys)) == len(keys), "a key is visible twice"
    assert [v[0] for v in rows["v"].to_pylist()] == keys
    return dict(zip(keys, rows["n"].to_pylist(), strict=True))


@pytest.fixture
def items(db):
    return db.create_collection("items", SCHEMA, channels=3)


def test_an_import_is_one_write_whose_rows_lie_in_their_channels(items, tmp_path):
    items.insert(table(range(1000, 1010)))
    ids = np.random.default_rng(0).permutation(900)
    result = items.bulk_import(write(tmp_path, table(ids[:400], 1), table(ids[400:], 1)))
    assert (result.inserted, items.version) == (900, result.version)
    line, before = items.versions().to_arrow().to_pylist()[:2]
    assert (line["operation"], line["version"], line["inserted"]) == (
        "bulk_import", result.version, 900,
    )  # fmt: skip
    assert len(items.at(version=before["version"]).to_arrow()) == 10
    assert content(items) == dict.fromkeys(range(1000, 1010), 0) | dict.fromkeys(range(900), 1)
    channel = items._engine.channel(items._id)
    for name, own in enumerate(channel.channels):
        for segment in own.shard.sealed():
            assert set(channel_of(segment.rows.files.primary_keys(), 3)) == {name}


@pytest.mark.parametrize("mode", ["skip", "replace"])
def test_keys_meet_across_files_and_with_rows_of_every_channel(items, tmp_path, mode):
    items.insert(table(range(0, 60, 2), 9))
    items.flush()
    items.upsert(table(range(0, 60, 4), 8))  # in the logs
    glob = write(tmp_path, table(range(40), 1), table(range(20, 80), 2))
    result = items.bulk_import(glob, on_conflict=mode)
    old = {k: 8 if k % 4 == 0 else 9 for k in range(0, 60, 2)}
    if mode == "skip":
        wanted = dict.fromkeys(range(20, 80), 2) | dict.fromkeys(range(40), 1) | old
        assert (result.inserted, result.updated) == (50, 0)
    else:
        wanted = old | dict.fromkeys(range(40), 1) | dict.fromkeys(range(20, 80), 2)
        assert (result.inserted, result.updated) == (50, 30)
    assert content(items) == wanted


def test_all_conflicts_of_all_channels_are_counted(items, tmp_path):
    items.insert(table(range(30)))
    with pytest.raises(gv.SchemaError, match="exists") as caught:
        items.bulk_import(write(tmp_path, table(range(20, 50))))
    assert caught.value.details["count"] == 10
    with pytest.raises(gv.SchemaError, match="comes twice"):
        items.bulk_import(write(tmp_path, table(range(50, 90)), table(range(80, 99))))
    assert content(items) == dict.fromkeys(range(30), 0)


def test_an_import_outlives_the_process_that_made_it(tmp_path):
    glob = write(tmp_path, table(range(100), 1))
    with gv.connect(tmp_path / "db") as db:
        items = db.create_collection("items", SCHEMA, channels=4)
        items.insert(table(range(50, 150)))
        items.delete(filter="id >= 120")
        version = items.bulk_import(glob, on_conflict="replace").version
        items.upsert(table([3, 130], 2))
    with gv.connect(tmp_path / "db") as db:
        items = db["items"]
        wanted = dict.fromkeys(range(100), 1) | dict.fromkeys(range(100, 120), 0)
        assert content(items.at(version=version)) == wanted
        assert content(items) == wanted | {3: 2, 130: 2}
        items.compact()
        assert content(items) == wanted | {3: 2, 130: 2}
        assert items.insert(table([777])).version > version


def test_automatic_keys_go_on_above_those_of_all_channels(db, tmp_path):
    schema = gv.Schema({"n": gv.Int64(auto=True), "v": gv.Vector(4)}, "n")
    items = db.create_collection("items", schema, channels=3)
    items.insert({"v": np.ones((3, 4), np.float32)})
    items.bulk_import(write(tmp_path, table(range(5)).select(["v"])))
    items.bulk_import(write(tmp_path, table([1]).select(["v"]).append_column("n", [[50]])))
    items.insert({"v": np.ones((2, 4), np.float32)})
    assert sorted(items.to_pandas()["n"]) == [*range(8), 50, 51, 52]


@pytest.mark.embedded
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["error", "replace"])
def test_a_repeat_after_other_writes_reads_no_file(db, tmp_path, mode, channels):
    items = db.create_collection("items", SCHEMA, channels=channels)
    glob = write(tmp_path, table(range(100)))
    items.insert(table([200]))
    first = items.bulk_import(glob, on_conflict=mode)
    items.insert(table(range(300, 310)))
    items.delete(ids=[200])
    items.compact()
    stored = items.segments().to_arrow()
    read = []
    with gv.config.set(progress=lambda event: read.append(event["done"])):
        assert items.bulk_import(glob, on_conflict=mode).version == first.version
    assert max(read, default=0) == 0
    assert items.segments().to_arrow().equals(stored)
    items.upsert(table([5], 7))
    with contextlib.suppress(gv.SchemaError):
        items.bulk_import(glob, on_conflict=mode)
    assert content(items)[5] == (7 if mode == "error" else 0)


def test_a_repeat_that_skips_puts_back_what_was_in_the_way_and_is_gone(items, tmp_path):
    items.insert(table([3], 9))
    glob = write(tmp_path, table(range(10)))
    assert items.bulk_import(glob, on_conflict="skip").inserted == 9
    items.delete(ids=[3])
    assert items.bulk_import(glob, on_conflict="skip").inserted == 1
    assert content(items) == dict.fromkeys(range(10), 0)


@pytest.mark.one_process
def test_segments_of_an_import_are_as_large_as_compaction_wants_them(tmp_path):
    wide = np.random.default_rng(0).random((6000, 256), np.float32)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(wide.ravel()), 256)
    rows = pa.table({"id": np.arange(6000), "v": flat})
    pq.write_table(rows, tmp_path / "p.parquet", row_group_size=500, use_dictionary=False)
    schema = gv.Schema({"id": gv.Int64(), "v": gv.Vector(256)}, "id")
    for channels in (1, 2):
        with (
            gv.config.set(compact__size_bytes=1 << 20),
            gv.connect(tmp_path / f"db{channels}") as db,
        ):
            items = db.create_collection("items", schema, channels=channels)
            items.bulk_import(str(tmp_path / "p.parquet"))
            sizes = items.segments().to_pandas()["size_bytes"]
            assert 4 <= len(sizes) <= 10
            assert sizes.max() < 2.5 * (1 << 20)
            assert items.count() == 6000
