"""Searches over segments with indexes: the way each segment goes, and what is promised of it."""

import warnings

import numpy as np
import pytest

from gpuvec.errors import QueryError, RecallWarning
from gpuvec.expr.tree import col
from gpuvec.index.curve import RecallCurve
from gpuvec.index.spec import HNSW
from tests.query.indexed import DIM, flat_curve, hits, indexed_table, point, shared

pytest.importorskip("faiss")

SMALL = HNSW(m=16, ef_construction=80)
GOOD = flat_curve([({"ef_search": 64}, 0.96), ({"ef_search": 400}, 0.999)])
SCAN = "exact scan (float32)"
BROAD, FINE = "HNSW ef_search=64", "HNSW ef_search=400"


def asked(count, seed=1):
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


def ways(frame):
    return dict(frame.collect().metrics.strategies)


@pytest.fixture(scope="module")
def table():
    """Two segments with an index and a small one without, with deleted rows and null vectors."""
    sizes = ((2500, True), (300, False), (1500, True))
    return indexed_table(SMALL, GOOD, sizes=sizes, nulls=0.02, hidden=0.1)


def test_a_search_takes_the_cheapest_setting_that_reaches_its_recall(table):
    queries = asked(20)
    assert ways(table.frame.search(queries, recall=0.9)) == {BROAD: 2, SCAN: 1}
    assert ways(table.frame.search(queries, recall=0.9965)) == {FINE: 2, SCAN: 1}
    between = ways(table.frame.search(queries, recall=0.99))
    assert between == {"HNSW ef_search=358": 2, SCAN: 1}


def test_a_search_that_names_no_recall_wants_that_of_the_index():
    for target, way in ((0.9, BROAD), (0.9965, FINE)):
        table = indexed_table(SMALL, GOOD, target=target)
        assert ways(table.frame.search(asked(5))) == {way: 1}
        assert f"recall≥{target}" in str(table.frame.search(asked(5)).explain())
    table = indexed_table(SMALL, GOOD, target=None)
    assert ways(table.frame.search(asked(5))) == {SCAN: 1}


@pytest.mark.parametrize("options", [{"exact": True}, {"recall": 1.0}, {"recall": 0.9999}])
def test_where_no_setting_reaches_the_recall_the_scan_is_exact(table, options):
    queries = asked(15, seed=2)
    search = table.frame.search(queries, k=12, **options)
    assert ways(search) == {SCAN: 3}
    assert hits(search) == table.truth(queries, 12)
    assert search.collect().metrics.recall == 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"radius": 3.0},
        {"radius": (1.0, 3.0), "k": 5},
        {"k": None, "radius": 4.0},
        {"metric": "cosine"},
        {"group_by": "price", "k": 3},
        {"k": 1000},
    ],
)
def test_searches_that_no_index_serves_scan_exactly(table, options):
    found = table.frame.search(asked(3), **options).collect().metrics
    assert not [name for name in found.strategies if name.startswith("HNSW")]
    assert found.recall == 1.0


def test_a_column_computed_in_the_place_of_the_field_has_no_index(table):
    halved = table.frame.with_columns(price=col("price") / 2)
    assert BROAD in ways(halved.search(asked(5), recall=0.9))
    shuffled = table.frame.sort("price").search(asked(5), recall=0.9)
    assert not [name for name in ways(shuffled) if name.startswith("HNSW")]


def test_answers_hold_the_recall_whatever_is_deleted_null_or_filtered(table):
    queries = asked(60, seed=3)
    for least in (0.0, 0.5, 0.88):
        keep = table.price > np.float32(least)
        frame = table.frame.filter(f"price > {least}")
        search = frame.search(queries, k=10, params={"ef_search": np.int64(400)})
        found, wanted = hits(search), table.truth(queries, 10, keep)
        assert shared(found, wanted) > 0.97
        assert len(found) == len(wanted)
        alive = set(table.keys[table.visible & table.valid & keep].tolist())
        assert {key for _, _, key in found} <= alive


