import json

import numpy as np
import pytest

from gpuvec.index.base import Neighbors
from gpuvec.index.curve import CurvePoint, RecallCurve, interval, recalls


def point(recall, *, effort=1.0, k=10, share=1.0, case=None, batch_s=1e-5, single_s=1e-4, n=1000):
    return CurvePoint(
        params=None if effort is None else {"effort": effort},
        k=k,
        selectivity=share,
        case=case or ("all" if share == 1.0 else "random"),
        recall=recall,
        low=recall - 0.01,
        high=min(1.0, recall + 0.01),
        queries=n,
        batch_s=batch_s,
        single_s=single_s,
    )


def curve(*points):
    return RecallCurve(source="held-out rows", points=points)


def lows(cell):
    return {s.params["effort"]: pytest.approx(s.low) for s in cell.settings}


@pytest.mark.parametrize("spread", [0.0, 0.2])
@pytest.mark.parametrize("mean", [0.5, 0.9, 0.97])
@pytest.mark.parametrize("count", [60, 400])
def test_the_interval_holds_the_mean_as_often_as_it_says(mean, spread, count):
    """With spread 0 a query finds all or nothing; else queries are hard or easy."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        if spread:
            easy = rng.beta(mean / spread, (1 - mean) / spread, count)
            values = rng.binomial(10, easy) / 10
        else:
            values = (rng.random(count) < mean).astype(float)
        low, high = interval(values)
        assert 0 <= low <= values.mean() <= high <= 1
        held += low <= mean <= high
    assert held >= 0.9 * 400


def test_the_interval_of_nothing_is_everything():
    assert interval(np.empty(0)) == (0.0, 1.0)


def test_the_interval_of_equal_values_is_not_a_point():
    low, high = interval(np.ones(100))
    assert 0.9 < low < 0.99
    assert high == 1.0


def neighbors(rows, distances):
    return Neighbors(np.array(rows, np.int64), np.array(distances, np.float32))


def test_a_row_tied_with_the_last_true_one_counts():
    truth = neighbors([[1, 2]], [[0.1, 0.2]])
    assert recalls(neighbors([[1, 9]], [[0.1, 0.2]]), truth)[0] == 1.0
    assert recalls(neighbors([[1, 9]], [[0.1, 0.3]]), truth)[0] == 0.5


def test_gaps_are_misses_and_what_is_not_there_is_not_missed():
    truth = neighbors([[1, 2], [3, -1], [-1, -1]], [[0.1, 0.2], [0.1, np.inf], [np.inf, np.inf]])
    found = neighbors([[1, -1], [3, -1], [-1, -1]], [[0.1, np.inf], [0.1, np.inf], [np.inf] * 2])
    np.testing.assert_array_equal(recalls(found, truth), [0.5, 1.0, 1.0])


def test_a_curve_goes_through_json():
    given = curve(point(0.9), point(1.0, effort=None, share=0.1, case="clustered"))
    assert RecallCurve.from_json(json.loads(json.dumps(given.to_json()))) == given


def test_k_is_held_to_the_next_larger_one_measured():
    found = curve(point(0.99, k=10), point(0.9, k=100))
    assert [found.measured_k(k) for k in (1, 10, 11, 12, 100, 110, 111)] == [
        10, 10, 10, 100, 100, 100, None,
    ]  # fmt: skip
    assert found.at(12, 1.0).settings[0].recall == 0.9
    assert found.at(111, 1.0) is None


def test_selectivity_is_held_to_those_measured_on_both_sides():
    found = curve(point(0.8, share=1.0), point(0.99, share=0.5), point(0.95, share=0.1))
    assert lows(found.at(10, 1.0)) == {1.0: 0.79}
    assert lows(found.at(10, 0.7)) == {1.0: 0.79}
    assert lows(found.at(10, 0.3)) == {1.0: 0.94}
    assert lows(found.at(10, 0.1)) == {1.0: 0.94}


def test_where_nearly_all_rows_pass_recall_lies_on_a_line():
    found = curve(point(0.99, share=1.0), point(0.91, share=0.9), point(0.8, share=0.5))
    assert lows(found.at(10, 0.999)) == {1.0: 0.98 - 0.08 * 0.01}
    assert lows(found.at(10, 0.95)) == {1.0: 0.94}
    assert lows(found.at(10, 0.9)) == {1.0: 0.90}
    assert lows(found.at(10, 0.89)) == {1.0: 0.79}


def test_below_the_smallest_selectivity_nothing_is_promised():
    assert curve(point(1.0), point(1.0, share=0.01)).at(10, 0.009) is None


def test_a_setting_is_held_to_the_worst_case():
    found = curve(point(0.99, share=0.1), point(0.7, share=0.1, case="clustered", batch_s=5e-5)).at(
        10, 0.1
    )
    assert lows(found) == {1.0: 0.69}
    assert found.settings[0].batch_s == 5e-5


def test_a_setting_counts_only_where_every_case_was_measured():
    found = curve(
        point(0.9, effort=0.1, share=0.1),
        point(0.8, effort=0.1, share=0.1, case="clustered"),
        point(0.99, effort=0.9, share=0.1),
        point(0.9, effort=0.1),
        point(0.99, effort=0.5),
    )
    assert lows(found.at(10, 0.1)) == {0.1: 0.79}
    assert lows(found.at(10, 0.4)) == {0.1: 0.79}


def test_times_lie_between_those_of_the_measured_selectivities():
    found = curve(point(1.0, effort=None, share=1.0, batch_s=10.0),
                  point(1.0, effort=None, share=0.5, batch_s=6.0))  # fmt: skip
    assert found.at(10, 0.75).exact.batch_s == pytest.approx(8.0)
    assert found.at(10, 0.5).exact.batch_s == pytest.approx(6.0)


def test_expected_seconds_rise_from_one_query_to_the_measured_batch():
    one = point(0.9, batch_s=1e-5, single_s=1e-3, n=1000)
    taken = [one.seconds(n) for n in (0, 1, 2, 10, 100, 1000, 5000)]
    assert taken == sorted(taken)
    assert (taken[0], taken[1]) == (0.0, 1e-3)
    assert taken[5:] == pytest.approx([1e-2, 5e-2])


def test_the_best_setting_is_the_cheapest_whose_lower_end_reaches():
    found = curve(
        point(0.955, effort=0.1, batch_s=1e-6),
        point(0.965, effort=0.2, batch_s=2e-6),
        point(0.975, effort=0.3, batch_s=3e-6, single_s=1e-3),
    )
    assert found.best(10, 0.95).params == {"effort": 0.2}
    assert found.best(10, 0.96, queries=1).params == {"effort": 0.3}
    assert found.best(10, 0.99) is None
    assert found.best(1000, 0.5) is None


def test_a_setting_takes_no_longer_than_a_more_thorough_one():
    found = curve(
        point(0.9, effort=0.1, batch_s=5.0, single_s=1.0),
        point(0.95, effort=0.2, batch_s=2.0, single_s=3.0),
        point(0.99, effort=0.3, batch_s=4.0, single_s=2.0),
    ).at(10, 1.0)
    assert [s.batch_s for s in found.settings] == [2.0, 2.0, 4.0]
    assert [s.single_s for s in found.settings] == [1.0, 2.0, 2.0]
