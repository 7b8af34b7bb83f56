"""Searches of a collection with an index, while rows come and go: against a plain brute force."""

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gpuvec as gv

pytest.importorskip("faiss")

ROWS, DIM, CENTERS = 6000, 24, 60
SPECS = [
    pytest.param(gv.index.HNSW(m=16, ef_construction=60), id="hnsw"),
    pytest.param(gv.index.IVFInt8(), id="int8", marks=pytest.mark.slow),
    pytest.param(gv.index.IVFFlat(), id="flat", marks=pytest.mark.slow),
    pytest.param(gv.index.IVFSQ8(), id="sq8", marks=pytest.mark.slow),
]


class Mirror:
    """A collection, and the same rows in a dict."""

    def __init__(self, path, spec):
        self.rng = np.random.default_rng(0)
        self.middles = self.rng.standard_normal((CENTERS, DIM))
        self.path = path
        self.db = gv.connect(path)
        self.rows = {}
        vectors, price = self.vectors(ROWS), self.rng.random(ROWS)
        self.items = self.db.create_collection(
            "items",
            data={"id": np.arange(ROWS), "price": price, "embedding": vectors},
            primary_key="id",
        )
        self.note(range(ROWS), price, vectors)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", gv.RecallWarning)  # few rows, a busy machine
            self.items.create_index("embedding", spec, recall=0.9)

    def vectors(self, count):
        near = self.middles[self.rng.integers(0, CENTERS, count)]
        return (near + 0.5 * self.rng.standard_normal((count, DIM))).astype(np.float32)

    def note(self, ids, price, vectors):
        self.rows.update(zip(ids, zip(price, vectors, strict=True), strict=True))

    def nearest(self, queries, k, where=lambda price: True):
        """Return the ids of the k nearest rows of each query, by cosine distance in float64."""
        ids = np.array(sorted(key for key, (price, _) in self.rows.items() if where(price)))
        held = np.stack([self.rows[key][1] for key in ids]).astype(np.float64)
        held /= np.linalg.norm(held, axis=1, keepdims=True)
        asked = queries / np.linalg.norm(queries, axis=1, keepdims=True)
        return ids[np.argsort(-(asked @ held.T), axis=1, kind="stable")[:, :k]]


@pytest.fixture(scope="module", params=SPECS)
def mirror(request, tmp_path_factory):
    made = Mirror(tmp_path_factory.mktemp("db") / "shop", request.param)
    yield made
    made.db.close()


def ids(frame, queries):
    """Return the ids that a search found, one row per query."""
    return np.asarray(frame.to_arrow()["id"]).reshape(queries, -1)


def share(found, wanted):
    return np.mean([np.isin(a, b).mean() for a, b in zip(found, wanted, strict=True)])


def check(mirror, frame, where=lambda price: True, k=10):
    """Hold a frame to its promise: exact answers exactly, others on the whole."""
    queries = mirror.vectors(200)
    wanted = mirror.nearest(queries, k, where)
    assert (ids(frame.search(queries, k=k, exact=True), 200) == wanted).all()
    for recall in (None, 0.9, 0.95):
        found = frame.search(queries, k=k, recall=recall).collect()
        got = share(np.asarray(found["id"]).reshape(200, -1), wanted)
        assert got >= (recall or 0.9) - 0.02
        assert found.metrics.recall == pytest.approx(got, abs=0.08)


def used(frame, queries):
    return [name for name in frame.search(queries).collect().metrics.strategies if "=" in name]


def knob(mirror):
    """Return the knobs of the index in use, at their most thorough."""
    (report,) = mirror.items.indexes().to_pandas().to_dict("records")
    kinds = {
        "HNSW": {"ef_search": 2000},
        "IVFInt8": {"effort": 1.0},
        "IVFFlat": {"n_probes": 4096},
        "IVFSQ8": {"n_probes": 4096, "refine": 20},
    }
    return kinds[report["spec"].split("(")[0]]


