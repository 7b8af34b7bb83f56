"""Copies of a version: whole, verified, finished by doing them again."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import gpuvec as gv
from gpuvec.api.collection import Collection
from gpuvec.api.copy import copy_database, copy_to
from gpuvec.api.engine import Engine
from gpuvec.api.source import CollectionSource
from gpuvec.cli import app
from gpuvec.query.session import new_session
from gpuvec.storage.local import LocalStore
from gpuvec.storage.memory import MemoryStore
from gpuvec.testing.faults import Crash, Fault, FaultStore

KINDS = {
    "id": gv.Int64(),
    "word": gv.String(nullable=True),
    "v": gv.Vector(8, metric="l2"),
    "s": gv.SparseVector(nullable=True),
}
SCHEMA = gv.Schema(KINDS, primary_key="id", dynamic=True)


def rows(ids, word="a"):
    ids = list(ids)
    vectors = np.random.default_rng([7, *ids[:1]]).random((len(ids), 8), dtype=np.float32)
    return {"id": ids, "word": [word] * len(ids), "v": vectors, "more": [len(word)] * len(ids)}


def read(frame):
    return frame.sort("id").to_arrow().to_pylist()


@pytest.fixture
def shop(tmp_path):
    """A database with a past; yields its path, and what each tag of "items" read like."""
    path = str(tmp_path / "shop")
    told = {}
    with gv.connect(path) as db:
        items = db.create_collection("items", SCHEMA)
        db.create_collection("empty", SCHEMA)
        db.alias("things", "items")

        def note(tag):
            items.tag(tag)
            told[tag] = read(items)

        items.insert(rows(range(50)))
        items.insert(rows(range(100, 120)), partition="p")
        note("first")
        items.flush()
        items.create_index("v", gv.index.HNSW(), recall=0.9)
        items.create_index("word", gv.index.Bitmap())
        items.upsert(rows(range(40, 60), "b"))
        note("second")
        items.flush()
        items.delete(filter="id < 10")
        items.drop_partition("p")
        note("third")
        items.drop_field("word")
        items.insert({"id": [500], "v": np.ones((1, 8), np.float32)})
        note("fourth")
        items.truncate()
        note("fifth")
    return path, told


@pytest.mark.parametrize("tag", ["first", "second", "third", "fourth", "fifth"])
def test_a_copy_opens_as_a_database_with_the_version(shop, tmp_path, tag):
    path, told = shop
    report = copy_database(path, str(tmp_path / "copy"), tag=tag)
    assert [(c.name, c.rows) for c in report.collections] == [("items", len(told[tag]))]
    with gv.connect(tmp_path / "copy") as db:
        items = db["things"]
        assert read(items) == told[tag]
        assert items.version == report.collections[0].version
        assert items.tags == {tag: items.version}
        assert read(items.at(tag=tag)) == told[tag]
        with pytest.raises(gv.SnapshotExpiredError):
            items.at(version=items.version - 1)
        items.insert({"id": [900], "v": np.ones((1, 8), np.float32)})
        assert items.count() == len(told[tag]) + 1
        items.flush()
        assert len(read(items.at(tag=tag))) == len(told[tag])


def test_a_copy_of_the_newest_version_has_all_collections_and_indexes(shop, tmp_path):
    path, _ = shop
    with gv.connect(path) as db:
        db["items"].insert({"id": [1, 2], "v": np.zeros((2, 8), np.float32)})
        wanted = read(db["items"])
        copy_database(path, str(tmp_path / "copy"))  # while it is open, and rows are in the log
        db["items"].insert({"id": [3], "v": np.zeros((1, 8), np.float32)})
    with gv.connect(tmp_path / "copy") as db:
        assert db.collections() == ["empty", "items"]
        assert read(db["items"]) == wanted
        assert db["items"].indexes().to_arrow()["field"].to_pylist() == ["v"]


def test_an_index_goes_over_with_its_segment(shop, tmp_path):
    path, told = shop
    copy_database(path, str(tmp_path / "copy"), tag="second")
    with gv.connect(tmp_path / "copy") as db:
        found = {row["field"]: row for row in db["items"].indexes().to_arrow().to_pylist()}
        assert set(found) == {"v"}  # that of "word" went with the field
        assert found["v"]["rows_covered"] > 0
        nearest = (
            db["items"].search(told["second"][3]["v"], k=1, on="v").to_arrow()["id"][0].as_py()
        )
        assert nearest == told["second"][3]["id"]


def test_done_again_a_copy_moves_only_what_is_new(shop, tmp_path):
    path, _ = shop
    copy_database(path, str(tmp_path / "copy"), tag="second")
    again = copy_database(path, str(tmp_path / "copy"), tag="second").collections[0]
    assert (again.copied, again.bytes_copied) == (0, 0) or again.copied < again.files
    with gv.connect(path) as db:
        db["items"].insert({"id": range(1000), "v": np.ones((1000, 8), np.float32)})
        db["items"].flush()
    later = copy_database(path, str(tmp_path / "copy"), collections=["items"]).collections[0]
    assert later.rows == 1000
    with gv.connect(tmp_path / "copy") as db:
        assert db["items"].count() == 1000


def test_a_version_goes_by_number_and_by_collection(shop, tmp_path):
    path, told = shop
    with gv.connect(path) as db:
        version = db["items"].tags["second"]
    report = copy_database(path, str(tmp_path / "copy"), version=version)
    assert [c.name for c in report.collections] == ["empty", "items"]
    with gv.connect(tmp_path / "copy") as db:
        assert read(db["items"]) == told["second"]
        assert db["empty"].count() == 0


def test_what_does_not_exist_is_told_before_anything_is_written(shop, tmp_path):
    path, _ = shop
    for arguments in ({"tag": "seventh"}, {"version": 2**62}, {"collections": ["itmes"]}):
        with pytest.raises(gv.NotFoundError):
            copy_database(path, str(tmp_path / "copy"), **arguments)
    assert not (tmp_path / "copy").exists()


def test_a_place_that_is_no_copy_is_left_alone(shop, tmp_path):
    path, _ = shop
    with gv.connect(tmp_path / "mine") as db:
        db.create_collection("items", SCHEMA)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("years of work")
    for place in ("mine", "other"):
        with pytest.raises(gv.ConflictError, match="GV-648"):
            copy_database(path, str(tmp_path / place))
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["thesis.tex"]


def test_a_copy_that_was_written_to_is_not_overwritten(shop, tmp_path):
    path, _ = shop
    copy_database(path, str(tmp_path / "copy"), tag="first")
    with gv.connect(tmp_path / "copy") as db:
        db["items"].delete(ids=[1])
    with pytest.raises(gv.ConflictError, match=r'GV-648.*"items" was written to'):
        copy_database(path, str(tmp_path / "copy"), tag="second")


def test_a_damaged_file_of_the_source_is_not_copied(shop, tmp_path):
    path, _ = shop
    victim = next(Path(path).glob("collections/*/seg/*/vec-v.arrow"))
    data = bytearray(victim.read_bytes())
    data[-3] ^= 1
    victim.write_bytes(data)
    with pytest.raises(gv.CorruptError, match="GV-503"):
        copy_database(path, str(tmp_path / "copy"), tag="second")
    with pytest.raises(gv.StorageError, match="GV-648"):
        gv.connect(tmp_path / "copy")


def test_a_file_that_was_changed_in_the_destination_is_copied_again(shop, tmp_path):
    path, told = shop
    target = tmp_path / "copy"
    copy_database(path, str(target), tag="first")
    (target / "gpuvec.json").unlink()  # as if it had been cut
    for manifest in target.glob("collections/*/manifest/*"):
        manifest.unlink()
    for victim in target.glob("collections/*/seg/*/*"):
        data = bytearray(victim.read_bytes())
        data[-3] ^= 1
        victim.write_bytes(data)
    copy_database(path, str(target), tag="first")
    with gv.connect(target) as db:
        assert read(db["items"]) == told["first"]


def attempts(fault):
    """Yield a store and one around it whose n-th operation fails so, until there is no n-th."""
    number, count = 0, 1
    while number < count:
        inner = MemoryStore()
        store = FaultStore(inner, {number: fault})
        yield inner, store
        count = len(store.operations)
        number += 1


@pytest.mark.parametrize("fault", [Fault.CRASH_AFTER, Fault.BEFORE])
def test_a_copy_cut_at_any_operation_does_not_open_and_is_finished_by_another(shop, fault):
    check_every_operation(shop, fault)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [Fault.AFTER, Fault.CRASH_BEFORE, Fault.REPEATED, Fault.CONFLICT, Fault.MISSING, Fault.DELAY],
)
def test_a_copy_survives_every_other_fault_at_any_operation(shop, fault):
    check_every_operation(shop, fault)


def check_every_operation(shop, fault):
    path, told = shop
    with gv.connect(path) as db:
        chosen = [(db["items"], db["items"].tags["second"])]
        for inner, store in attempts(fault):
            try:
                copy_to(store, "copy", chosen, db.aliases())
            except (Crash, gv.GpuvecError):
                if inner.size("gpuvec.json") is None and inner.list(""):
                    with pytest.raises(gv.StorageError, match="GV-648"):
                        check_copy(inner, told["second"])
            else:
                check_copy(inner, told["second"])
            copy_to(inner, "copy", chosen, db.aliases())
            check_copy(inner, told["second"])


def test_a_newer_copy_that_is_cut_opens_as_one_of_the_two(shop):
    path, told = shop
    with gv.connect(path) as db:
        items = db["items"]
        old, new = ([(items, items.tags[tag])] for tag in ("first", "second"))
        for inner, store in attempts(Fault.CRASH_AFTER):
            copy_to(inner, "copy", old, db.aliases())
            try:
                copy_to(store, "copy", new, db.aliases())
            except Crash:
                found = rows_of(inner)
                assert found in (told["first"], told["second"])
            copy_to(inner, "copy", new, db.aliases())
            check_copy(inner, told["second"])


def check_copy(store, wanted):
    assert rows_of(store) == wanted


def rows_of(store):
    engine = Engine(store, "copy", durability="os", flush_bytes=1 << 20, age_s=60)
    try:
        _, collection_id = engine.root().resolve("items")
        found = Collection(CollectionSource(engine, collection_id), new_session())
        return read(found)
    finally:
        engine.abandon()


def test_the_command_copies_and_tells_what(shop, tmp_path):
    path, told = shop
    arguments = ["copy", path, str(tmp_path / "copy"), "--tag", "second", "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (told_of,) = json.loads(result.stdout)["collections"]
    assert told_of["rows"] == len(told["second"])
    assert LocalStore(tmp_path / "copy").size("gpuvec.json")


def test_a_copy_goes_to_a_bucket_and_back(shop, tmp_path, s3):
    path, told = shop
    bucket = s3.new_url()
    there = copy_database(path, bucket, tag="third", storage_options=s3.options)
    again = copy_database(path, bucket, tag="third", storage_options=s3.options)
    assert again.collections[0].copied < there.collections[0].copied
    with gv.connect(bucket, storage_options=s3.options) as db:
        assert read(db["items"]) == told["third"]
    copy_database(bucket, str(tmp_path / "back"), source_options=s3.options)
    with gv.connect(tmp_path / "back") as db:
        assert read(db["items"]) == told["third"]
        db["items"].delete(ids=[11])
        assert db["items"].count() == len(told["third"]) - 1


# What is no source and no destination


def test_a_source_must_be_a_database_and_none_is_made(tmp_path):
    for path in ("/no/such/place", str(tmp_path / "empty"), "memory://"):
        with pytest.raises(gv.NotFoundError, match="GV-703"):
            copy_database(path, str(tmp_path / "copy"))
    assert not (tmp_path / "empty").exists()
    assert not (tmp_path / "copy").exists()


def test_a_copy_that_was_cut_is_no_source(shop, tmp_path):
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "copy.json").write_text("{}")
    with pytest.raises(gv.StorageError, match="GV-648"):
        copy_database(str(cut), str(tmp_path / "copy"))


def test_a_database_is_not_copied_onto_or_into_itself(shop, tmp_path, monkeypatch):
    path, _ = shop
    monkeypatch.chdir(tmp_path)
    for inside in (path, f"file://{path}/", "./shop", f"{path}/backup"):
        with pytest.raises(gv.ConflictError, match=r"GV-648.* (is the|inside the) source"):
            copy_database(path, inside)
    assert copy_database(path, f"{path}2").collections  # beside it


def test_a_bucket_is_not_copied_into_itself(shop, s3):
    path, _ = shop
    bucket, options = s3.new_url(), s3.options
    copy_database(path, bucket, storage_options=options)
    for inside in (bucket, f"{bucket}/", f"{bucket}/backup"):
        with pytest.raises(gv.ConflictError, match="GV-648"):
            copy_database(bucket, inside, source_options=options, storage_options=options)


def test_a_version_before_all_collections_is_refused(shop, tmp_path):
    path, _ = shop
    with gv.connect(path) as db:
        before = db["items"].at(tag="second").version
        db.create_collection("later", SCHEMA)
    for options in ({"version": 0}, {"version": 5}, {"version": before, "collections": ["later"]}):
        with pytest.raises(gv.NotFoundError, match=r"GV-641.*was not there yet"):
            copy_database(path, str(tmp_path / "copy"), **options)
    copied = copy_database(path, str(tmp_path / "copy"), version=before).collections
    assert "later" not in [found.name for found in copied]


def test_a_newer_copy_has_the_tags_of_its_own_version_only(shop, tmp_path):
    path, _ = shop
    there = str(tmp_path / "copy")
    for tag in ("first", "second"):
        copy_database(path, there, tag=tag)
        with gv.connect(there) as db:
            assert list(db["items"].tags) == [tag]


# External collections


@pytest.fixture
def crawl(tmp_path):
    """A database with an external collection and one index; yields its path and its files."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(2):
        write_rows(folder / f"p{number}.parquet", range(100 * number, 100 * number + 100))
    with gv.connect(tmp_path / "source") as db:
        files = f"{folder}/*.parquet"
        items = db.create_collection("crawl", external=files, primary_key="id")
        items.create_index("v", gv.index.HNSW())
    return str(tmp_path / "source"), folder


