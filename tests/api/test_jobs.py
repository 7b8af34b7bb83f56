"""Batch jobs: the answer is that of `collect`, whatever is written, killed or resumed meanwhile."""

import asyncio
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpuvec as gv
from gpuvec.api.job_output import NOTE

c = gv.col
WAIT_S = 60


@pytest.fixture
def rng():
    return np.random.default_rng(5)


@pytest.fixture
def stock(db, rng):
    """900 rows in two segments and the log, some deleted, with equal vectors for ties."""
    vectors = rng.integers(-3, 4, (900, 4)).astype(np.float32)
    rows = {
        "id": np.arange(900),
        "brand": [f"brand {n % 7}" for n in range(900)],
        "price": rng.random(900),
        "v": vectors,
    }
    found = db.create_collection("stock", data=_slice(rows, 0, 400), primary_key="id")
    found.flush()
    found.insert(_slice(rows, 400, 800))
    found.flush()
    found.insert(_slice(rows, 800, 900))
    found.delete(filter="id % 11 == 3")
    return found


def _slice(rows, start, stop):
    return {name: column[start:stop] for name, column in rows.items()}


@pytest.fixture
def Q(rng):
    return rng.integers(-3, 4, (230, 4)).astype(np.float32)


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != NOTE)


def same(job, frame):
    """Whether the job's rows are those of the frame, in its order."""
    got, wanted = job.wait(WAIT_S).to_arrow(), frame.collect().to_arrow()
    assert got.schema == wanted.schema
    return got.combine_chunks().equals(wanted.combine_chunks())


def until(holds):
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


FRAMES = {
    "search": lambda s, q: s.search(q, k=3),
    "filtered": lambda s, q: s.filter("price < 0.4").search(q, k=5).filter(c("distance") < 3),
    "radius": lambda s, q: s.search(q, radius=2.0),
    "groups": lambda s, q: s.search(q, k=2, group_by="brand", group_size=2),
    "columns": lambda s, q: (
        s.with_columns(half=c("price") / 2).search(q, k=2).select("query_id", "id", "half", "v")
    ),
    "heads": lambda s, q: s.search(q, k=9).group_by("query_id", "brand").head(1),
    "counts": lambda s, q: (
        s.search(q, k=9).group_by("query_id", "brand").agg(n=gv.count(), best=c("distance").min())
    ),
    "sorted": lambda s, q: s.search(q, k=3).sort("distance", "id", "query_id").limit(50),
    "distances": lambda s, q: (
        s.with_columns(d=c("v").distance(q[0])).filter(c("d") < 2).search(q, k=2)
    ),
    "keys": lambda s, q: s.get(list(range(0, 500, 3))).search(q, k=2),
    "sample": lambda s, q: s.sample(100, seed=3).search(q, k=2),
    "dynamic names": lambda s, q: s.search(q, k=2).filter(c("brand").is_in(["brand 1", "brand 2"])),
}


@pytest.mark.parametrize("shape", FRAMES.values(), ids=FRAMES)
def test_a_job_writes_the_rows_of_collect_in_their_order(stock, Q, tmp_path, shape):
    frame = shape(stock, Q)
    assert same(frame.submit(tmp_path / "out", part_rows=60), frame)


def test_queries_are_cut_into_parts_of_the_wanted_size(stock, Q, tmp_path):
    job = stock.search(Q, k=3).submit(tmp_path / "out", part_rows=100)
    job.wait(WAIT_S)
    assert files(tmp_path / "out") == [f"part-0000{n}.parquet" for n in range(3)]
    counts = [pq.read_metadata(tmp_path / "out" / n).num_rows for n in files(tmp_path / "out")]
    assert counts == [300, 300, 90]


def test_without_a_wanted_size_a_measurement_decides(stock, rng, tmp_path):
    frame = stock.search(rng.standard_normal((3000, 4)).astype(np.float32), k=2)
    assert same(frame.submit(tmp_path / "out"), frame)


@pytest.mark.parametrize("kind", ["file", "filtered file", "named", "table", "row groups"])
def test_queries_of_files_and_tables_have_the_ids_of_collect(stock, Q, tmp_path, kind):
    table = pa.table(
        {"user": [f"u{n}" for n in range(len(Q))], "seen": np.arange(len(Q)), "vec": list(Q)}
    )
    for n in range(2):
        half = table.slice(n * 115, 115)
        pq.write_table(half, tmp_path / f"q{n}.parquet", row_group_size=40)
    queries = table if kind == "table" else str(tmp_path / "q*.parquet")
    queries = queries if kind == "row groups" else gv.frame(queries)
    if kind == "filtered file":
        queries = queries.filter("seen % 3 != 1")
    frame = stock.search(queries, k=3, query_id="user" if kind == "named" else None)
    assert same(frame.submit(tmp_path / "out", part_rows=50), frame)