def test_unseen_queries_get_the_recall_that_is_asked_for(mirror):
    check(mirror, mirror.items)
    check(mirror, mirror.items, k=3)
    check(mirror, mirror.items.filter("price < 0.5"), lambda price: price < 0.5)
    check(mirror, mirror.items.filter("price < 0.01"), lambda price: price < 0.01)


def test_rows_that_come_after_the_index_are_found_and_those_that_go_are_not(mirror):
    params = knob(mirror)
    fresh, price = mirror.vectors(40), mirror.rng.random(40)
    new = np.arange(ROWS, ROWS + 40)
    mirror.items.insert({"id": new, "price": price, "embedding": fresh})
    mirror.note(new.tolist(), price, fresh)
    nearest = ids(mirror.items.search(fresh, k=1, params=params), 40)
    assert nearest.ravel().tolist() == new.tolist()

    moved = mirror.vectors(40)  # rows that the index holds at their old place
    mirror.items.upsert({"id": np.arange(40), "price": price, "embedding": moved})
    mirror.note(range(40), price, moved)
    assert ids(mirror.items.search(moved, k=1, params=params), 40).ravel().tolist() == list(
        range(40)
    )

    gone = list(range(100, 2000, 3))
    old = np.stack([mirror.rows[key][1] for key in gone])
    mirror.items.delete(ids=gone)
    for key in gone:
        del mirror.rows[key]
    assert not np.isin(ids(mirror.items.search(old, k=5, params=params), len(gone)), gone).any()
    check(mirror, mirror.items)
    check(mirror, mirror.items.filter("price >= 0.7"), lambda price: price >= 0.7)


def test_threads_get_the_answers_of_one(mirror):
    params = knob(mirror)
    queries = [mirror.vectors(7) for _ in range(24)]
    alone = [ids(mirror.items.search(q, params=params), 7).tolist() for q in queries]
    with ThreadPoolExecutor(6) as pool:
        found = pool.map(lambda q: ids(mirror.items.search(q, params=params), 7).tolist(), queries)
        assert list(found) == alone


def test_a_query_and_a_batch_of_it_get_the_same_answers(mirror):
    params, queries = knob(mirror), mirror.vectors(20)
    whole = ids(mirror.items.search(queries, k=6, params=params), 20)
    for number, query in enumerate(queries):
        one = ids(mirror.items.search(query, k=6, params=params), 1)
        assert one.tolist() == [whole[number].tolist()]


@pytest.mark.cpu
def test_a_search_is_measured_and_explained_with_its_index(mirror):
    queries = mirror.vectors(150)
    search = mirror.items.filter("price < 0.8").search(queries, params=knob(mirror))
    report = search.evaluate()
    wanted = mirror.nearest(queries, 10, lambda price: price < 0.8)
    assert report.recall == pytest.approx(share(ids(search, 150), wanted), abs=0.005)
    text = str(search.explain(analyze=True))
    (spec,) = mirror.items.indexes().to_pandas()["spec"]
    assert f"1 segment   {spec.split('(')[0]} " in text
    assert "exact scan" in text


def test_a_database_opened_again_answers_with_the_index_as_before(mirror):
    params, queries = knob(mirror), mirror.vectors(30)
    before = ids(mirror.items.search(queries, params=params), 30)
    mirror.db.close()
    mirror.db = gv.connect(mirror.path)
    mirror.items = mirror.db["items"]
    assert (ids(mirror.items.search(queries, params=params), 30) == before).all()


def test_a_dropped_index_is_not_asked(mirror):
    queries = mirror.vectors(30)
    mirror.items.drop_index("embedding")
    assert not used(mirror.items, queries)
    with pytest.raises(gv.QueryError, match="GV-351"):
        mirror.items.search(queries, params={"ef_search": 10})
    wanted = mirror.nearest(queries, 10)
    assert (ids(mirror.items.search(queries), 30) == wanted).all()
