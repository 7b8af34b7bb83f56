"""create_index, drop_index, indexes: what they do, say and refuse."""

import asyncio
import warnings

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.coord.data_coord import AUTO_LEAST_ROWS

DIM = 8
ROWS = 400
HNSW = gv.index.HNSW(m=8, ef_construction=20)
SLOW = gv.index.HNSW(m=32, ef_construction=200)


def rows(count, start=0, seed=0):
    """Return rows around a few centers."""
    rng = np.random.default_rng(seed)
    centers = rng.standard_normal((20, DIM)).astype(np.float32)
    near = centers[rng.integers(0, 20, count)]
    return {
        "id": np.arange(start, start + count),
        "word": [f"w{number % 7}" for number in range(count)],
        "price": np.arange(count) % 50 / 2,
        "tags": [["a", "b"][: number % 3] for number in range(count)],
        "v": (near + 0.3 * rng.standard_normal((count, DIM))).astype(np.float32),
    }


def schema(**more):
    fields = {
        "id": gv.Int64(), "word": gv.String(), "price": gv.Float64(),
        "tags": gv.List(gv.String()), "v": gv.Vector(DIM),
    }  # fmt: skip
    return gv.Schema({**fields, **more}, "id")


@pytest.fixture
def items(db):
    items = db.create_collection("items", schema())
    items.insert(rows(ROWS))
    return items


def segment_indexes(items, field):
    """Return, per segment with rows in files, its index or None."""
    with items._source.snapshot() as snapshot:
        return [view.index(field) for view in snapshot]


# What it does


def test_rows_in_the_log_are_saved_and_indexed(items):
    assert items.stats()["segments"] == 1
    report = items.create_index("v", HNSW)
    (index,) = segment_indexes(items, "v")
    assert (index.spec, index.target) == (HNSW, 0.95)
    assert (report.rows, report.rows_covered, report.waiting) == (ROWS, ROWS, 0)
    assert items.segments().to_arrow()["state"].to_pylist() == ["indexed"]
    assert items.segments().to_arrow()["indexes"].to_pylist() == [["v"]]


def test_the_same_wish_again_changes_nothing(items):
    first = items.create_index("v", HNSW)
    (index,) = segment_indexes(items, "v")
    version = items._engine.channel(items._id)._known.entry_id
    assert items.create_index("v", HNSW) == first
    assert segment_indexes(items, "v") == [index]
    assert items._engine.channel(items._id)._known.entry_id == version, "nothing was committed"


@pytest.mark.parametrize(
    "other", [{"recall": 0.9}, {"k": 5}, {"max_memory": "1GiB"}, {"index": gv.index.HNSW(m=9)}]
)
def test_another_wish_takes_the_place_of_the_first(items, other):
    items.create_index("v", HNSW)
    (old,) = segment_indexes(items, "v")
    items.create_index("v", **{"index": HNSW, **other})
    (new,) = segment_indexes(items, "v")
    assert new.index_id != old.index_id
    assert items.indexes().count() == 1


def test_later_segments_get_the_index_by_themselves(items):
    items.create_index("v", HNSW)
    items.insert(rows(50, start=1000, seed=1))
    assert len([index for index in segment_indexes(items, "v") if index is not None]) == 1
    items.flush()
    items.create_index("v", HNSW)  # waits for what is missing
    assert [index.spec for index in segment_indexes(items, "v")] == [HNSW, HNSW]


def test_maintenance_builds_without_anybody_asking(items):
    items.create_index("price", gv.index.Sorted())
    items.insert(rows(50, start=1000, seed=1))
    items.flush()
    items._engine._maintain()
    job = items.create_index("price", gv.index.Sorted(), wait=False)
    job.wait(60)
    assert None not in segment_indexes(items, "price")


def test_a_reopened_database_has_its_indexes_and_builds_none(tmp_path):
    with gv.connect(tmp_path) as db:
        items = db.create_collection("items", data=rows(ROWS), primary_key="id")
        items.create_index("v", HNSW)
        items.create_index("word")
        before = [items.indexes().to_arrow(), segment_indexes(items, "v")[0].index_id]
        query = rows(3, seed=5)["v"]
        answers = items.filter("word == 'w1'").search(query, k=5).to_arrow()
        exact = items.search(query, k=5, exact=True).to_arrow()
    with gv.connect(tmp_path) as db:
        items = db["items"]
        (index,) = segment_indexes(items, "v")
        assert [items.indexes().to_arrow(), index.index_id] == before
        assert not items._engine.builds._threads
        assert items.filter("word == 'w1'").search(query, k=5).to_arrow() == answers
        assert items.search(query, k=5, exact=True).to_arrow() == exact


