import time

import numpy as np
import pytest

from gpuvec.index import registry
from gpuvec.index.auto import held_out_rows
from gpuvec.index.base import Neighbors
from gpuvec.index.measure import measure_curve
from gpuvec.index.spec import HNSW
from gpuvec.index.trial_filters import SELECTIVITIES, trial_filters
from gpuvec.rows import DenseVectors
from gpuvec.types import Metric

SETTINGS = [{"share": share} for share in (0.2, 0.5, 0.8, 0.93, 0.97, 1.0)]


def vectors(count=4000, width=16, valid=None, seed=0):
    values = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return DenseVectors(values, valid)


class SampledIndex:
    """An index that looks at a random share of the rows: its recall is that share, whatever k."""

    spec = HNSW()
    metric = Metric.L2
    nbytes = 0
    last_stats = None

    def __init__(self, rows, held_out=None):
        self.num_rows = len(rows)
        self.asked = []
        self.most = 0
        self._exact = registry.exact(rows, "l2")
        self._luck = np.random.default_rng(9).random(len(rows))
        self._in = np.ones(len(rows), bool) if rows.valid is None else rows.valid.copy()
        if held_out is not None:
            self._in[held_out] = False

    def settings(self, k):
        return SETTINGS

    def search(self, queries, k, *, params=None, keep=None, **options):
        self.asked.append(len(queries))
        self.most = max(self.most, len(queries) * k)
        looked = self._in & (self._luck < (params or {"share": 1.0})["share"])
        found = self._exact.search(queries, k, keep=looked if keep is None else looked & keep)
        return Neighbors(found.rows, found.distances)


def measure(index, rows, held_out, **options):
    exact = registry.exact(rows, "l2")
    return measure_curve(index, exact, rows, Metric.L2, held_out=held_out, **options)


def test_recall_is_what_the_index_finds():
    rows = vectors()
    held_out = held_out_rows(rows)
    curve = measure(SampledIndex(rows, held_out), rows, held_out, ks=(10,))
    assert curve.source == "held-out rows"
    measured = [point for point in curve.points if point.params]
    assert measured
    for point in measured:
        share = point.params["share"]
        assert point.low <= point.recall <= point.high
        # A row that no query finds is missed by many: the spread is wider than that of queries.
        assert point.recall == pytest.approx(share, abs=0.3 if point.selectivity < 0.1 else 0.12)


def test_held_out_rows_are_no_ones_neighbours():
    rows = vectors()
    held_out = held_out_rows(rows)
    curve = measure(SampledIndex(rows, held_out), rows, held_out, ks=(10,))
    whole = [point for point in curve.points if point.params == {"share": 1.0}]
    assert {point.recall for point in whole} == {1.0}


def test_rows_that_an_index_knows_are_hidden_from_it():
    rows = vectors()
    held_out = held_out_rows(rows)
    curve = measure(SampledIndex(rows), rows, held_out, ks=(10,))
    whole = [point for point in curve.points if point.params == {"share": 1.0}]
    assert {point.recall for point in whole} == {1.0}


def test_null_rows_are_neither_asked_for_nor_found():
    rows = vectors(valid=np.arange(4000) % 3 > 0)
    rows.values[~rows.valid] = 0
    held_out = held_out_rows(rows)
    assert rows.valid[held_out].all()
    curve = measure(SampledIndex(rows, held_out), rows, held_out, ks=(5,))
    whole = [point for point in curve.points if point.params == {"share": 1.0}]
    assert {point.recall for point in whole} == {1.0}


def test_every_selectivity_that_leaves_rows_enough_is_measured_in_both_cases():
    rows = vectors(10_000)
    held_out = held_out_rows(rows)
    curve = measure(SampledIndex(rows, held_out), rows, held_out, ks=(10, 100))
    cells = {(point.k, point.selectivity, point.case) for point in curve.points}
    shares = {10: SELECTIVITIES[:-1], 100: (1.0, 0.9, 0.5, 0.1)}
    assert cells == {
        (k, share, case)
        for k in shares
        for share in shares[k]
        for case in (("all",) if share == 1.0 else ("random", "clustered"))
    }
    exact = [point for point in curve.points if point.params is None]
    assert len(exact) == len(cells)
    assert all(point.batch_s > 0 and point.single_s > 0 for point in curve.points)


def test_settings_beyond_one_that_finds_everything_are_not_tried():
    rows = vectors()
    held_out = held_out_rows(rows)
    index = SampledIndex(rows, held_out)
    index.settings = lambda k: [{"share": 1.0}, {"share": 1.0, "more": 1.0}]
    curve = measure(index, rows, held_out, ks=(10,))
    assert not any(point.params and "more" in point.params for point in curve.points)


def test_given_queries_are_asked_instead():
    rows = vectors()
    queries = vectors(300, seed=5).values
    curve = measure(SampledIndex(rows), rows, None, queries=queries, ks=(10,))
    assert curve.source == "given queries"
    assert max(point.queries for point in curve.points) == 300


def test_without_queries_there_is_nothing_to_measure():
    rows = vectors(5)
    assert measure(SampledIndex(rows), rows, held_out_rows(rows)).points == ()


def test_a_k_beyond_the_rows_costs_nothing():
    rows = vectors()
    held_out = held_out_rows(rows)
    index = SampledIndex(rows, held_out)
    curve = measure(index, rows, held_out, ks=(10**9, 10))
    assert {point.k for point in curve.points} == {10}
    assert index.most <= 10 * len(held_out)


