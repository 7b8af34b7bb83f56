"""Versions: listing, reading, naming and comparing them."""

import datetime
import inspect
import itertools
import json
import time

import numpy as np
import pytest
from typer.testing import CliRunner

import gpuvec as gv
from gpuvec.api.collection import Collection
from gpuvec.api.past import READS, CollectionAt
from gpuvec.cli import app

SCHEMA = gv.Schema(
    {
        "id": gv.Int64(),
        "word": gv.String(nullable=True),
        "v": gv.Vector(8, metric="l2"),
    },
    primary_key="id",
)


def rows(ids, word="a", seed=0):
    ids = list(ids)
    vectors = np.random.default_rng([seed, *ids[:1]]).random((len(ids), 8), dtype=np.float32)
    return {"id": ids, "word": [word] * len(ids), "v": vectors}


def read(frame):
    """All values, by key, vectors too."""
    table = frame.sort("id").to_arrow()
    return table.to_pylist()


@pytest.fixture
def items(db):
    return db.create_collection("items", SCHEMA)


@pytest.fixture
def story(items):
    """A collection with a past: version to what it read like when it was the newest."""
    told = {items.version: read(items)}

    def note():
        told[items.version] = read(items)

    items.insert(rows(range(100)))
    note()
    items.flush()
    items.upsert(rows(range(50, 150), "b", seed=1))
    note()
    items.update({"word": gv.col("word")}, filter="id >= 140")
    note()
    items.flush()
    items.delete(filter="id < 20")
    note()
    items.add_field("size", gv.Int64(), default=7)
    note()
    items.insert({**rows([500, 501]), "size": [1, 2]}, partition="p")
    note()
    items.drop_field("word")
    note()
    items.truncate()
    note()
    items.flush()
    items.insert({"id": [1], "v": np.ones((1, 8), np.float32), "size": [3]}, partition="p")
    note()
    items.drop_partition("p")
    note()
    items.insert({"id": [2], "v": np.ones((1, 8), np.float32), "size": [4]})
    note()
    return told


# Reading


def test_every_version_reads_as_it_was_when_it_was_the_newest(items, story):
    assert {version: read(items.at(version=version)) for version in story} == story


def test_versions_read_the_same_after_flush_and_reopening(items, story, db, tmp_path, where):
    items.flush()
    assert {version: read(items.at(version=version)) for version in story} == story
    db.close()
    with gv.connect(**where(tmp_path / "shop")) as again:
        found = {version: read(again["items"].at(version=version)) for version in story}
        assert found == story


@pytest.mark.parametrize("again", [False, True])
def test_a_field_that_came_and_went_keeps_its_default_in_its_versions(items, again):
    items.insert(rows(range(5)))
    items.flush()
    items.add_field("extra", gv.Int32(nullable=True), 7)
    version = items.version
    items.drop_field("extra")
    if again:
        items.add_field("extra", gv.Int32(nullable=True), 8)
    items.insert(rows(range(5, 9)))
    items.delete(ids=[0])
    items.compact()
    assert items.count() == 8
    old = items.at(version=version)
    assert old.sort("id").to_arrow()["extra"].to_pylist() == [7] * 5
    assert old.filter("extra == 7").count() == 5


def test_a_number_between_two_versions_is_the_older_one(items, story):
    versions = sorted(story)
    for before, after in itertools.pairwise(versions):
        assert items.at(version=after - 1).version in (before, after - 1)
        assert read(items.at(version=after - 1)) == story[before]


def test_a_version_has_the_fields_and_partitions_of_its_time(items, story):
    versions = sorted(story)
    assert list(items.at(version=versions[1]).schema.fields) == ["id", "word", "v"]
    assert items.at(version=versions[6]).partitions == ["p"]
    assert items.at(version=versions[6]).partition("p").count() == 2
    assert items.at(version=versions[-1]).partitions == []