def test_opening_and_counting_reads_no_index_file(tmp_path):
    with gv.connect(tmp_path) as db:
        items = db.create_collection("items", data=rows(ROWS), primary_key="id")
        items.create_index("v", HNSW)
        items.create_index("price", gv.index.Sorted())
    for path in tmp_path.glob("collections/*/idx/*/*/*"):
        path.unlink()
    with gv.connect(tmp_path) as db:
        items = db["items"]
        assert items.count() == ROWS
        assert items.indexes().count() == 2
        assert "index" in repr(items)
        with pytest.raises(gv.CorruptError, match="idx"):
            segment_indexes(items, "v")[0].files()


def test_a_replacement_that_fails_leaves_the_former_index(items):
    items.create_index("v", HNSW, recall=0.9)
    before = items.indexes().to_arrow(), segment_indexes(items, "v")
    with pytest.raises(gv.DeviceMemoryError, match="GV-401"):
        items.create_index("v", SLOW, max_memory="1KB")
    assert (items.indexes().to_arrow(), segment_indexes(items, "v")[0].index_id) == (
        before[0], before[1][0].index_id
    )  # fmt: skip
    assert segment_indexes(items, "v")[0].target == 0.9
    assert items.create_index("v", HNSW, recall=0.9).waiting == 0


def test_the_former_index_serves_until_its_successor_is_built(items):
    items.insert(rows(1500, start=1000))
    items.create_index("v", HNSW)
    (former,) = {index.index_id for index in segment_indexes(items, "v")}
    job = items.create_index("v", SLOW, recall=0.9, wait=False)
    (serving,) = segment_indexes(items, "v")
    assert job.status == "running"
    assert (serving.index_id, serving.spec, serving.target) == (former, HNSW, 0.9)
    (row,) = items.indexes().to_arrow().to_pylist()
    assert (row["waiting"], row["rows_covered"]) == (1, ROWS + 1500)
    assert row["spec"].startswith("HNSW(m=8")
    job.cancel()
    (serving,) = segment_indexes(items, "v")
    assert (serving.index_id, serving.target) == (former, 0.95)
    assert items.create_index("v", HNSW).waiting == 0
    with gv.config.set(progress=interrupt), pytest.raises(KeyboardInterrupt):
        items.create_index("v", SLOW)
    assert segment_indexes(items, "v")[0].index_id == former
    items.create_index("v", SLOW)
    assert [index.spec for index in segment_indexes(items, "v")] == [SLOW]


def test_the_exact_scan_replaces_an_index_at_once_and_comes_back(items):
    items.create_index("v", HNSW)
    items.create_index("v", gv.index.Flat())
    assert segment_indexes(items, "v") == [None]
    with pytest.raises(gv.DeviceMemoryError):
        items.create_index("v", HNSW, max_memory="1KB")
    assert items.indexes().to_arrow()["wish"].to_pylist() == ["Flat()"]


def test_rows_that_were_truncated_are_not_counted(items):
    items.flush()
    items.truncate()
    report = items.create_index("v", HNSW)
    assert (report.rows, report.segments) == (0, ())


def test_a_dropped_index_is_gone_everywhere(items):
    items.create_index("v", HNSW)
    items.drop_index("v")
    assert segment_indexes(items, "v") == [None]
    assert items.indexes().count() == 0
    assert items.segments().to_arrow()["state"].to_pylist() == ["flushed"]
    with pytest.raises(gv.NotFoundError, match="GV-618"):
        items.drop_index("v")


def test_a_dropped_field_takes_its_index_along(items):
    items.create_index("word", gv.index.Bitmap())
    items.drop_field("word")
    assert items.indexes().count() == 0
    items.add_field("word", gv.String(nullable=True))
    assert segment_indexes(items, "word") == [None]
    items.create_index("word", gv.index.Bitmap())
    assert segment_indexes(items, "word") == [None], "its rows are older than the field"


def test_auto_leaves_small_segments_alone(items):
    report = items.create_index("v")
    assert (report.rows_covered, report.waiting, report.wish) == (0, 0, "auto")
    assert items.stats()["segments"] == 1, "rows too few for an index stay in the log"


