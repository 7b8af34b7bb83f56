"""Random histories: the database and a dict do the same things, and must agree."""

import itertools
import random
import warnings

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.api.engine import Engine
from gpuvec.storage.open import open_store
from gpuvec.testing.model import ModelCollection

DIM = 4
INDEXES = [
    ("v", gv.index.HNSW(m=4, ef_construction=16)),
    ("v", gv.index.IVFFlat(n_lists=2)),
    ("n", gv.index.Sorted()),
    ("word", gv.index.Bitmap()),
    ("word", "auto"),
]
KEYS = 60  # few, so that they meet

FILTERS = [
    ("n > 50", lambda row: None if row["n"] is None else row["n"] > 50),
    ("n is null", lambda row: row["n"] is None),
    ("n < 30 and word != 'b'", lambda row: _and(_less(row["n"], 30), row["word"] != "b")),
    ("word in ['a', 'c']", lambda row: row["word"] in ("a", "c")),
    (
        "word like 'b%' or n >= 90",
        lambda row: _or(row["word"].startswith("b"), _at_least(row["n"], 90)),
    ),
]


def _less(value, bound):
    return None if value is None else value < bound


def _at_least(value, bound):
    return None if value is None else value >= bound


def _and(left, right):
    if left is False or right is False:
        return False
    return None if left is None or right is None else True


def _or(left, right):
    if left is True or right is True:
        return True
    return None if left is None or right is None else False