def test_a_version_answers_searches_filters_joins_and_plans(items, story):
    version = sorted(story)[2]
    old, query = items.at(version=version), np.full(8, 0.5, np.float32)
    vectors = np.array([row["v"] for row in story[version]])
    nearest = np.argsort(((vectors - query) ** 2).sum(1), kind="stable")[:5]
    wanted = [story[version][row]["id"] for row in nearest]
    assert old.search(query, k=5).to_arrow()["id"].to_pylist() == wanted
    assert old.filter('word == "b"').count() == 100
    assert old.get([149, 3]).to_arrow()["id"].to_pylist() == [149, 3]
    left = gv.frame({"key": [3, 149, 500], "left": ["x", "y", "z"]})
    joined = left.join(old, left_on="key", right_on="id").to_arrow()
    assert joined["word"].to_pylist() == ["a", "b"]
    assert "150 rows" in str(old.search(query, k=5).explain())
    assert len(old.to_pandas()) == 150
    assert old.stats()["rows"] == 150


def test_a_version_of_a_frame_stays_while_the_collection_changes(items):
    items.insert(rows(range(10)))
    old = items.at(version=items.version)
    frame = old.filter("id < 5")
    items.delete(filter="id < 8")
    items.flush()
    assert frame.count() == 5
    assert old.count() == 10
    assert items.count() == 2


def test_rows_that_outlived_their_time_are_hidden_as_they_were_then(items):
    before = items.insert(rows(range(3))).version
    items.set_ttl(0.001)
    after = items.version
    gone = items.insert(rows([9])).version
    assert [items.at(version=v).count() for v in (before, after)] == [3, 0]
    assert items.at(version=gone).count() == 1


# Which version


def test_a_time_is_the_newest_version_of_it(items):
    items.insert(rows([1]))
    first = items.version
    when = datetime.datetime.fromtimestamp((first >> 18) / 1000, datetime.UTC)
    assert items.at(time=when).version == first
    assert items.at(time=when.isoformat()).version == first
    assert items.at(time=when.replace(tzinfo=None)).version == first
    assert items.at(time=datetime.datetime.now(datetime.UTC)).version == first


def test_a_version_from_before_the_collection_is_refused(items):
    empty = items.version
    time.sleep(0.005)
    first = items.insert(rows([1])).version
    assert items.at(version=empty).count() == 0  # it was the newest once
    assert items.at(version=first - 1).count() == 0
    for before in ({"time": "2001-01-01"}, {"version": 5}):
        with pytest.raises(gv.NotFoundError, match=r"GV-641.*was not there yet.*\n.*created at"):
            items.at(**before)


def test_a_time_before_a_collection_without_rows_is_refused(items):
    assert items.at(time=datetime.datetime.now(datetime.UTC)).count() == 0
    with pytest.raises(gv.NotFoundError, match="was not there yet"):
        items.at(time="2001-01-01")


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"version": 1, "tag": "t"},
        {"version": "t"},
        {"version": True},
        {"version": -1},
        {"version": 1.5},
        {"time": "yesterday"},
        {"time": 7},
    ],
)
def test_what_is_no_version_is_refused(items, arguments):
    with pytest.raises(gv.QueryError, match="GV-644"):
        items.at(**arguments)


@pytest.mark.parametrize("name", ["", "\ud800", "a\nb", "\x00", 5, ["a"], "x" * 256])
def test_what_is_no_tag_is_refused(items, name):
    with pytest.raises(gv.QueryError, match="a tag is text") as caught:
        items.tag(name)
    assert caught.value.code == "GV-646"
    with pytest.raises(gv.NotFoundError, match="has no tag"):
        items.at(tag=name)
    assert items.tags == {}


def test_a_version_that_is_not_there_yet_is_named_with_the_newest(items):
    newest = items.insert(rows([1])).version
    with pytest.raises(gv.NotFoundError, match=rf"GV-641.*\n.*{newest}"):
        items.at(version=newest + 1)
    with pytest.raises(gv.NotFoundError, match="GV-641"):
        items.at(time="2999-01-01")


# Writing to one


def test_nothing_changes_an_older_version(items):
    version = items.insert(rows([1])).version
    old = items.at(version=version)
    for call in (
        lambda: old.insert(rows([2])),
        lambda: old.delete(ids=[1]),
        lambda: old.tag("t"),
        lambda: old.truncate(),
        lambda: old.create_index("v"),
    ):
        with pytest.raises(gv.QueryError, match="GV-645"):
            call()
    assert items.version == version


def test_every_method_of_a_collection_reads_or_is_refused():
    own = {
        name
        for kind in Collection.__mro__[: Collection.__mro__.index(gv.Frame)]
        for name, value in vars(kind).items()
        if not name.startswith("_") and inspect.isfunction(value)
    }
    refused = {name for name in own if "read-only" in (getattr(CollectionAt, name).__doc__ or "")}
    assert refused == own - READS