def test_distances_are_those_of_the_exact_scan(table):
    queries = asked(40, seed=4)
    rough = table.frame.search(queries, k=10, params={"ef_search": 400}).to_arrow().to_pydict()
    whole = table.frame.search(queries, k=10, exact=True).to_arrow().to_pydict()
    exact = dict(zip(zip(whole["query_id"], whole["id"], strict=True), whole["distance"],
                     strict=True))  # fmt: skip
    both = [
        (distance, exact[pair])
        for *pair_, distance in zip(rough["query_id"], rough["id"], rough["distance"], strict=True)
        if (pair := tuple(pair_)) in exact
    ]
    assert len(both) > 300
    assert all(mine == theirs for mine, theirs in both)


def test_answers_that_an_index_leaves_short_are_completed():
    table = indexed_table(SMALL, GOOD, sizes=((3000, True),), nulls=0.01)
    queries = asked(30, seed=5)
    keep = table.price < np.float32(0.02)
    search = table.frame.filter("price < 0.02").search(queries, k=25, params={"ef_search": 1})
    found, metrics = hits(search), search.collect().metrics
    assert metrics.completed > 0
    assert len(found) == 30 * 25
    assert len(found) == len(table.truth(queries, 25, keep))


def test_answers_are_completed_in_every_segment():
    sizes = ((1500, True), (1500, True), (200, False))
    table = indexed_table(SMALL, GOOD, sizes=sizes, nulls=0.3)
    queries, keep = asked(30, seed=5), table.price < np.float32(0.03)
    search = table.frame.filter("price < 0.03").search(queries, k=60, params={"ef_search": 1})
    found, wanted = hits(search), table.truth(queries, 60, keep)
    assert len(found) == len(wanted)
    near = table.frame.filter("price < 0.03").search(
        queries, k=60, radius=4.5, params={"ef_search": 1}
    )
    assert len(hits(near)) > 0.97 * len(
        hits(table.frame.filter("price < 0.03").search(queries, k=60, radius=4.5, exact=True))
    )


def test_queries_that_have_all_there_is_are_not_completed():
    table = indexed_table(SMALL, GOOD, sizes=((400, True),), nulls=0.5)
    few = table.frame.filter("price < 0.1").search(asked(10), k=200, params={"ef_search": 500})
    metrics = few.collect().metrics
    assert metrics.strategies["HNSW ef_search=500"] == 1
    assert metrics.completed == 0
    assert len(hits(few)) == len(table.truth(asked(10), 200, table.price < np.float32(0.1)))


def test_a_radius_beside_k_thins_what_the_index_finds():
    table = indexed_table(SMALL, GOOD, sizes=((2000, True), (200, False)))
    queries = asked(30, seed=6)
    plain = table.frame.search(queries, k=8, params={"ef_search": 400})
    near = table.frame.search(queries, k=8, radius=3.2, params={"ef_search": 400})
    columns = plain.to_arrow().to_pydict()
    kept = [distance <= np.float32(3.2) for distance in columns["distance"]]
    assert 0 < sum(kept) < len(kept)
    assert hits(near) == [hit for hit, ok in zip(hits(plain), kept, strict=True) if ok]


def test_own_rows_are_left_out_of_what_an_index_finds():
    table = indexed_table(SMALL, GOOD, sizes=((2000, True), (200, False)))
    own = table.frame.sample(50, seed=1)
    options = {"k": 5, "exclude_self": True}
    found = table.frame.search(own, params={"ef_search": 400}, **options)
    columns = found.to_arrow().to_pydict()
    assert len(columns["id"]) == 250
    assert all(a != b for a, b in zip(columns["query_id"], columns["id"], strict=True))
    exact = table.frame.search(own, exact=True, **options).to_arrow().to_pydict()
    same = len({*zip(columns["query_id"], columns["id"], strict=True)}
               & {*zip(exact["query_id"], exact["id"], strict=True)})  # fmt: skip
    assert same > 0.97 * 250


def test_one_query_and_many_get_the_same_answers(table):
    queries = asked(12, seed=7)
    options = {"k": 6, "params": {"ef_search": 200}}
    whole = hits(table.frame.search(queries, **options))
    alone = [
        (number, rank, key)
        for number in range(12)
        for _, rank, key in hits(table.frame.search(queries[number], **options))
    ]
    assert alone == whole