@pytest.mark.slow
def test_auto_chooses_by_measurement(db):
    items = db.create_collection("items", schema())
    items.insert(rows(AUTO_LEAST_ROWS))
    report = items.create_index("v", recall=0.9)
    (segment,) = report.segments
    assert segment.state in ("indexed", "exact")
    assert segment.reasons, "it says what was tried"
    assert (segment_indexes(items, "v")[0] is None) == (segment.state == "exact")
    again = items.create_index("v", recall=0.9)
    assert again == report, "what was found not to pay is not built again"


@pytest.mark.parametrize(
    ("field", "spec"),
    [("word", gv.index.Bitmap()), ("tags", gv.index.Bitmap()), ("id", gv.index.Sorted())],
)
def test_auto_chooses_for_scalar_fields_by_their_values(db, field, spec):
    items = db.create_collection("items", schema())
    items.insert(rows(AUTO_LEAST_ROWS))
    report = items.create_index(field)
    assert segment_indexes(items, field)[0].spec == spec
    assert report.target is None


def test_flat_is_the_exact_scan(items):
    report = items.create_index("v", gv.index.Flat())
    assert segment_indexes(items, "v") == [None]
    assert report.chosen == "exact scan"


def test_binary_vectors_can_have_an_index(db):
    items = db.create_collection(
        "bits", gv.Schema({"id": gv.Int64(), "b": gv.BinaryVector(64)}, "id")
    )
    bits = np.random.default_rng(0).integers(0, 256, (300, 8), np.uint8)
    items.insert({"id": np.arange(300), "b": bits})
    items.create_index("b", gv.index.HNSW(m=8), recall=0.5)
    assert segment_indexes(items, "b")[0].spec == gv.index.HNSW(m=8)


def test_auto_tells_that_it_tries_no_index_of_binary_vectors(db):
    items = db.create_collection(
        "bits", gv.Schema({"id": gv.Int64(), "b": gv.BinaryVector(64)}, "id")
    )
    bits = np.random.default_rng(0).integers(0, 256, (AUTO_LEAST_ROWS, 8), np.uint8)
    items.insert({"id": np.arange(AUTO_LEAST_ROWS), "b": bits})
    assert "auto tries no index of such vectors" in repr(items.create_index("b"))


def test_null_vectors_and_deletes_do_not_hinder_a_build(db):
    items = db.create_collection("items", schema(w=gv.Vector(DIM, nullable=True)))
    data = rows(ROWS)
    data["w"] = [None if n % 3 == 0 else data["v"][n] for n in range(ROWS)]
    items.insert(data)
    items.flush()
    items.delete(filter="id < 100")
    items.create_index("w", HNSW)
    found = items.search(data["v"][:20], k=10, on="w", recall=0.9).to_arrow()
    assert all(key % 3 and key >= 100 for key in found["id"].to_pylist())


def test_one_row_can_be_indexed(db):
    items = db.create_collection("items", schema())
    items.insert(rows(1))
    report = items.create_index("v", HNSW)
    assert report.waiting == 0
    assert items.search(rows(1)["v"], k=3).count() == 1


def test_an_empty_collection_can_have_a_wish(db):
    items = db.create_collection("items", schema())
    report = items.create_index("v", HNSW)
    assert (report.rows, report.segments) == (0, ())
    assert "exact scan" in repr(report)
    items.insert(rows(ROWS))
    items.create_index("v", HNSW)
    assert segment_indexes(items, "v")[0].spec == HNSW


# What it says


def test_a_report_tells_recall_with_interval_speed_and_bytes(items):
    report = items.create_index("v", HNSW, recall=0.9)
    (segment,) = report.segments
    assert segment.source == "held-out rows"
    assert 0.9 <= segment.low <= segment.recall <= segment.high <= 1
    assert segment.queries_per_second > 0
    assert segment.exact_queries_per_second > 0
    assert report.size_bytes == segment_indexes(items, "v")[0].size_bytes > 0
    text = repr(report)
    for word in ("HNSW(m=8", "recall 0.9 for k=10", "queries/s", "held-out rows", "bytes"):
        assert word in text
    assert "<table>" in report._repr_html_()
    assert report.table.to_arrow()["rows"].to_pylist() == [ROWS]