# Listing


def test_versions_tells_each_commit_the_newest_first(items, story):
    listed = items.versions().to_arrow()
    assert listed["version"].to_pylist() == sorted(story, reverse=True)[:-1]  # 0 is no commit
    assert listed["operation"].to_pylist()[::-1] == [
        "insert", "upsert", "update", "delete", "add_field size", "insert", "drop_field word",
        "truncate", "insert", "drop_partition p", "insert",
    ]  # fmt: skip
    counts = listed.select(["inserted", "updated", "deleted"]).to_pylist()[::-1]
    assert [tuple(line.values()) for line in counts[:5]] == [
        (100, 0, 0), (50, 50, 0), (0, 10, 0), (0, 0, 20), (None, None, None),
    ]  # fmt: skip
    times = listed["time"].to_pylist()
    assert times == sorted(times, reverse=True)
    items.flush()
    assert items.versions().to_arrow() == listed


def test_versions_of_another_process_are_listed_before_they_are_in_files(items, tmp_path):
    from gpuvec.api.engine import Engine
    from gpuvec.api.source import CollectionSource
    from gpuvec.query.session import new_session
    from gpuvec.storage.open import open_store

    items.insert(rows([1]))
    items.insert(rows([2]))
    items.tag("t")
    store = open_store(items._engine.where, None, durability="os")
    if store.identity != str(tmp_path / "shop"):
        pytest.skip("a bucket: the engine has its own client")
    reader = Engine(store, "reader", durability="os", flush_bytes=1 << 20, age_s=60)
    try:
        reader.root()
        found = Collection(CollectionSource(reader, items._id), new_session())
        assert found.versions().to_arrow() == items.versions().to_arrow()
        assert found.at(tag="t").count() == 2
        items.delete(ids=[1])
        assert found.versions().to_arrow() == items.versions().to_arrow()
        items.flush()
        assert found.versions().to_arrow() == items.versions().to_arrow()
    finally:
        reader.close()


# Tags


def test_a_tag_names_a_version_until_it_is_taken_away(items):
    first = items.insert(rows([1])).version
    assert items.tag("one") == first
    items.insert(rows([2]))
    assert items.tag("one", first) == first
    assert items.tags == {"one": first}
    assert items.at(tag="one").count() == 1
    assert items.versions().to_arrow()["tags"].to_pylist() == [[], ["one"]]
    items.untag("one")
    assert items.tags == {}
    with pytest.raises(gv.NotFoundError, match="GV-642"):
        items.at(tag="one")
    with pytest.raises(gv.NotFoundError, match="GV-642"):
        items.untag("one")


def test_a_tag_is_not_moved_to_another_version(items):
    items.tag("one")
    items.insert(rows([1]))
    with pytest.raises(gv.AlreadyExistsError, match=r'GV-643.*\n.*untag\("one"\)'):
        items.tag("one")


def test_an_unknown_tag_is_told_with_the_nearest(items):
    items.insert(rows([1]))
    items.tag("train-07")
    with pytest.raises(gv.NotFoundError, match=r'Did you mean "train-07"'):
        items.at(tag="train-7")


@pytest.mark.parametrize("name", ["", "x" * 256, 7, None])
def test_a_name_that_is_none_is_no_tag(items, name):
    with pytest.raises(gv.QueryError, match="GV-646"):
        items.tag(name)


def test_tags_survive_reopening(items, db, tmp_path, where):
    items.insert(rows([1]))
    items.tag("one")
    items.delete(ids=[1])
    db.close()
    with gv.connect(**where(tmp_path / "shop")) as again:
        assert again["items"].at(tag="one").count() == 1


# Comparing


def test_diff_tells_what_became_of_each_key(items):
    first = items.insert(rows(range(6))).version
    items.flush()
    items.upsert(rows([2, 8], "b"))
    items.delete(ids=[0, 1])
    items.insert(rows([1]))
    second = items.version
    wanted = [(0, "deleted"), (1, "updated"), (2, "updated"), (8, "inserted")]
    found = [tuple(row.values()) for row in items.diff(first, second).to_arrow().to_pylist()]
    assert found == wanted
    assert items.diff(first).to_arrow() == items.diff(first, second).to_arrow()
    back = {"deleted": "inserted", "inserted": "deleted", "updated": "updated"}
    turned = [tuple(row.values()) for row in items.diff(second, first).to_arrow().to_pylist()]
    assert turned == [(key, back[change]) for key, change in wanted]
    assert items.diff(second, second).count() == 0