@pytest.mark.parametrize("key", ["id", "name"])
def test_queries_of_a_collection_are_answered_in_the_order_of_its_keys(db, stock, Q, tmp_path, key):
    names = [f"n{(n * 37) % 230:03d}" for n in range(230)]
    asked = db.create_collection(
        "asked", data={"id": np.arange(230)[::-1].copy(), "name": names, "w": Q}, primary_key=key
    )
    asked.flush()
    asked.delete(filter="w is null or id % 5 == 0")
    frame = stock.search(asked, k=3)
    job = frame.submit(tmp_path / "out", part_rows=50)
    rows = job.wait(WAIT_S).to_arrow()
    assert len(files(tmp_path / "out")) > 2
    assert rows["query_id"].to_pylist() == sorted(rows["query_id"].to_pylist())
    assert rows.equals(frame.sort("query_id", "rank").collect().to_arrow())


def test_rows_of_a_collection_alone_are_cut_by_key_and_complete(stock, tmp_path):
    frame = stock.filter("price > 0.5").with_columns(twice=c("price") * 2)
    job = frame.submit(tmp_path / "out", part_rows=200)
    assert len(job.wait(WAIT_S).to_arrow()) == frame.count()
    assert len(files(tmp_path / "out")) > 3
    assert same(job, frame.sort("id"))


def test_it_reads_the_version_that_it_was_submitted_with(db, stock, Q, tmp_path):
    frame = stock.search(Q, k=3)
    before = frame.collect().to_arrow()
    job = frame.submit(tmp_path / "out", part_rows=20)
    stock.delete(filter="id < 500")
    stock.compact()
    assert job.wait(WAIT_S).to_arrow().equals(before)


def test_its_versions_are_kept_while_it_waits_to_be_resumed(db, stock, Q, tmp_path):
    frame = stock.search(Q, k=3)
    before = frame.collect().to_arrow()
    job = frame.submit(tmp_path / "out", part_rows=20)
    job.cancel()
    stock.set_retention(0)
    stock.delete(filter="id < 500")
    stock.flush()
    stock.compact()
    stock.vacuum(older_than=0)
    job.resume()
    assert job.wait(WAIT_S).to_arrow().equals(before)
    pins = db._engine.state(stock._source.collection_id).pins
    assert not [name for name in pins if name.startswith("job-")]  # let go when it was done


def test_empty_queries_give_one_empty_file_with_the_columns(stock, Q, tmp_path):
    frame = stock.search(Q[:0], k=3)
    job = frame.submit(tmp_path / "out")
    assert job.wait(WAIT_S).columns == frame.columns
    assert files(tmp_path / "out") == ["part-00000.parquet"]
    assert job.progress == 1.0


def test_without_a_path_the_rows_lie_with_the_database_until_forgotten(tmp_path, Q):
    with gv.connect(tmp_path / "own") as db:
        rows = {"id": np.arange(230), "v": Q}
        job = db.create_collection("items", data=rows, primary_key="id").search(Q, k=3).submit()
        assert job.wait(WAIT_S).count() == 690
        assert (tmp_path / "own" / "job-rows" / job.id / "part-00000.parquet").exists()
        job.forget()
        assert db.jobs() == []
    assert not [path for path in (tmp_path / "own").glob("job*/**/*") if path.is_file()]


def test_a_running_job_cannot_be_forgotten(db, stock, Q, tmp_path):
    job = stock.search(Q, k=3).submit(tmp_path / "out", part_rows=3)
    with pytest.raises(gv.ConflictError, match="GV-778"):
        job.forget()
    job.cancel()
    job.forget()
    assert db.jobs() == []


def test_a_job_that_was_forgotten_is_waited_for_by_nobody(db, stock, Q, tmp_path):
    job = stock.search(Q, k=1).submit(tmp_path / "out")
    other = db.job(job.id)
    job.wait(WAIT_S)
    job.forget()
    for handle in (job, other):
        with pytest.raises(gv.NotFoundError, match="GV-774"):
            handle.wait(WAIT_S)
        assert "forgotten" in repr(handle)


def test_a_place_where_nothing_can_be_written_is_named(stock, Q):
    with pytest.raises(gv.StorageError, match=r"GV-661.*/proc/none"):
        stock.search(Q, k=1).submit("/proc/none")


def test_a_job_can_be_awaited(stock, Q, tmp_path):
    async def rows():
        return (await stock.search(Q, k=1).submit(tmp_path / "out")).count()

    assert asyncio.run(rows()) == len(Q)


def test_jobs_are_listed_newest_first_and_found_by_name(db, stock, Q, tmp_path):
    first = stock.search(Q, k=1).submit(tmp_path / "a")
    second = stock.search(Q, k=1).submit(tmp_path / "b")
    assert [job.id for job in db.jobs()] == [second.id, first.id]
    first.wait(WAIT_S)
    found = db.job(first.id)
    assert (found.status, found.progress, found.eta) == ("done", 1.0, 0.0)
    assert first.id in repr(found)
    assert "Search v k=1" in repr(found)
    with pytest.raises(gv.NotFoundError, match="GV-774"):
        db.job(first.id[:-1])