def write_rows(path, ids):
    vectors = np.repeat(np.arange(ids.start, ids.stop, dtype=np.float32), 4)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors), 4)
    pq.write_table(pa.table({"id": pa.array(ids, pa.int64()), "v": flat}), path)


def nearest(items, key):
    query = np.full(4, key, np.float32)
    return items.search(query, k=1, metric="l2").to_arrow()["id"].to_pylist()


def test_of_an_external_collection_list_and_indexes_are_copied_and_no_row(crawl, tmp_path):
    source, folder = crawl
    (done,) = copy_database(source, str(tmp_path / "copy")).collections
    assert (done.external, done.rows) == (True, 200)
    assert "seg" not in {path.name for path in tmp_path.glob("copy/collections/*/*")}
    assert len(list(tmp_path.glob("copy/collections/*/idx/*/*/graph.faiss"))) == 2
    assert "seg" in {path.name for path in tmp_path.glob("source/collections/*/*")}
    again = copy_database(source, str(tmp_path / "copy"))
    assert again.collections[0].copied == 0
    with gv.connect(tmp_path / "copy") as db:
        items = db["crawl"]
        assert items.count() == 200
        assert nearest(items, 123) == [123]
        assert items.stats()["index_bytes"] > 0
        write_rows(folder / "p2.parquet", range(200, 210))
        assert items.refresh().inserted == 10
        assert nearest(items, 205) == [205]
    with gv.connect(source) as db:
        assert db["crawl"].count() == 200


def test_a_copy_of_an_external_collection_names_a_file_that_is_gone(crawl, tmp_path):
    source, folder = crawl
    copy_database(source, str(tmp_path / "copy"))
    (folder / "p1.parquet").unlink()
    with gv.connect(tmp_path / "copy") as db:
        with pytest.raises(gv.GpuvecError, match=r"p1\.parquet"):
            nearest(db["crawl"], 3)
        assert db["crawl"].refresh().deleted == 100
        assert nearest(db["crawl"], 3) == [3]


def test_an_external_collection_finds_its_files_wherever_the_process_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows("p0.parquet", range(10))
    with gv.connect("db") as db:
        db.create_collection("crawl", external="p*.parquet", primary_key="id")
    monkeypatch.chdir("/")
    write_rows(tmp_path / "p1.parquet", range(10, 12))
    with gv.connect(tmp_path / "db") as db:
        assert db["crawl"].refresh().inserted == 2