def test_diff_agrees_with_comparing_all_rows(items, story):
    versions = sorted(story)
    for first in versions:
        for second in versions:
            old = {row["id"] for row in story[first]}
            new = {row["id"] for row in story[second]}
            found = items.diff(first, second).to_arrow().to_pylist()
            changed = {row["id"]: row["change"] for row in found}
            assert {k for k, c in changed.items() if c == "inserted"} == new - old
            assert {k for k, c in changed.items() if c == "deleted"} == old - new
            same = {row["id"]: row for row in story[first]}
            for row in story[second]:
                if row["id"] in old and row["id"] not in changed:
                    fields = row.keys() & same[row["id"]].keys()
                    assert all(row[name] == same[row["id"]][name] for name in fields)


def test_diff_takes_tags(items):
    items.insert(rows([1]))
    items.tag("one")
    items.insert(rows([2]))
    assert items.diff("one").to_arrow().to_pylist() == [{"id": 2, "change": "inserted"}]


# Retention


@pytest.mark.parametrize("span", ["7 days", -1, float("inf"), "x"])
def test_a_retention_that_is_no_time_is_refused(items, span):
    with pytest.raises(gv.QueryError, match="GV-646"):
        items.set_retention(span)


def test_a_retention_is_kept_with_the_collection(items):
    items.set_retention("7d")
    assert items._state.retention_s == 7 * 86400
    items.set_retention(0)
    assert items._state.retention_s == 0
    items.set_retention(None)
    assert items._state.retention_s is None


# Restoring


def with_fields(rows, schema):
    """Rows as they look under a schema that has more fields."""
    defaults = {
        name: getattr(kind, "default", None)
        for name, kind in schema.fields.items()
        if name != schema.primary_key
    }
    return [{**defaults, **row} for row in rows]


def test_a_restored_version_has_the_rows_of_the_old_one(items, story):
    items.add_field("word", gv.String(nullable=True))  # of another kind than the one that was
    for version, wanted in story.items():
        before = items.version
        result = items.restore(version=version)
        assert read(items) == with_fields(wanted, items.schema)
        assert result.version == items.version >= before
    assert {version: read(items.at(version=version)) for version in story} == story


def test_restoring_writes_only_what_differs(items):
    first = items.insert(rows(range(100))).version
    items.flush()
    items.upsert(rows([3, 200], "b"))
    items.delete(ids=[5, 6])
    result = items.restore(version=first)
    assert (result.inserted, result.updated, result.deleted) == (2, 1, 1)
    assert sorted(result.ids.to_pylist()) == [3, 5, 6, 200]
    assert items.diff(first, items.version).count() == 3  # rows written anew
    assert read(items) == read(items.at(version=first))
    again = items.restore(version=first)
    assert (again.inserted, again.updated, again.deleted) == (0, 3, 0)


def test_restoring_the_newest_version_changes_nothing(items):
    version = items.insert(rows(range(5))).version
    result = items.restore(version=version)
    assert result.version == version == items.version
    assert (result.inserted, result.updated, result.deleted) == (0, 0, 0)


def test_a_restore_is_a_version_that_can_be_undone(items):
    items.insert(rows(range(10)))
    items.tag("good")
    items.delete(filter="id < 7")
    bad = items.version
    items.restore(tag="good")
    assert items.versions().to_arrow()["operation"][0].as_py() == "restore"
    assert items.count() == 10
    items.restore(version=bad)
    assert items.count() == 3
    assert items.at(tag="good").count() == 10


def test_a_truncation_and_a_dropped_partition_can_be_restored(items, db, tmp_path, where):
    items.insert(rows(range(10)), partition="p")
    items.insert(rows(range(10, 15)))
    version = items.version
    wanted = read(items)
    items.drop_partition("p")
    items.truncate()
    items.restore(version=version)
    assert read(items) == wanted
    assert items.partition("p").count() == 10
    db.close()
    with gv.connect(**where(tmp_path / "shop")) as again:
        assert read(again["items"]) == wanted


