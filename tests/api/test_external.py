"""External collections: files of others, read in place, followed, and told apart."""

import inspect
import os
import time

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import gpuvec as gv
from gpuvec.api.collection import Collection
from gpuvec.api.external import WRITES, ExternalCollection
from gpuvec.api.past import READS


def table(ids, version=0, dim=4):
    ids = np.asarray(ids, np.int64)
    vectors = np.repeat(ids[:, None], dim, axis=1).astype(np.float32) + np.float32(version)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim)
    names = [f"{key} of {version}" for key in ids]
    return pa.table({"id": ids, "name": names, "v": flat})


def write(path, rows, **more):
    pq.write_table(rows, path, **more)
    later = time.time_ns() + write.count * 1_000_000
    write.count += 1
    os.utime(path, ns=(later, later))  # two writes within the clock's tick are still two


write.count = 0


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "crawl"
    folder.mkdir()
    for number in range(3):
        ids = range(100 * number, 100 * number + 100)
        write(folder / f"p{number}.parquet", table(ids), row_group_size=30)
    return folder


@pytest.fixture
def crawl(db, files):
    return db.create_collection("crawl", external=f"{files}/*.parquet", primary_key="id")


def ids_of(frame):
    return sorted(frame.to_arrow()["id"].to_pylist())


def test_it_reads_like_a_collection(crawl):
    assert isinstance(crawl, ExternalCollection)
    assert crawl.count() == 300
    assert ids_of(crawl.filter("id >= 250 and name like '25%'")) == list(range(250, 260))
    found = crawl.search(np.full((1, 4), 123.2, np.float32), k=2, exact=True, metric="l2")
    assert found.to_arrow()["id"].to_pylist() == [123, 124]
    rows = crawl.sort("id").to_arrow()
    assert rows["name"].to_pylist() == [f"{key} of 0" for key in range(300)]
    assert crawl.schema.primary_key == "id"
    assert repr(crawl.schema["v"]).startswith("Vector(4")


def test_it_is_there_for_the_next_process(db, crawl, tmp_path, where):
    crawl.search(np.zeros(4, np.float32), k=1).collect()
    db.close()
    with gv.connect(**where(tmp_path / "shop")) as again:
        assert isinstance(again["crawl"], ExternalCollection)
        assert again["crawl"].count() == 300
        assert ids_of(again["crawl"].search(np.zeros(4, np.float32), k=1)) == [0]


def test_rows_are_not_copied_and_vectors_once(db, files):
    if not os.path.isdir(db.path):
        pytest.skip("looks at the folder")
    crawl = db.create_collection("crawl", external=f"{files}/*.parquet", primary_key="id")
    crawl.filter("id < 5").select("id", "name").collect()
    assert not stored(db.path)
    crawl.search(np.zeros(4, np.float32), k=1, exact=True).collect()
    first = stored(db.path)
    assert len([name for name in first if name.endswith(".arrow")]) == 3
    crawl.search(np.ones(4, np.float32), k=1, exact=True).collect()
    assert stored(db.path) == first


def stored(path):
    found = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    return {file: os.stat(file).st_mtime_ns for file in found if "vec-" in os.path.basename(file)}


def test_every_write_is_refused_by_name(crawl):
    public = {n for n, f in inspect.getmembers(Collection, callable) if n[0] != "_"}
    frame = {n for n, f in inspect.getmembers(gv.Frame, callable) if n[0] != "_"}
    ours = {
        "create_index",
        "drop_index",
        "tune",
        "tag",
        "untag",
        "set_retention",
        "flush",
        "vacuum",
    }
    assert public - frame - READS - set(WRITES) - ours <= {"load", "release"}
    for call in WRITES:
        with pytest.raises(gv.UnsupportedError, match=f"{call} cannot change them") as caught:
            getattr(crawl, call)([1])
        assert caught.value.code == "GV-670"
    assert crawl.count() == 300


