import threading

import numpy as np
import pytest

from gpuvec.index.base import Neighbors
from gpuvec.index.curve import CurvePoint, RecallCurve, recalls
from gpuvec.index.spec import HNSW
from gpuvec.query.calibrate import BATCH, SHARE, Calibrator
from gpuvec.query.kinds import KINDS, LEAST, MOST, STEP, Checks
from gpuvec.query.strategy import Ask, IndexInfo

ROWS, K = 100_000, 10
MISSES = {16: 0.08, 32: 0.04, 64: 0.02, 128: 0.01, 256: 0.002}  # by the curve, of easy queries
CHEAPEST = {"ef_search": 30}  # for recall 0.95 by the curve
SCAN_S = 5e-3


def info(target=0.95):
    points = [
        CurvePoint(
            params=None if ef is None else {"ef_search": ef},
            k=K,
            selectivity=share,
            case="all",
            recall=1 - miss,
            low=1 - miss - 0.003,
            high=1.0,
            queries=1000,
            batch_s=seconds / 10,
            single_s=seconds,
        )
        for share in (1.0, 0.1)
        for ef, miss, seconds in (
            (None, 0.0, SCAN_S),
            *((ef, miss, ef * 4e-6) for ef, miss in MISSES.items()),
        )
    ]
    return IndexInfo(spec=HNSW(), target=target, curve=RecallCurve(source="", points=tuple(points)))


def misses(params):
    """Return the share that easy queries miss: between two settings less than on a line."""
    return float(
        np.exp(np.interp(params["ef_search"], list(MISSES), np.log(list(MISSES.values()))))
    )


class World:
    """Queries whose true neighbours are 0 to 9, and an index that loses some of these.

    A query is a number, from which what it loses follows; `harder` times as much as by the curve.
    Its rows lie about as far as it is large, and it is as large as `far`. `harder_far` is for those
    of 100 and more.
    """

    def __init__(self, harder=1.0, harder_far=1.0):
        self.harder = harder
        self.harder_far = harder_far
        self.scanned = 0
        self.probed = 0

    def queries(self, count, seed=0, far=0.0):
        return (far + np.random.default_rng(seed).normal(size=(count, 1))).astype(np.float32)

    def exact(self, queries, k):
        self.scanned += len(queries)
        return self._all(queries, k)

    def approximate(self, queries, k, params):
        self.probed += len(queries)
        found = self._all(queries, k)
        for number, query in enumerate(queries):
            rng = np.random.default_rng(abs(int(query[0] * 1e6)))
            harder = self.harder_far if query[0] > 50 else self.harder
            lost = rng.random(k) < harder * misses(params)
            found.rows[number, lost], found.distances[number, lost] = ROWS - 1, abs(query[0]) + 2.0
        return Neighbors(found.rows, np.sort(found.distances, axis=1))

    def _all(self, queries, k):
        rows = np.tile(np.arange(k, dtype=np.int64), (len(queries), 1))
        return Neighbors(rows, (np.abs(queries) + rows / k).astype(np.float32))

    def recall(self, queries, way):
        if way.kind == "exact":
            return 1.0
        found = self.approximate(queries, K, way.params)
        return float(recalls(found, self._all(queries, K)).mean())

    def settle(self, calibrator, queries, **changes):
        asked = {"rows": ROWS, "passing": ROWS, "queries": len(queries), "k": K, **changes}
        return calibrator.settle(Ask(**asked), queries, self.approximate, self.exact)

    def answer(self, calibrator, queries, **changes):
        """Return the way that a search takes in the end."""
        way = self.settle(calibrator, queries, **changes)
        if way.params is None:
            return way
        found = self.approximate(queries, K, way.params)
        ask = Ask(**{"rows": ROWS, "passing": ROWS, "queries": len(queries), "k": K, **changes})
        return calibrator.review(ask, way, queries, found, self.approximate, self.exact)


def test_queries_as_easy_as_rows_keep_the_measured_setting():
    world, calibrator = World(), Calibrator(info())
    way = world.settle(calibrator, world.queries(1000))
    assert way.params == CHEAPEST
    assert 0 < world.scanned <= MOST


@pytest.mark.parametrize("harder", [2.0, 4.0])
@pytest.mark.parametrize("target", [0.9, 0.95, 0.99])
def test_the_first_batch_of_harder_queries_reaches_the_target_too(harder, target):
    reached = []
    for seed in range(20):
        world, calibrator = World(harder), Calibrator(info())
        queries = world.queries(1000, seed)
        way = world.settle(calibrator, queries, target=target)
        reached.append(world.recall(queries, way))
        assert world.scanned - world.probed <= MOST
    assert np.mean(np.array(reached) >= target - 0.002) >= 0.9
    assert min(reached) >= target - 0.012