def test_a_version_with_a_field_that_is_gone_is_restored_once_it_is_there_again(items):
    version = items.insert(rows(range(4))).version
    wanted = read(items)
    items.drop_field("word")
    with pytest.raises(gv.SchemaError, match=r"GV-647.*word"):
        items.restore(version=version)
    items.add_field("word", gv.Int64(nullable=True))
    with pytest.raises(gv.SchemaError, match=r"GV-647.*word"):
        items.restore(version=version)
    items.drop_field("word")
    items.add_field("word", gv.String(nullable=True))
    items.restore(version=version)
    assert [{**row, "v": row["v"]} for row in read(items)] == [
        {"id": row["id"], "v": row["v"], "word": row["word"]} for row in wanted
    ]


def test_a_row_whose_time_was_over_comes_back_once(items):
    version = items.insert(rows(range(3))).version
    items.set_ttl(0.001)
    assert items.count() == 0
    items.restore(version=version)
    items.set_ttl(None)
    assert items.to_arrow()["id"].to_pylist() == [0, 1, 2]


def test_automatic_keys_go_on_above_restored_ones(db):
    numbered = db.create_collection(
        "numbered", gv.Schema({"id": gv.Int64(auto=True), "x": gv.Int64()}, "id")
    )
    numbered.insert({"x": [1, 2, 3]})
    numbered.tag("all")
    numbered.truncate()
    numbered.restore(tag="all")
    assert numbered.insert({"x": [4]}).ids.to_pylist() == [3]


def test_dynamic_columns_and_sparse_and_null_vectors_come_back_as_they_were(db):
    kinds = {
        "id": gv.String(),
        "s": gv.SparseVector(),
        "d": gv.Vector(4, nullable=True),
        "b": gv.BinaryVector(16),
        "tags": gv.List(gv.String(), nullable=True),
    }
    odd = db.create_collection("odd", gv.Schema(kinds, "id", dynamic=True))
    odd.insert(
        [
            {"id": "x", "s": {1: 0.5}, "d": None, "b": b"ab", "tags": ["q"], "more": 7},
            {"id": "y", "s": {}, "d": [1, 2, 3, 4], "b": b"cd", "tags": None},
        ]
    )
    wanted = read(odd)
    odd.flush()
    odd.tag("t")
    odd.update({"more": 8}, filter='id == "x"')
    odd.delete(ids=["y"])
    odd.restore(tag="t")
    assert read(odd) == wanted
    assert odd.filter("more == 7").count() == 1


def test_a_field_dropped_before_the_rows_were_in_files_is_there_in_older_versions(
    items, db, tmp_path, where
):
    first = items.insert(rows(range(5))).version
    wanted = read(items)
    items.drop_field("word")
    items.insert({"id": [7], "v": np.ones((1, 8), np.float32)})
    items.add_field("size", gv.Int64(), default=1)
    db.close()  # too few rows for a file: they are replayed
    with gv.connect(**where(tmp_path / "shop")) as again:
        found = again["items"]
        assert read(found.at(version=first)) == wanted
        assert found.count() == 6
        found.insert({"id": [8], "v": np.ones((1, 8), np.float32), "size": [2]})
        found.flush()
        assert read(found.at(version=first)) == wanted
        assert found.to_arrow()["size"].to_pylist() == [1, 1, 1, 1, 1, 1, 2]


def test_deletes_from_before_a_truncation_are_replayed(items, db, tmp_path, where):
    items.insert(rows(range(10)), partition="p")
    items.insert(rows(range(10, 20)))
    items.flush()
    items.delete(ids=[1, 2, 11])
    told = {items.version: read(items)}
    items.drop_partition("p")
    told[items.version] = read(items)
    items.truncate()
    items.insert(rows([1, 12]))
    told[items.version] = read(items)
    items.delete(ids=[1])
    told[items.version] = read(items)
    db.close()  # too few for a file: they are replayed, after the truncation is known
    with gv.connect(**where(tmp_path / "shop")) as again:
        found = again["items"]
        assert {version: read(found.at(version=version)) for version in told} == told
        found.insert(rows([50]))
        assert {version: read(found.at(version=version)) for version in told} == told


# Beside compaction and vacuum