def test_refresh_takes_over_new_changed_and_vanished_files(crawl, files):
    before = crawl.version
    kept = set(crawl.segments().to_pandas()["segment_id"])
    write(files / "p0.parquet", table(range(1000, 1010), 1))
    (files / "p1.parquet").unlink()
    write(files / "p9.parquet", table(range(2000, 2005)))
    result = crawl.refresh()
    assert (result.inserted, result.deleted) == (15, 200)
    assert result.version == crawl.version > before
    assert ids_of(crawl) == [*range(200, 300), *range(1000, 1010), *range(2000, 2005)]
    assert len(kept & set(crawl.segments().to_pandas()["segment_id"])) == 1
    assert crawl.refresh().version == result.version
    with pytest.raises(gv.SnapshotExpiredError):
        crawl.at(version=before).count()
    assert crawl.at(version=result.version).count() == 115


def test_a_new_file_alone_leaves_older_versions_readable(crawl, files):
    before = crawl.version
    write(files / "p9.parquet", table(range(900, 905)))
    crawl.refresh()
    assert crawl.count() == 305
    assert crawl.at(version=before).count() == 300
    assert list(crawl.versions().to_pandas()["operation"]) == ["refresh", "refresh"]


@pytest.mark.parametrize("warm", [False, True])
def test_a_file_changed_or_gone_is_named(crawl, files, warm):
    query = np.zeros(4, np.float32)
    if warm:
        crawl.search(query, k=1, exact=True).collect()
    write(files / "p1.parquet", table(range(5)))
    with pytest.raises(gv.ConflictError, match=r"p1\.parquet was written again") as caught:
        crawl.search(query, k=1, exact=True).collect()
    assert caught.value.code == "GV-671"
    (files / "p1.parquet").unlink()
    with pytest.raises(gv.StorageError, match=r"p1\.parquet .*is gone") as caught:
        crawl.filter("id == 3").collect()
    assert caught.value.code == "GV-672"
    crawl.refresh()
    assert ids_of(crawl.search(query, k=1, exact=True)) == [0]


def test_a_file_changed_is_noticed_though_its_size_and_time_are_as_before(crawl, files):
    path = files / "p1.parquet"
    assert crawl.filter("name == '150 of 0'").count() == 1
    before = path.stat()
    write(path, table(range(100, 200), 1), row_group_size=30)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(gv.ConflictError, match=r"p1\.parquet was written again"):
        crawl.filter("name == '150 of 0'").count()
    assert crawl.refresh().inserted == 100
    assert crawl.filter("name == '150 of 1'").count() == 1


def test_indexes_stay_with_files_that_stay(db, files):
    for number in range(3):
        ids = np.arange(6000) + 6000 * number
        rng = np.random.default_rng(number)
        flat = pa.array(rng.standard_normal(6000 * 16, np.float32))
        vectors = pa.FixedSizeListArray.from_arrays(flat, 16)
        write(files / f"p{number}.parquet", pa.table({"id": ids, "v": vectors}))
    crawl = db.create_collection("crawl", external=f"{files}/*.parquet", primary_key="id")
    crawl.create_index("id", gv.index.Sorted())
    crawl.create_index("v", gv.index.IVFFlat(n_lists=16))
    assert crawl.stats()["indexes"].keys() == {"id", "v"}
    (files / "p1.parquet").unlink()
    crawl.refresh()
    assert crawl.search(crawl.limit(50), k=1).to_pandas()["distance"].abs().max() < 1e-3
    report = crawl.indexes().to_pandas().set_index("field")
    assert report.loc["v", "rows_covered"] == 12_000
    assert crawl.filter("id in [3, 6003, 12003]").count() == 2


def test_keys_that_come_twice_are_named_with_their_places(db, files):
    write(files / "p3.parquet", table([7]))
    with pytest.raises(gv.SchemaError, match="7 comes twice") as caught:
        db.create_collection("crawl", external=f"{files}/*.parquet", primary_key="id")
    assert caught.value.details["places"] == [
        f"{files}/p0.parquet, row 7", f"{files}/p3.parquet, row 0"
    ]  # fmt: skip
    assert "crawl" not in db
    (files / "p3.parquet").unlink()
    crawl = db.create_collection("crawl", external=f"{files}/*.parquet", primary_key="id")
    write(files / "p3.parquet", table([900, 900]))
    with pytest.raises(gv.SchemaError, match="900 comes twice"):
        crawl.refresh()
    assert crawl.count() == 300