def test_params_go_to_indexes_that_know_them_and_scans_fill_the_rest(table):
    search = table.frame.search(asked(10), params={"ef_search": 33})
    assert ways(search) == {"HNSW ef_search=33": 2, SCAN: 1}
    assert search.collect().metrics.recall is None
    known = table.frame.search(asked(10), params={"ef_search": 64}).collect().metrics
    assert known.recall == pytest.approx(0.96)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"params": {"n_probes": 4}}, "GV-318"),
        ({"params": {"ef_search": 0}}, "GV-318"),
        ({"params": {"ef_search": "many"}}, "GV-318"),
        ({"params": {"ef_search": 9}, "radius": 1.0}, "GV-372"),
        ({"params": {"ef_search": 9}, "metric": "ip"}, "GV-372"),
        ({"params": {"ef_search": 9}, "group_by": "price"}, "GV-372"),
        ({"params": {"ef_search": 9}, "k": None}, "GV-372"),
        ({"params": {"ef_search": 9}, "recall": 0.9}, "GV-350"),
    ],
)
def test_knobs_that_cannot_be_are_refused_when_the_query_is_built(table, options, code):
    with pytest.raises(QueryError) as caught:
        table.frame.search(asked(2), **options)
    assert caught.value.code == code


def test_knobs_for_rows_that_no_index_covers_are_refused(table):
    for frame in (table.frame.limit(100), table.frame.sort("price")):
        with pytest.raises(QueryError, match="GV-351"):
            frame.search(asked(2), params={"ef_search": 9})


def test_an_index_is_opened_once_and_only_when_it_is_used():
    table = indexed_table(SMALL, GOOD, sizes=((1500, True), (1500, True)))
    table.frame.search(asked(3), exact=True).collect()
    str(table.frame.search(asked(3)).explain())
    assert [index.opened for index in table.indexes] == [0, 0]
    for _ in range(3):
        table.frame.search(asked(3), recall=0.9).collect()
    assert [index.opened for index in table.indexes] == [1, 1]


def test_an_index_made_for_easier_queries_is_found_out_on_the_first_batch():
    boast = flat_curve([({"ef_search": 1}, 0.99), ({"ef_search": 400}, 0.995)])
    table = indexed_table(SMALL, boast, sizes=((3000, True),), clusters=1)
    queries = asked(300, seed=8)
    search = table.frame.search(queries, recall=0.95)
    found, metrics = hits(search), search.collect().metrics
    assert "HNSW ef_search=1" not in metrics.strategies
    assert shared(found, table.truth(queries, 10)) > 0.95
    assert metrics.recall > 0.95
    assert "real queries" in str(search.explain())


def test_real_queries_never_lower_a_setting_below_what_the_curve_allows(table):
    for seed in range(5):
        table.frame.search(asked(64, seed), recall=0.9965).collect()
    taken = table.frame.search(asked(64), recall=0.9965).collect().metrics.strategies
    assert BROAD not in taken
    assert not [name for name in taken if name.startswith("HNSW") and name != FINE]


def test_evaluate_measures_the_search_with_its_index_and_filter(table):
    search = table.frame.filter("price < 0.6").search(asked(200), params={"ef_search": 400})
    report = search.evaluate()
    wanted = table.truth(asked(200), 10, table.price < np.float32(0.6))
    assert report.recall == pytest.approx(shared(hits(search), wanted), abs=0.01)
    assert report.ci95[0] <= report.recall <= report.ci95[1]
    assert report.target is None


def test_evaluate_warns_when_the_recall_lies_below_the_target():
    boast = flat_curve([({"ef_search": 1}, 0.999)])
    table = indexed_table(SMALL, boast, sizes=((3000, True),), clusters=1)
    few = table.frame.search(asked(20, seed=9), k=10, recall=0.95)  # too few for a check
    with pytest.warns(RecallWarning, match="below the 0.95 wanted"):
        report = few.evaluate()
    assert report.falls_short
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table.frame.search(asked(20, seed=9), exact=True).evaluate()


def test_a_curve_without_the_selectivity_asked_for_means_an_exact_scan():
    whole = [point({"ef_search": 64}, 0.99), point(None, 1.0, low=1.0, seconds=1.0)]
    table = indexed_table(SMALL, RecallCurve(source="held-out rows", points=tuple(whole)))
    assert ways(table.frame.search(asked(4), recall=0.9)) == {BROAD: 1}
    assert ways(table.frame.filter("price < 0.5").search(asked(4), recall=0.9)) == {SCAN: 1}