def test_what_no_setting_reaches_any_more_is_scanned():
    world, calibrator = World(harder=8.0), Calibrator(info())
    way = world.settle(calibrator, world.queries(1000), target=0.99)
    assert way.kind == "exact"
    assert "real queries" in way.reason


def test_nothing_cheaper_than_the_curve_allows_is_ever_taken():
    world, calibrator = World(harder=0.0), Calibrator(info())
    for seed in range(5):
        assert world.settle(calibrator, world.queries(500, seed)).params == CHEAPEST


def test_recent_queries_decide():
    world, calibrator = World(harder=0.2), Calibrator(info())
    for seed in range(300):
        way = world.settle(calibrator, world.queries(1000, seed))
    assert way.params == CHEAPEST
    world.harder = 4.0
    for seed in range(300):
        way = world.settle(calibrator, world.queries(1000, seed))
    assert 0.945 <= 1 - 4.0 * misses(way.params) <= 0.97


def test_the_same_calls_lead_to_the_same_ways():
    def ways():
        world, calibrator = World(harder=2.2), Calibrator(info())
        sizes = np.random.default_rng(3).integers(1, 400, 60)
        return [world.settle(calibrator, world.queries(n, n)) for n in sizes]

    assert ways() == ways()


def test_later_checks_take_a_small_share_of_the_time():
    world, calibrator = World(), Calibrator(info())
    searched = 0.0
    for seed in range(400):
        way = world.settle(calibrator, world.queries(1000, seed))
        searched += way.seconds
    scanned = world.scanned * SCAN_S / 10
    assert world.scanned > 2 * STEP
    assert scanned <= 0.06 * searched + MOST * SCAN_S


def test_single_queries_are_checked_now_and_then_and_raise_the_setting():
    world, calibrator = World(harder=3.0), Calibrator(info())
    ways = [world.settle(calibrator, world.queries(1, seed)) for seed in range(4000)]
    assert ways[0].params == CHEAPEST
    assert 0.945 <= 1 - 3.0 * misses(ways[-1].params) <= 0.985
    searched = sum(way.seconds for way in ways)
    assert world.scanned * SCAN_S <= 0.25 * searched + 2 * LEAST * SCAN_S


def test_a_first_single_query_is_not_scanned():
    world, calibrator = World(), Calibrator(info())
    for seed in range(5):
        world.settle(calibrator, world.queries(1, seed))
    assert world.scanned == 0


def test_small_batches_are_checked_like_single_queries():
    world, calibrator = World(), Calibrator(info())
    world.settle(calibrator, world.queries(BATCH - 1))
    assert world.scanned <= 2


def test_what_was_checked_for_one_target_counts_for_others():
    world, calibrator = World(), Calibrator(info())
    queries = world.queries(1000)
    world.settle(calibrator, queries)
    before = world.scanned
    way = world.settle(calibrator, queries, target=0.93)
    assert way.params["ef_search"] < CHEAPEST["ef_search"]
    assert calibrator.live(way).count >= STEP
    assert world.scanned == before