def test_keys_that_are_null_are_refused(db, files):
    rows = table(range(900, 903))
    write(files / "p3.parquet", rows.set_column(0, "id", pa.array([900, None, 902])))
    with pytest.raises(gv.SchemaError, match=r"p3\.parquet, row 1"):
        db.create_collection("crawl", external=f"{files}/*.parquet", primary_key="id")


def test_types_widen_and_missing_columns_are_null(db, tmp_path):
    write(tmp_path / "a.parquet", pa.table({"id": pa.array([1, 2], pa.int32()), "n": [1, 2]}))
    write(
        tmp_path / "b.parquet", pa.table({"id": [3, 2**40], "n": [0.5, 1.5], "extra": ["x", "y"]})
    )
    found = db.create_collection("w", external=f"{tmp_path}/*.parquet", primary_key="id")
    rows = found.sort("id").to_arrow()
    assert rows["id"].to_pylist() == [1, 2, 3, 2**40]
    assert rows["n"].to_pylist() == [1.0, 2.0, 0.5, 1.5]
    assert rows["extra"].to_pylist() == [None, None, "x", "y"]
    assert found.filter("extra is null").count() == 2
    write(tmp_path / "c.parquet", pa.table({"id": [7], "other": [1]}))
    with pytest.raises(gv.SchemaError, match=r'c\.parquet: field "other" should be absent'):
        found.refresh()
    write(tmp_path / "c.parquet", pa.table({"n": [7.0]}))
    with pytest.raises(gv.SchemaError, match=r'c\.parquet: field "id" should be'):
        found.refresh()


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("name", pa.array([5])),
        ("v", pa.FixedSizeListArray.from_arrays(pa.array([1.0] * 5, pa.float32()), 5)),
        ("v", pa.array([1.5])),
        ("v", pa.array(["a"])),
        ("id", pa.array(["a"])),
    ],
    ids=["number-for-text", "other-dimension", "number-for-vector", "text-for-vector", "key"],
)
def test_a_new_file_with_a_column_of_another_type_is_refused(crawl, files, name, column):
    rows = table([900])
    write(files / "p9.parquet", rows.set_column(rows.column_names.index(name), name, column))
    before = crawl.version
    with pytest.raises(gv.SchemaError, match=rf'p9\.parquet: field "{name}" should be') as caught:
        crawl.refresh()
    assert caught.value.code == "GV-676"
    assert crawl.version == before
    assert crawl.filter("id == 299").to_arrow()["name"].to_pylist() == ["299 of 0"]


def test_ragged_vectors_are_named_when_they_are_read(db, files):
    lists = pa.array([[1.0] * 4, [1.0] * 3], pa.list_(pa.float32()))
    rows = table([900, 901]).set_column(2, "v", lists)
    write(files / "p3.parquet", rows)
    crawl = db.create_collection("crawl", external=f"{files}/*.parquet", primary_key="id")
    assert crawl.count() == 302
    with pytest.raises(gv.SchemaError, match=r"p3\.parquet, row 1"):
        crawl.search(np.zeros(4, np.float32), k=1, exact=True).collect()


def test_null_vectors_are_nobodys_neighbours(db, tmp_path):
    lists = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2))
    write(tmp_path / "a.parquet", pa.table({"id": [1, 2, 3], "v": lists}))
    found = db.create_collection("n", external=f"{tmp_path}/a.parquet", primary_key="id")
    for _ in range(2):
        hits = found.search(np.zeros((1, 2), np.float32), k=5, exact=True, metric="l2")
        assert ids_of(hits) == [1, 3]
    assert found.filter("v is null").count() == 1


