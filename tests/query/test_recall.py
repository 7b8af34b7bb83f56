"""Recall is measured against an independent answer, and a wrong answer lowers it."""

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.index.curve import interval
from gpuvec.kernels.neighbors import Neighbors
from gpuvec.query.recall import measure
from gpuvec.query.search import Searcher
from tests.query.tables import make_queries, make_table

METRICS = [("sqeuclidean", "float32"), ("cosine", "float16"), ("hamming", "bits"), ("ip", "sparse")]


@pytest.mark.parametrize(("metric", "dtype"), METRICS)
@pytest.mark.parametrize(
    "options",
    [
        {"k": 5},
        {"radius": 3.0},
        {"k": 3, "radius": 4.0},
        {"k": 2, "group_by": "brand", "group_size": 2},
    ],
)
def test_exact_search_has_recall_one(metric, dtype, options):
    table = make_table(1, metric=metric, dtype=dtype)
    report = (
        table.frame.filter("price < 0.7")
        .search(make_queries(2, 40, metric, dtype), **options)
        .evaluate()
    )
    assert report.recall == 1.0
    assert report.worst == 1.0
    assert report.ci95[0] > 0.9
    assert report.ci95[1] == pytest.approx(1.0)
    assert report.queries_per_second > 0
    assert report.per_query.count() == 40


def test_own_rows_do_not_count():
    table = make_table(3)
    report = table.frame.search(table.frame, k=4, exclude_self=True).evaluate(sample=50, seed=1)
    assert report.recall == 1.0
    assert report.per_query.count() == 50


def test_missing_neighbours_lower_the_recall(monkeypatch):
    table = make_table(4)
    whole = Searcher.top

    def forgetful(self, queries, k, *rest):
        best = whole(self, queries, k + 2, *rest)
        return type(best)(best.part[:, 2:], best.row[:, 2:], best.distance[:, 2:])

    monkeypatch.setattr(Searcher, "top", forgetful)
    rng = np.random.default_rng(0)
    queries = rng.standard_normal((30, 8)).astype(np.float32)
    report = table.frame.search(queries, k=10).evaluate()
    assert report.recall < 0.9
    assert report.ci95[0] < report.recall < report.ci95[1]


def test_a_row_tied_with_the_last_counts():
    table = make_table(5, rows=400)
    search = table.frame.search(make_queries(6, 20), k=7)
    swapped = measure(search.plan, search._session, 100, 0)
    assert swapped.recall == 1.0


def test_intervals_hold_the_mean_and_shrink_with_the_sample():
    rng = np.random.default_rng(0)
    few, many = rng.random(20), rng.random(2000)
    for values in (few, many, np.ones(50), np.zeros(3)):
        low, high = interval(values)
        assert 0 <= low <= values.mean() <= high <= 1
    assert np.ptp(interval(many)) < np.ptp(interval(few))
    assert interval(np.ones(1000))[0] > 0.99
    assert interval(np.empty(0)) == (0.0, 1.0)


def test_the_report_can_be_drawn():
    plt = pytest.importorskip("matplotlib")
    plt.use("Agg")
    report = make_table(1).frame.search(make_queries(2, 10), k=3).evaluate()
    assert report.plot().get_xlabel() == "recall"
    assert "recall=1.0000" in repr(report)


def test_padding_is_no_neighbour():
    assert Neighbors.empty(2, 3).rows.max() == -1


def test_a_row_s_older_versions_are_not_taken_for_itself(tmp_path):
    vectors = np.random.default_rng(3).standard_normal((60, 8)).astype(np.float32)
    with gv.connect(tmp_path) as db:
        data = {"id": np.arange(60), "price": np.zeros(60), "embedding": vectors}
        items = db.create_collection("items", data=data, primary_key="id")
        items.update({"price": gv.col("price") + 1}, filter="id < 30")
        items.flush()
        assert items.search(items, k=4, exclude_self=True).evaluate().recall == 1.0