class History:
    """One database, its model, a reader in another engine, and a seeded stream of steps."""

    def __init__(self, place, seed, key_kind, channels=1):
        self.random = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.place = place
        self.text_keys = key_kind == "string"
        key_type = gv.String() if self.text_keys else gv.Int64()
        schema = gv.Schema(
            {
                "key": key_type,
                "n": gv.Int64(nullable=True),
                "word": gv.String(default="a"),
                "v": gv.Vector(DIM, metric="sqeuclidean", nullable=True),
            },
            "key",
            dynamic=bool(seed % 2),
        )
        self.dynamic = schema.dynamic
        self.db = gv.connect(**place)
        self.items = self.db.create_collection("items", schema, channels=channels)
        self.model = ModelCollection("key", {"n": None, "word": "a", "v": None})
        self.extra = None
        self.reader = None
        self.recalls = []  # of searches that went through indexes
        self.past = {self.items.version: self.model.copy()}  # version to the model of then
        self.tags = {}
        self.tag_numbers = itertools.count()
        self.doubtful = set()  # versions that may be forgotten

    def close(self):
        self.drop_reader()
        self.db.close()

    def drop_reader(self):
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    def key(self):
        number = self.random.randrange(KEYS)
        return f"k{number:03d}é" if self.text_keys else number

    def batch(self, unique=True):
        count = self.random.choice([1, 1, 2, 5, 20])
        keys = [self.key() for _ in range(count)]
        if unique:
            keys = list(dict.fromkeys(keys))
        rows = []
        for key in keys:
            row = {"key": key, "word": self.random.choice(["a", "b", "bc", "c"])}
            row["n"] = self.random.choice([None, self.random.randrange(100)])
            row["v"] = None
            if self.random.random() < 0.9:
                row["v"] = [float(x) for x in self.numbers.integers(-9, 9, DIM)]
            if self.dynamic and self.random.random() < 0.5:
                row["color"] = self.random.choice(["red", "blue"])
            if self.extra is not None:
                row[self.extra] = self.random.randrange(5)
            rows.append(row)
        return rows

    def columns(self, rows):
        return [dict(row) for row in rows]

    # Steps

    def insert(self):
        rows, mode = self.batch(), self.random.choice(["error", "skip", "replace"])
        partition = self.random.choice(["", "", "p1", "p2"])
        try:
            wanted = self.model.insert(rows, partition=partition, on_conflict=mode)
        except ValueError:
            with pytest.raises(gv.SchemaError):
                self.items.insert(self.columns(rows), partition=partition or None, on_conflict=mode)
            return
        got = self.items.insert(self.columns(rows), partition=partition or None, on_conflict=mode)
        assert (got.inserted, got.updated) == wanted

    def upsert(self):
        rows = self.batch(unique=False)
        wanted = self.model.upsert(rows)
        got = self.items.upsert(self.columns(rows))
        assert (got.inserted, got.updated) == wanted

    def update(self):
        text, test = self.random.choice(FILTERS)
        wanted = self.model.update(
            {"n": lambda row: None if row["n"] is None else row["n"] + 1, "word": lambda _: "b"},
            test,
        )
        got = self.items.update({"n": gv.col("n") + 1, "word": "b"}, filter=text)
        assert got.updated == wanted

    def delete_filter(self):
        text, test = self.random.choice(FILTERS)
        assert self.items.delete(filter=text).deleted == self.model.delete(test)

    def delete_keys(self):
        keys = [self.key() for _ in range(self.random.randrange(1, 8))]
        assert self.items.delete(ids=keys).deleted == self.model.delete_keys(keys)

    def delete_frame(self):
        text, test = self.random.choice(FILTERS)
        got = self.items.delete(self.items.filter(text).limit(3)).deleted
        assert got == min(3, sum(test(row) is True for row in self.model.rows.values()))
        left = {row["key"] for row in self.items.to_arrow().to_pylist()}
        self.model.delete_keys([key for key in self.model.rows if key not in left])

    def drop_partition(self):
        name = self.random.choice(["p1", "p2"])
        if name in self.items.partitions:
            self.items.drop_partition(name)
            self.model.drop_partition(name)

    def truncate(self):
        if self.random.random() < 0.3:
            self.items.truncate()
            self.model.truncate()

    def change_fields(self):
        if self.extra is None:
            self.extra = "extra"
            default = self.random.choice([None, 7])
            self.items.add_field("extra", gv.Int32(nullable=True), default)
            self.model.add_field("extra", default)
        else:
            self.items.drop_field(self.extra)
            self.model.drop_field(self.extra)
            self.extra = None

    def flush(self):
        self.items.flush()

    def reopen(self):
        self.db.close()
        self.db = gv.connect(**self.place)
        self.items = self.db["items"]

    def make_index(self):
        field, index = self.random.choice(INDEXES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", gv.RecallWarning)  # rows may be few
            self.items.create_index(field, index, recall=0.5)
        assert field in self.items.indexes().to_arrow()["field"].to_pylist()

    def drop_index(self):
        for field in self.items.indexes().to_arrow()["field"].to_pylist()[:1]:
            self.items.drop_index(field)

    def compact(self):
        self.items.compact()

    def vacuum(self):
        age = self.random.choice(["0s", "1h", None])
        with gv.config.set(store__grace_s=self.random.choice([0.001, 900.0])):
            self.items.vacuum(age)
        if age == "0s":
            self.doubtful |= self.past.keys() - {*self.tags.values(), self.items.version}

    def rename(self):
        self.db.rename("items", "other")
        self.db.rename("other", "items")

    def tag(self):
        version, name = self.random.choice(list(self.past)), f"t{next(self.tag_numbers)}"
        if version not in self.doubtful:
            found = self.items.tag(name, version)  # an older one where only a partition was made
            assert found <= version
            assert self.past[found].rows == self.past[version].rows
            self.tags[name] = found

    def untag(self):
        if self.tags:
            name = self.random.choice(list(self.tags))
            self.items.untag(name)
            self.doubtful.add(self.tags.pop(name))
            self.doubtful -= {*self.tags.values(), self.items.version}

    def restore(self):
        version = self.random.choice(list(self.past))
        then = self.past[version]
        if "extra" in then.defaults and self.extra is None:
            with pytest.raises((gv.SchemaError, gv.SnapshotExpiredError)):
                self.items.restore(version=version)
            return
        try:
            got = self.items.restore(version=version)
        except gv.SnapshotExpiredError:
            assert version in self.doubtful
            return
        before = self.model.copy()
        self.model.restore(then)
        assert got.deleted == len(before.rows.keys() - then.rows.keys())
        assert got.inserted == len(then.rows.keys() - before.rows.keys())

    # Checks

    def check(self):
        self.past[self.items.version] = self.model.copy()
        assert rows_of(self.items.to_arrow()) == plain(self.model)
        assert self.items.count() == len(self.model.rows)
        text, test = self.random.choice(FILTERS)
        wanted = sum(test(row) is True for row in self.model.rows.values())
        assert self.items.filter(text).count() == wanted
        self.check_search(text, test)
        self.check_partition()
        self.check_version()
        if self.dynamic:
            reds = sum(row.get("color") == "red" for row in self.model.rows.values())
            assert self.items.filter("color == 'red'").count() == reds

    def check_search(self, text, test):
        query = self.numbers.integers(-9, 9, DIM).astype(np.float32)
        rows = self.items.filter(text)
        found = rows.search(query, k=5, exact=True).to_arrow().to_pylist()
        wanted = self.model.nearest(query, 5, "v", test)
        assert [(row["distance"], row["key"]) for row in found] == wanted
        self.check_approximate(rows.search(query, k=5), query, wanted, test)
        knob = self.knob()
        if knob is not None:
            self.check_approximate(rows.search(query, k=5, params=knob), query, wanted, test)

    def knob(self):
        """Return a setting of the index of `v` that finds nearly everything, if it has one."""
        with self.items._source.snapshot() as snapshot:
            spec = snapshot.indexes.get("v")
        return None if spec is None else {name: 64 for name in spec.SEARCH}

    def check_approximate(self, search, query, wanted, test):
        """No answer is short, wrong or doubled; how many are the true ones is counted."""
        found = search.to_arrow().to_pylist()
        got = [(row["distance"], row["key"]) for row in found]
        true = dict(map(reversed, self.model.nearest(query, len(self.model.rows), "v", test)))
        assert len(got) == len(wanted)
        assert got == sorted(got)
        assert {key: distance for distance, key in got} == {key: true[key] for _, key in got}
        if wanted:
            last = wanted[-1][0]
            self.recalls.append(sum(distance <= last for distance, _ in got) / len(wanted))

    def check_partition(self):
        for name in self.items.partitions:
            found = self.items.partition(name).to_arrow()["key"].to_pylist()
            wanted = [key for key, part in self.model.partition_of.items() if part == name]
            assert sorted(found) == sorted(wanted)

    def check_version(self):
        """Versions read as they were, tagged ones above all; two of them differ where they do."""
        version = self.random.choice([*self.past, *self.tags.values()])
        then = self.past[version]
        try:
            old = self.items.at(version=version)
            assert rows_of(old.to_arrow()) == plain(then)
            changes = self.items.diff(version).to_arrow().to_pylist()
        except gv.SnapshotExpiredError:
            assert version in self.doubtful
            return
        text, test = self.random.choice(FILTERS)
        query = self.numbers.integers(-9, 9, DIM).astype(np.float32)
        found = old.filter(text).search(query, k=5, exact=True).to_arrow().to_pylist()
        wanted = then.nearest(query, 5, "v", test)
        assert [(row["distance"], row["key"]) for row in found] == wanted
        kinds = {row["key"]: row["change"] for row in changes}
        new, gone = self.model.rows.keys() - then.rows.keys(), then.rows.keys() - self.model.rows
        assert {key for key, kind in kinds.items() if kind == "inserted"} == new
        assert {key for key, kind in kinds.items() if kind == "deleted"} == gone

    def check_reader(self):
        """Another process, which reads the files and the log."""
        if self.reader is None:
            where = self.place["path"]
            store = open_store(where, self.place.get("storage_options"))
            self.reader = Engine(
                store, str(where), durability="fsync", flush_bytes=1 << 20, age_s=60
            )
        _, collection_id = self.reader.root().resolve("items")
        snapshot = self.reader.snapshot(collection_id)
        keys = set()
        for view in snapshot.segments:
            column = view.scalars(["key"])["key"].to_pylist()
            keep = view.keep()
            keys |= {key for row, key in enumerate(column) if keep is None or keep[row]}
        assert keys == set(self.model.rows)
        if self.random.random() < 0.3:
            self.drop_reader()

    STEPS = (
        (insert, 8), (upsert, 6), (update, 3), (delete_filter, 2), (delete_keys, 4),
        (delete_frame, 1), (drop_partition, 1), (truncate, 1), (change_fields, 1), (flush, 3),
        (reopen, 2), (rename, 1), (check_reader, 4), (make_index, 3), (drop_index, 1),
        (compact, 3), (vacuum, 3), (tag, 2), (untag, 1), (restore, 2),
    )  # fmt: skip

    def check_recall(self):
        assert np.mean(self.recalls) >= 0.95

    def run(self, steps):
        names, weights = zip(*self.STEPS, strict=True)
        for step in range(steps):
            action = self.random.choices(names, weights)[0]
            try:
                action(self)
                self.check()
            except BaseException as error:
                error.add_note(f"at step {step}: {action.__name__}")
                raise


def plain(model):
    """Return the rows of a model without dynamic columns."""
    return [
        {name: value for name, value in row.items() if name != "color"} for row in model.table()
    ]


def rows_of(table):
    rows = sorted(table.to_pylist(), key=lambda row: row["key"])
    return [
        {name: list(value) if isinstance(value, list) else value for name, value in row.items()}
        for row in rows
    ]


@pytest.mark.parametrize("key_kind", ["int64", "string"])
@pytest.mark.parametrize("seed", range(3))
def test_a_history_leaves_what_its_model_says(tmp_path, where, seed, key_kind):
    history = History(where(tmp_path / "db"), seed, key_kind)
    try:
        history.run(60)
        history.check_recall()
    finally:
        history.close()


@pytest.mark.parametrize("key_kind", ["int64", "string"])
def test_a_history_over_several_channels_leaves_what_its_model_says(tmp_path, where, key_kind):
    history = History(where(tmp_path / "db"), 11, key_kind, channels=3)
    try:
        history.run(60)
        history.check_recall()
    finally:
        history.close()


@pytest.mark.slow
@pytest.mark.parametrize("key_kind", ["int64", "string"])
@pytest.mark.parametrize("seed", range(200, 212))
def test_a_long_history_over_several_channels_does_too(tmp_path, where, seed, key_kind):
    history = History(where(tmp_path / "db"), seed, key_kind, channels=2 + seed % 4)
    try:
        history.run(250)
        history.check_recall()
    finally:
        history.close()


def test_a_history_in_a_bucket_leaves_what_its_model_says(s3):
    history = History({"path": s3.new_url(), "storage_options": s3.options}, 7, "int64")
    try:
        history.run(40)
    finally:
        history.close()


@pytest.mark.slow
@pytest.mark.parametrize("key_kind", ["int64", "string"])
@pytest.mark.parametrize("seed", range(100, 120))
def test_a_long_history_leaves_what_its_model_says(tmp_path, where, seed, key_kind):
    history = History(where(tmp_path / "db"), seed, key_kind)
    try:
        history.run(250)
        history.check_recall()
    finally:
        history.close()