def test_bad_requests_say_what_is_wanted(db, files):
    with pytest.raises(gv.NotFoundError, match="no file at"):
        db.create_collection("x", external=f"{files}/none*.parquet", primary_key="id")
    with pytest.raises(gv.QueryError, match="needs a key"):
        db.create_collection("x", external=f"{files}/*.parquet")
    with pytest.raises(gv.QueryError, match="does not go with data"):
        db.create_collection("x", external=f"{files}/*.parquet", primary_key="id", data={})
    with pytest.raises(gv.SchemaError, match="key"):
        db.create_collection("x", external=f"{files}/*.parquet", primary_key="none")
    (files / "a.csv").write_text("id\n1\n")
    with pytest.raises(gv.UnsupportedError, match=r"a\.csv"):
        db.create_collection("x", external=f"{files}/*", primary_key="id")
    assert db.collections() == []
    ours = db.create_collection("y", gv.Schema({"id": gv.Int64()}, "id"))
    assert not hasattr(ours, "refresh")


def test_files_in_the_bucket_of_the_database(s3, tmp_path):
    url = s3.new_url()
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    for number in range(2):
        path = tmp_path / f"{number}.parquet"
        write(path, table(range(10 * number, 10 * number + 10)))
        s3.client().upload_file(str(path), bucket, f"{prefix}/in/p{number}.parquet")
    with gv.connect(f"{url}/db", storage_options=s3.options) as db:
        crawl = db.create_collection("crawl", external=f"{url}/in/*.parquet", primary_key="id")
        assert ids_of(crawl) == list(range(20))
        query = np.zeros((1, 4), np.float32)
        assert ids_of(crawl.search(query, k=2, exact=True, metric="l2")) == [0, 1]
        s3.client().upload_file(str(path), bucket, f"{prefix}/in/p2.parquet")
        s3.client().delete_object(Bucket=bucket, Key=f"{prefix}/in/p1.parquet")
        with (
            gv.connect(f"{url}/db", storage_options=s3.options) as other,
            pytest.raises(gv.StorageError, match=r"in/p1\.parquet .*is gone"),
        ):
            other["crawl"].select("name").collect()
        assert crawl.refresh().inserted == 10
        assert ids_of(crawl) == list(range(20))


def test_real_packages_in_place_are_as_those_that_were_copied(db, tmp_path):
    rows = gv.datasets.debian_packages().slice(0, 4000)
    for start in range(0, 4000, 1500):
        write(tmp_path / f"p{start}.parquet", rows.slice(start, 1500), row_group_size=400)
    there = db.create_collection("there", external=f"{tmp_path}/*.parquet", primary_key="id")
    copied = db.create_collection("copied", data=rows, primary_key="id")
    queries = np.asarray(rows["vector"].combine_chunks().flatten()).reshape(4000, -1)[:20]
    wanted, got = (
        c.filter("section == 'python'").search(queries, k=5, exact=True).to_arrow()
        for c in (copied, there)
    )
    assert got["id"].to_pylist() == wanted["id"].to_pylist()
    assert pc.all(pc.equal(got["distance"], wanted["distance"])).as_py()
    assert (
        there.sort("id")
        .select("id", "name", "tags")
        .to_arrow()
        .equals(copied.sort("id").select("id", "name", "tags").to_arrow())
        if "tags" in rows.column_names
        else True
    )


@pytest.mark.parametrize("wrong", [["a.parquet"], ("a.parquet", "b.parquet"), 5, {"a": 1}])
def test_files_that_are_no_text_are_refused(db, wrong):
    with pytest.raises(gv.QueryError, match=r"GV-674.*one path, URL or glob.*\n.*glob stands"):
        db.create_collection("crawl", external=wrong, primary_key="id")


def test_a_key_that_comes_twice_is_told_with_what_helps_here(db, tmp_path):
    pq.write_table(table([1, 2, 1]), tmp_path / "a.parquet")
    with pytest.raises(gv.SchemaError, match="GV-663") as caught:
        db.create_collection("crawl", external=tmp_path / "a.parquet", primary_key="id")
    assert "leave one of these out" in caught.value.hint
    assert "nothing was imported" not in caught.value.hint


def test_it_shows_which_files_it_reads(db, tmp_path):
    pq.write_table(table([1, 2]), tmp_path / "a.parquet")
    crawl = db.create_collection("crawl", external=tmp_path / "*.parquet", primary_key="id")
    pattern = str(tmp_path / "*.parquet")
    assert pattern in repr(crawl)
    assert pattern in crawl._repr_html_()
    assert crawl.stats()["external"] == pattern