def test_collections_show_their_indexes(items):
    items.create_index("v", HNSW)
    assert 'index "v": HNSW(m=8, ef_construction=20)' in repr(items)
    assert "index &quot;v&quot;" in items._repr_html_()
    stats = items.stats()
    assert list(stats["indexes"]) == ["v"]
    assert stats["index_bytes"] > 0
    table = items.indexes().to_arrow().to_pylist()
    assert [(row["field"], row["target"], row["rows_covered"]) for row in table] == [
        ("v", 0.95, ROWS)
    ]


def test_a_target_that_no_setting_reaches_gives_a_warning_and_stays(db):
    items = db.create_collection("noise", schema())
    data = rows(3000)
    data["v"] = np.random.default_rng(0).standard_normal((3000, DIM)).astype(np.float32)
    items.insert(data)
    weak = gv.index.HNSW(m=2, ef_construction=4)
    with pytest.warns(gv.RecallWarning, match=r"reaches recall 0\.\d+ at most, not 0.999") as said:
        report = items.create_index("v", weak, recall=0.999)
    assert said[0].filename == __file__
    assert report.short
    assert "short of the target" in repr(report)
    assert segment_indexes(items, "v")[0].spec == weak
    with pytest.warns(gv.RecallWarning):
        items.create_index("v", weak, recall=0.999, wait=False).wait()


def test_progress_is_told(items):
    events = []
    with gv.config.set(progress=events.append):
        items.create_index("v", HNSW)
    assert events[-1]["done"] == events[-1]["total"] == ROWS
    assert events[-1]["what"] == 'index of "v" in "items"'


# Jobs


@pytest.mark.parametrize("timeout", ["x", -1, True, float("nan")])
def test_a_timeout_that_is_none_is_refused(items, timeout):
    job = items.create_index("price", wait=False)
    with pytest.raises(gv.QueryError, match="GV-354"):
        job.wait(timeout)
    assert job.wait(np.float32(60)).waiting == 0


def test_cancelling_a_job_of_a_wish_that_was_there_keeps_the_index(items):
    items.create_index("v", HNSW)
    items.insert(rows(1500, start=1000))
    items.flush()
    job = items.create_index("v", HNSW, wait=False)
    job.cancel()
    with pytest.raises(gv.JobError, match="GV-622"):
        job.wait()
    assert items.indexes().count() == 1
    assert items.create_index("v", HNSW).waiting == 0


def test_a_job_can_be_watched_awaited_and_waited_for(items):
    job = items.create_index("v", HNSW, wait=False)
    assert job.status in ("running", "done")
    report = asyncio.run(_await(job))
    assert report.rows_covered == ROWS
    assert (job.status, job.progress, job.eta) == ("done", 1.0, 0.0)
    assert job.wait() == report
    job.cancel()
    assert job.status == "done", "what is done cannot be cancelled"
    assert "done" in repr(job)


async def _await(job):
    return await job


def test_a_cancelled_job_leaves_no_index(items):
    items.insert(rows(1500, start=1000))
    job = items.create_index("v", SLOW, wait=False)
    with pytest.raises(gv.DeadlineError, match="GV-624"):
        job.wait(0)
    job.cancel()
    assert job.status == "cancelled"
    with pytest.raises(gv.JobError, match="GV-622"):
        job.wait()
    assert items.indexes().count() == 0
    assert set(segment_indexes(items, "v")) == {None}


def test_a_replaced_wish_ends_the_job_of_the_first(items):
    items.insert(rows(1500, start=1000))
    job = items.create_index("v", SLOW, wait=False)
    items.create_index("v", HNSW)
    with pytest.raises(gv.JobError, match="replaced"):
        job.wait()
    assert {index.spec for index in segment_indexes(items, "v")} == {HNSW}


def test_dropping_the_collection_ends_its_builds(db, items):
    items.insert(rows(1500, start=1000))
    job = items.create_index("v", SLOW, wait=False)
    db.drop_collection("items")
    with pytest.raises(gv.NotFoundError):
        job.wait()
    other = db.create_collection("other", schema())
    other.insert(rows(ROWS))
    assert other.create_index("v", HNSW).rows_covered == ROWS