def test_a_large_k_is_measured_on_fewer_queries():
    rows = vectors(40_000, 4)
    asked = rows.values[:1000] + np.float32(0.1)
    index = SampledIndex(rows)
    curve = measure(index, rows, None, queries=asked, ks=(10_000,), budget_s=0.1)
    assert max(point.queries for point in curve.points) < 200
    assert index.most <= 2**20


def test_time_that_is_up_ends_a_measurement():
    rows = vectors()
    held_out = held_out_rows(rows)
    assert measure(SampledIndex(rows, held_out), rows, held_out, budget_s=0.0).points == ()


def test_without_a_filter_time_keeps_no_setting_from_any_target():
    rows = vectors()
    asked = rows.values[:1000] + np.float32(0.1)
    options = {"queries": asked, "ks": (10,), "targets": (0.9, 0.99), "budget_s": 1e-3}
    curve = measure(SampledIndex(rows), rows, None, **options)
    assert [point.params for point in curve.points] == [None, *SETTINGS]
    assert curve.best(10, 0.9).queries == curve.best(10, 0.99).queries == 1000


class RareMisses(SampledIndex):
    """Finds everything for the first queries; of others it misses one row in twenty, but for one
    setting."""

    def settings(self, k):
        return [{"share": 0.999}, {"share": 1.0}]

    def search(self, queries, k, *, params=None, keep=None, **options):
        found = self._exact.search(queries, k, keep=keep)
        rows = found.rows.copy()
        if params and params["share"] < 1.0:
            rows[100::2, 0] = -1
        return Neighbors(rows, found.distances)


def test_what_finds_everything_for_a_few_queries_does_not_end_the_settings_tried():
    rows = vectors()
    asked = rows.values[:1000] + np.float32(0.1)
    options = {"queries": asked, "ks": (10,), "targets": (0.9, 0.99), "budget_s": 1e-3}
    curve = measure(RareMisses(rows), rows, None, **options)
    assert curve.best(10, 0.9).params == {"share": 0.999}
    assert curve.best(10, 0.99).params == {"share": 1.0}


class Blind(SampledIndex):
    """Finds nothing, at once."""

    def search(self, queries, k, **options):
        none = np.full((len(queries), k), np.inf, np.float32)
        return Neighbors(np.full(none.shape, -1), none)


class SlowWithFilters:
    """An exact scan that takes its time when there is a filter."""

    def __init__(self, exact):
        self._exact = exact

    def search(self, queries, k, *, keep=None, **options):
        time.sleep(0 if keep is None else 0.1)
        return self._exact.search(queries, k, keep=keep)


def test_a_filter_whose_exact_answers_are_known_gets_settings_tried_though_time_is_up():
    rows = vectors(2000)
    exact = SlowWithFilters(registry.exact(rows, "l2"))
    asked = rows.values[:200] + np.float32(0.1)
    curve = measure_curve(
        Blind(rows), exact, rows, Metric.L2, queries=asked, ks=(10,), budget_s=3.0
    )
    cells = [(point.selectivity, point.case) for point in curve.points if point.params]
    filtered = [cell for cell in cells if cell[0] < 1.0]
    assert filtered
    assert all(filtered.count(cell) > 1 for cell in filtered)


def test_progress_rises_to_one_and_may_end_the_work():
    rows = vectors(2000)
    held_out = held_out_rows(rows)
    told = []
    measure(SampledIndex(rows, held_out), rows, held_out, progress=told.append)
    assert told == sorted(told)
    assert told[-1] == 1.0

    def stop(share):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(SampledIndex(rows, held_out), rows, held_out, progress=stop)


def test_a_filter_that_follows_the_queries_shows_what_a_graph_misses():
    pytest.importorskip("faiss")
    rng = np.random.default_rng(0)
    centers = 4 * rng.normal(size=(100, 16))
    values = centers[rng.integers(0, 100, 4000)] + rng.normal(size=(4000, 16))
    rows = DenseVectors(values.astype(np.float32))
    held_out = held_out_rows(rows)
    index = registry.build(HNSW(m=8, ef_construction=20), rows, "l2", held_out=held_out)
    curve = measure(index, rows, held_out, ks=(10,))

    def recall(case, share):
        return {
            point.params["ef_search"]: point.recall
            for point in curve.points
            if point.params and (point.case, point.selectivity) == (case, share)
        }

    blind, following = recall("random", 0.1), recall("clustered", 0.1)
    few = min(blind.keys() & following.keys())
    assert following[few] < blind[few] < recall("all", 1.0)[few]


@pytest.mark.parametrize("metric", [Metric.L2, Metric.COSINE, Metric.IP])
def test_filters_leave_their_share_of_the_rows_that_can_be_found(metric):
    rows = vectors(2000)
    findable = np.arange(2000) % 5 > 0
    for case in trial_filters(rows, metric, findable, seed=3):
        keep = case.keep()
        assert not (keep & ~findable).any()
        assert keep.sum() == case.count == round(case.selectivity * findable.sum())


def test_filters_that_follow_the_queries_leave_rows_near_one_another():
    rows = vectors(2000)
    spread = {}
    for case in trial_filters(rows, Metric.L2, None, seed=3):
        if case.selectivity == 0.01:
            near = rows.values[case.keep()]
            gaps = np.linalg.norm(near[:, None] - near[None], axis=2)
            spread[case.name] = np.partition(gaps, 3, axis=1)[:, 3].mean()
    assert spread["clustered"] < 0.9 * spread["random"]