@pytest.mark.one_process
def test_a_job_outlives_the_handle_of_its_database(stock, db, Q, tmp_path, where):
    """Closing interrupts it; another connection goes on with what is missing."""
    job = stock.search(Q, k=3).submit(tmp_path / "out", part_rows=6)
    until(lambda: job.progress > 0.02)
    db.close()
    with gv.connect(**where(tmp_path / "shop")) as again:
        found = again.job(job.id)
        assert found.status == "interrupted"
        with pytest.raises(gv.JobError, match="GV-772"):
            found.wait(WAIT_S)
        done = set(files(tmp_path / "out"))
        stamps = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in done}
        found.resume()
        assert same(found, again["stock"].search(Q, k=3))
        assert all((tmp_path / "out" / n).stat().st_mtime_ns == t for n, t in stamps.items())


def test_cancel_keeps_what_is_done_and_resume_goes_on(db, stock, Q, tmp_path):
    frame = stock.search(Q, k=3)
    job = frame.submit(tmp_path / "out", part_rows=6)
    until(lambda: job.progress > 0.02)
    db.job(job.id).cancel()  # by another handle
    assert job.status == "cancelled"
    with pytest.raises(gv.JobError, match="GV-775"):
        job.wait(WAIT_S)
    assert job.progress < 1.0
    job.cancel()  # nothing happens twice
    job.resume()
    assert same(job, frame)
    job.resume()
    assert job.status == "done"


def test_a_file_that_changed_is_named_and_nothing_is_mixed(db, stock, Q, tmp_path, where):
    path = tmp_path / "q.parquet"
    pq.write_table(pa.table({"vec": list(Q)}), path)
    job = stock.search(str(path), k=3).submit(tmp_path / "out", part_rows=10)
    job.cancel()
    before = path.read_bytes()
    pq.write_table(pa.table({"vec": list(Q[::-1])}), path)
    job.resume()
    with pytest.raises(gv.JobError, match="was written again") as failure:
        job.wait(WAIT_S)
    assert failure.value.details["code"] == "GV-773"
    assert failure.value.details["kind"] == "ConflictError"
    assert before != path.read_bytes()


def test_an_output_that_cannot_be_written_fails_with_part_and_remedy(stock, Q, tmp_path):
    job = stock.search(Q, k=3).submit(tmp_path / "out", part_rows=10)
    job.cancel()
    for path in (tmp_path / "out").glob("*"):
        path.unlink()
    blocked = tmp_path / "out"
    blocked.rmdir()
    blocked.write_text("not a folder")
    job.resume()
    with pytest.raises(gv.JobError, match=r"part \d+ of 23 .* failed 3 times") as failure:
        job.wait(WAIT_S)
    assert failure.value.code == "GV-770"
    assert "resume()" in failure.value.hint


def test_places_with_files_and_frames_without_a_database_are_refused(stock, Q, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    frame = stock.search(Q, k=3)
    with pytest.raises(gv.AlreadyExistsError, match="GV-366"):
        frame.submit(tmp_path / "full")
    with pytest.raises(gv.UnsupportedError, match=r"GV-771.*folder"):
        frame.submit(tmp_path / "one.parquet")
    with pytest.raises(gv.UnsupportedError, match=r"GV-771.*no collection"):
        gv.frame({"x": [1]}).submit(tmp_path / "out")
    with pytest.raises(gv.QueryError):
        frame.submit(tmp_path / "out", part_rows=0)
    with pytest.raises(gv.QueryError, match="GV-660"):
        frame.submit("nowhere://out/")
    with gv.connect("memory://") as other:
        theirs = other.create_collection("t", data={"id": [1], "w": Q[:1]}, primary_key="id")
        with pytest.raises(gv.UnsupportedError, match=r"GV-771.*in memory"):
            theirs.search(Q, k=1).submit()
        both = stock.search(theirs, k=1)
        with pytest.raises(gv.UnsupportedError, match=r"GV-771.*several"):
            both.submit(tmp_path / "out")


def test_two_jobs_never_write_to_one_folder(stock, Q, tmp_path):
    frame = stock.search(Q, k=3)
    first = frame.submit(tmp_path / "out")
    with pytest.raises(gv.AlreadyExistsError, match="GV-366"):
        frame.submit(tmp_path / "out")
    assert same(first, frame)


def test_two_who_resume_at_once_write_each_row_once(db, stock, Q, tmp_path):
    frame = stock.search(Q, k=3)
    job = frame.submit(tmp_path / "out", part_rows=10)
    job.cancel()
    handles = [db.job(job.id) for _ in range(4)]
    threads = [threading.Thread(target=handle.resume) for handle in handles]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same(job, frame)
    assert len(files(tmp_path / "out")) == 23