def test_closing_ends_a_build_which_the_next_process_takes_up(tmp_path):
    with gv.connect(tmp_path) as db:
        items = db.create_collection("items", data=rows(1500), primary_key="id")
        job = items.create_index("v", SLOW, wait=False)
    with pytest.raises(gv.UnavailableError, match="GV-600"):
        job.wait()
    with gv.connect(tmp_path) as db:
        items = db["items"]
        assert items.indexes().to_arrow()["waiting"].to_pylist() == [1]
        items.create_index("v", SLOW)
        assert segment_indexes(items, "v")[0] is not None


def interrupt(event):
    raise KeyboardInterrupt


def test_an_interrupted_call_drops_what_it_made_and_nothing_older(items):
    items.insert(rows(1500, start=1000))
    items.flush()
    with gv.config.set(progress=interrupt), pytest.raises(KeyboardInterrupt):
        items.create_index("v", HNSW)
    assert items.indexes().count() == 0
    items.create_index("v", HNSW)
    items.insert(rows(1500, start=10_000))
    items.flush()
    with gv.config.set(progress=interrupt), pytest.raises(KeyboardInterrupt):
        items.create_index("v", HNSW)
    assert items.indexes().count() == 1
    items.create_index("v", HNSW)
    assert None not in segment_indexes(items, "v")


# What it refuses


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("GV-104", {"field": "w"}),
        ("GV-616", {"index": "hnsw"}),
        ("GV-616", {"index": gv.index.HNSW}),
        ("GV-616", {"index": None}),
        ("GV-616", {"index": 7}),
        ("GV-340", {"index": gv.index.Bitmap()}),
        ("GV-619", {"field": "word", "index": gv.index.HNSW()}),
        ("GV-619", {"field": "word", "index": gv.index.Flat()}),
        ("GV-340", {"field": "tags", "index": gv.index.Sorted()}),
        ("GV-620", {"recall": 1}),
        ("GV-620", {"recall": 0}),
        ("GV-620", {"recall": 95}),
        ("GV-620", {"recall": True}),
        ("GV-620", {"recall": None}),
        ("GV-620", {"recall": float("nan")}),
        ("GV-354", {"k": 0}),
        ("GV-354", {"k": 1.5}),
        ("GV-621", {"max_memory": "lots"}),
        ("GV-621", {"max_memory": -1}),
        ("GV-621", {"max_memory": 0.5}),
        ("GV-621", {"max_memory": True}),
        ("GV-621", {"max_memory": 1.5}),
        ("GV-354", {"field": None}),
        ("GV-354", {"field": ["v"]}),
    ],
)
def test_a_wish_that_cannot_be_is_refused_before_anything_happens(items, code, arguments):
    with pytest.raises(gv.GpuvecError) as caught:
        items.create_index(**{"field": "v", **arguments})
    assert caught.value.code == code
    assert items.indexes().count() == 0


def test_numbers_of_numpy_are_numbers(items):
    report = items.create_index(
        "v", HNSW, recall=np.float32(0.9), k=np.int64(5), max_memory=np.int64(10**9)
    )
    assert (report.target, report.k) == (pytest.approx(0.9), 5)
    assert items.tune("v", recall=np.float64(0.5), k=np.int32(3)).table.count() == 1


@pytest.mark.parametrize("field", [None, 5, ["v"]])
def test_a_field_without_a_name_is_refused(items, field):
    with pytest.raises(gv.QueryError, match="GV-354"):
        items.drop_index(field)


def test_what_works_is_named():
    with pytest.raises(gv.QueryError, match=r"write gv\.index\.HNSW\(\)"):
        raise gv.errors.not_an_index("hnsw", ["HNSW", "IVFFlat"])
    assert "gv.index.IVFFlat()" in gv.errors.not_an_index("IVF", ["HNSW", "IVFFlat"]).hint


def test_sparse_vectors_have_no_index(db):
    items = db.create_collection(
        "sparse", gv.Schema({"id": gv.Int64(), "s": gv.SparseVector()}, "id")
    )
    for index in ("auto", HNSW):
        with pytest.raises(gv.UnsupportedError, match="GV-614"):
            items.create_index("s", index)


def test_an_index_that_does_not_fit_its_memory_is_refused_and_leaves_nothing(items):
    with pytest.raises(gv.DeviceMemoryError, match=r"GV-40[12]") as caught:
        items.create_index("v", HNSW, max_memory="1KB")
    assert caught.value.details["limit"] == 1000
    assert "1000 bytes are allowed" in str(caught.value)
    assert items.indexes().count() == 0
    assert items.create_index("v", HNSW, max_memory="100MB").rows_covered == ROWS