def test_every_tagged_version_survives_upserts_compactions_and_vacuums(items):
    told, random = {}, np.random.default_rng(11)
    with gv.config.set(store__grace_s=0.001):
        for number in range(24):
            keys = random.choice(400, size=120, replace=False)
            items.upsert(rows(keys, f"w{number}", seed=number))
            if number % 3 == 0:
                items.delete(ids=random.choice(400, size=40).tolist())
            if number % 7 == 6:
                items.truncate()
            if number % 4 == 1:
                items.tag(f"t{number}")
                told[f"t{number}"] = read(items)
            if number % 2:
                items.flush()
            if number % 5 == 4:
                items.compact()
            if number % 6 == 5:
                items.vacuum(older_than="0s")
            assert {tag: read(items.at(tag=tag)) for tag in told} == told
        items.compact()
        items.vacuum(older_than="0s")
        assert {tag: read(items.at(tag=tag)) for tag in told} == told
        gone = items.tags["t5"]
        items.untag("t5")
        items.vacuum(older_than="0s")
        with pytest.raises(gv.SnapshotExpiredError, match=r"GV-640.*\n.*tags: \"t1\", \"t13\""):
            items.at(version=gone)
        items.restore(tag="t9")
        assert read(items) == told["t9"]


def test_a_version_within_retention_survives_compaction_and_vacuum(items):
    first = items.insert(rows(range(50))).version
    items.flush()
    wanted = read(items)
    items.upsert(rows(range(40), "b", seed=1))
    items.delete(ids=[45])
    items.flush()
    with gv.config.set(store__grace_s=0.001):
        items.compact()
        items.vacuum()
        items.vacuum(older_than="1h")
        assert read(items.at(version=first)) == wanted
        items.vacuum(older_than="0s")
        with pytest.raises(gv.SnapshotExpiredError):
            items.at(version=first)


@pytest.mark.cpu
def test_searches_of_an_old_version_keep_the_promise_of_their_index(items):
    random = np.random.default_rng(5)
    centers = random.standard_normal((40, 8))
    vectors = (centers[random.integers(40, size=4000)] + random.normal(0, 0.2, (4000, 8))).astype(
        "f4"
    )
    items.insert({"id": range(4000), "v": vectors})
    items.flush()
    items.create_index("v", gv.index.HNSW(m=8, ef_construction=40), recall=0.9)
    old = items.at(version=items.version)
    items.delete(filter="id < 2000")
    items.upsert({"id": range(3500, 5000), "v": random.standard_normal((1500, 8))})
    middle = items.at(version=items.version)
    items.truncate()
    items.flush()
    queries = vectors[:100] + np.float32(0.01)
    assert "HNSW" in str(old.search(queries, k=10, recall=0.9).explain())
    for version in (old, middle):
        report = version.search(queries, k=10, recall=0.9).evaluate(sample=100)
        assert report.ci95[1] >= 0.9
    knob = dict.fromkeys(gv.index.HNSW.SEARCH, 200)
    through = middle.search(queries, k=10, params=knob)
    assert "HNSW" in str(through.explain())
    assert through.evaluate(sample=100).recall >= 0.9
    assert min(through.to_arrow()["id"].to_pylist()) >= 2000


def test_inspect_lists_versions(items, db):
    items.insert(rows([1]))
    items.tag("one")
    path = db.path
    db.close()
    if "://" in path:
        pytest.skip("a bucket: commands take its keys from the environment")
    result = CliRunner().invoke(app, ["inspect", f"{path}/items", "--versions", "--json"])
    assert result.exit_code == 0, result.output
    (told,) = json.loads(result.stdout)["versions"]
    assert (told["operation"], told["inserted"], told["tags"]) == ("insert", 1, ["one"])
    assert "insert" in CliRunner().invoke(app, ["inspect", f"{path}/items", "--versions"]).stdout


# How it looks


def test_a_version_shows_what_it_is(items):
    old = items.at(version=items.insert(rows([1])).version)
    for text in (repr(old), old._repr_html_()):
        assert f"at version {old.version}" in text
        assert "read-only" in text


def test_what_cannot_be_read_any_more_still_has_a_repr(items, db):
    old = items.at(version=items.insert(rows([1])).version)
    db.drop_collection("items")
    assert "items" in repr(items)
    db.close()
    for found in (items, old):
        assert "was closed" in repr(found)
        assert "was closed" in found._repr_html_()