def test_each_selectivity_is_checked_for_itself():
    world, calibrator = World(), Calibrator(info())
    queries = world.queries(1000)
    for changes in ({}, {"target": 0.99}, {"passing": ROWS // 2}, {"passing": ROWS // 10}):
        before = world.scanned
        world.settle(calibrator, queries, **changes)
        assert world.scanned > before
        before = world.scanned
        world.settle(calibrator, queries, **changes)
        assert world.scanned <= before + STEP


def test_exact_searches_and_given_params_are_never_checked():
    world, calibrator = World(), Calibrator(info())
    world.settle(calibrator, world.queries(1000), exact=True)
    way = world.settle(calibrator, world.queries(1000), params={"ef_search": 16})
    assert way.params == {"ef_search": 16}
    assert (world.scanned, world.probed) == (0, 0)


def test_what_was_seen_can_be_asked_for():
    world, calibrator = World(), Calibrator(info())
    queries = world.queries(1000)
    way = calibrator.choose(Ask(rows=ROWS, passing=ROWS, queries=1000, k=K))
    assert calibrator.live(way) is None
    way = world.settle(calibrator, queries)
    live = calibrator.live(way)
    assert live.count >= STEP
    assert live.mean == pytest.approx(1 - MISSES[32], abs=0.03)


def test_several_threads_settle_at_once():
    world, calibrator = World(harder=2.0), Calibrator(info())
    failures = []

    def work(first):
        try:
            for seed in range(first, first + 30):
                queries = world.queries(1 + seed * 7 % 200, seed)
                way = world.settle(calibrator, queries, target=(0.9, 0.95)[seed % 2])
                assert way.low >= (0.9, 0.95)[seed % 2]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize("target", [0.9, 0.95])
def test_a_batch_unlike_those_before_is_checked_before_it_is_answered(target):
    world, calibrator = World(harder_far=4.0), Calibrator(info())
    for seed in range(10):
        world.answer(calibrator, world.queries(1000, seed), target=target)
    for seed in range(10):
        queries = world.queries(200, seed, far=100.0)
        way = world.answer(calibrator, queries, target=target)
        assert world.recall(queries, way) >= target - 0.012


def test_what_is_said_of_a_way_comes_from_queries_like_the_last_ones():
    world, calibrator = World(harder_far=1.8), Calibrator(info())
    way = world.answer(calibrator, world.queries(1000))
    assert calibrator.live(way).mean == pytest.approx(1 - MISSES[32], abs=0.02)
    calibrator.review(
        Ask(rows=ROWS, passing=ROWS, queries=8, k=K),
        way,
        world.queries(BATCH, far=100.0),
        world.approximate(world.queries(BATCH, far=100.0), K, way.params),
        world.approximate,
        world.exact,
    )
    assert calibrator.live(way) is None


def test_kinds_that_take_turns_are_checked_once_each():
    world, calibrator = World(harder=0.5, harder_far=0.5), Calibrator(info())
    for seed in range(40):
        world.answer(calibrator, world.queries(200, seed, far=100.0 * (seed % 2)))
    assert world.scanned <= 4 * MOST


def test_kinds_without_end_are_not_checked_without_end():
    world, calibrator = World(harder=0.5, harder_far=0.5), Calibrator(info())
    for seed in range(5 * KINDS):
        world.answer(calibrator, world.queries(200, seed, far=100.0 * seed))
    assert world.scanned <= (KINDS + 4) * MOST


def test_single_queries_unlike_those_before_are_checked_anew():
    world, calibrator = World(harder_far=6.0), Calibrator(info())
    for seed in range(1000):
        world.answer(calibrator, world.queries(1, seed))
    for seed in range(2500):
        way = world.answer(calibrator, world.queries(1, seed, far=100.0))
    assert way.params is None or way.params["ef_search"] >= 128


def settings(world, calibrator, batches, size, seed=0):
    ways = [world.settle(calibrator, world.queries(size, seed + n)) for n in range(batches)]
    return np.array([way.params["ef_search"] for way in ways]), sum(way.seconds for way in ways)


def test_the_more_queries_were_checked_the_nearer_to_the_target_a_setting_comes():
    early, late = [], []
    for seed in range(5):
        world, calibrator = World(harder=2.0), Calibrator(info())
        taken, _ = settings(world, calibrator, 2500, 100, 10_000 * seed)
        early.append(taken[:50].mean())
        late.append(taken[-50:].mean())
    assert np.mean(late) < np.mean(early)
    recalls_late = [1 - 2.0 * misses({"ef_search": ef}) for ef in late]
    assert min(recalls_late) >= 0.949
    assert max(recalls_late) <= 0.965


def test_checks_take_a_twentieth_of_the_time_at_first_and_half_of_that_later():
    world, calibrator = World(harder=2.0), Calibrator(info())
    shares = []
    for part in range(3):
        before = world.scanned
        _, searched = settings(world, calibrator, 2000, 100, 10_000 * part)
        shares.append((world.scanned - before) * SCAN_S / 10 / searched)
    assert shares[0] <= SHARE + 0.02
    assert max(shares[1:]) <= SHARE / 2


def test_recalls_that_change_are_believed_at_once_and_others_forgotten():
    checks, rng = Checks(expected=0.99), np.random.default_rng(0)
    for _ in range(20):
        checks.add(1 - 0.1 * rng.binomial(10, 0.01, 64))
    assert checks.live.count == 20 * 64
    assert checks.live.mean == pytest.approx(0.99, abs=0.003)
    for _ in range(2):
        checks.add(1 - 0.1 * rng.binomial(10, 0.08, 32))
    assert checks.live.count == 64
    assert checks.live.mean == pytest.approx(0.92, abs=0.02)


def test_a_few_perfect_answers_do_not_prove_a_perfect_setting():
    checks = Checks(expected=0.99)
    checks.add(np.ones(STEP))
    assert checks.live.mean == 1.0
    assert checks.live.falls_short(0.999)
    assert not checks.live.falls_short(0.99)


def test_an_index_that_failed_serves_again_once_scans_show_that_it_would_do():
    world, calibrator = World(harder=8.0), Calibrator(info())
    assert world.settle(calibrator, world.queries(1000), target=0.99).kind == "exact"
    world.harder = 1.0
    for seed in range(200):
        queries = world.queries(1000, seed)
        way = world.settle(calibrator, queries, target=0.99)
        if way.kind == "index":
            break
        ask = Ask(rows=ROWS, passing=ROWS, queries=1000, k=K, target=0.99)
        calibrator.learn(ask, way, queries, world.exact(queries, K), world.approximate)
    assert way.kind == "index"
    assert world.recall(queries, way) >= 0.99