def test_only_the_writing_process_makes_indexes(tmp_path):
    from gpuvec.api.database import Database
    from gpuvec.api.engine import Engine
    from gpuvec.query.session import new_session
    from gpuvec.storage.open import open_store

    with gv.connect(tmp_path) as db:
        items = db.create_collection("items", data=rows(ROWS), primary_key="id")
        other = Engine(
            open_store(str(tmp_path)), str(tmp_path), durability="fsync", flush_bytes=1, age_s=60
        )
        reader = Database("other", other, new_session())["items"]
        with pytest.raises(gv.ConflictError, match="GV-602"):
            reader.create_index("v", HNSW)
        items.create_index("v", HNSW)
        assert segment_indexes(reader, "v")[0].spec == HNSW
        assert reader.indexes().to_arrow() == items.indexes().to_arrow()
        other.close()


# Tuning


@pytest.mark.parametrize(
    ("spec", "source"),
    [(HNSW, "held-out rows"), (gv.index.IVFFlat(n_lists=4), "rows hidden from the answers")],
)
def test_tuning_measures_again_and_keeps_the_files(items, spec, source):
    items.create_index("v", spec)
    (before,) = segment_indexes(items, "v")
    tuning = items.tune("v", recall=[0.5, 0.9], k=[5])
    assert repr(tuning).startswith(f'"v" measured again, with {source}\nResult 2 rows')
    (after,) = segment_indexes(items, "v")
    assert after.index_id != before.index_id
    assert {n: f.path for n, f in after.files().items()} == {
        n: f.path for n, f in before.files().items()
    }
    assert after.curve().ks == (5, 10, 100)
    assert tuning.source == after.curve().source == source
    table = tuning.table.to_arrow()
    assert table["target"].to_pylist() == [0.5, 0.9]
    assert set(table["k"].to_pylist()) == {5}
    assert tuning.points.count() == len(after.curve().points)


def test_tuning_with_queries_measures_with_these(items):
    items.create_index("v", HNSW)
    queries = rows(60, seed=9)["v"]
    tuning = items.tune("v", recall=0.9, k=10, queries=queries)
    assert tuning.source == "given queries"
    assert max(tuning.points.to_arrow()["queries"].to_pylist()) == 60
    assert items.indexes().to_arrow()["recall"].to_pylist()[0] is not None
    again = items.tune("v", queries={"x": queries, "name": ["a"] * 60})
    assert again.source == "given queries"


def test_a_tuning_can_be_drawn(items):
    pytest.importorskip("matplotlib").use("Agg")
    items.create_index("v", HNSW)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Matplotlib
        ax = items.tune("v").plot()
    assert ax.get_xlabel() == "recall"
    assert len(ax.get_legend_handles_labels()[1]) == 2


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("GV-104", {"field": "w"}),
        ("GV-618", {"field": "v"}),
        ("GV-623", {"field": "word"}),
        ("GV-620", {"field": "v", "recall": [2]}),
        ("GV-354", {"field": "v", "k": [0]}),
        ("GV-354", {"field": "i", "k": []}),
        ("GV-354", {"field": "i", "recall": []}),
        ("GV-620", {"field": "i", "recall": 2}),
        ("GV-354", {"field": 5}),
        ("GV-625", {"field": "i", "queries": np.zeros((0, DIM), np.float32)}),
    ],
)
def test_what_cannot_be_tuned_says_why(db, code, arguments):
    items = db.create_collection("items", schema(i=gv.Vector(DIM)))
    items.insert({**rows(100), "i": rows(100)["v"]})
    items.create_index("word", gv.index.Bitmap())
    items.create_index("i", HNSW)
    with pytest.raises(gv.GpuvecError) as caught:
        items.tune(**arguments)
    assert caught.value.code == code


def test_few_queries_are_shown_but_do_not_replace_what_was_measured(items):
    items.create_index("v", HNSW)
    before = items.indexes().to_arrow()
    with pytest.warns(gv.RecallWarning, match="3 queries are too few") as said:
        tuning = items.tune("v", queries=rows(3, seed=9)["v"])
    assert said[0].filename == __file__
    assert max(tuning.points.to_arrow()["queries"].to_pylist()) == 3
    assert items.indexes().to_arrow() == before
    assert segment_indexes(items, "v")[0].curve().source == "held-out rows"
