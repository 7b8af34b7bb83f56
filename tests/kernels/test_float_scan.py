import ml_dtypes
import numpy as np
import pytest

from gpuvec.kernels import float_scan
from gpuvec.kernels.float_scan import float_scan_range, float_scan_topk
from gpuvec.kernels.pairwise import pairwise_distances
from gpuvec.testing.indexes import exact_answer
from gpuvec.types import Metric

DENSE = [Metric.COSINE, Metric.L2, Metric.SQEUCLIDEAN, Metric.IP]
RNG_SEED = 11


def near_copies(count, width):
    """Rows that float32 sums cannot tell apart, but float64 sums can."""
    rng = np.random.default_rng(RNG_SEED)
    base = rng.normal(size=width)
    rows = base + rng.normal(scale=3e-7, size=(count, width)) * np.abs(base)
    return rows.astype(np.float32)


def spread_norms(count, width):
    rng = np.random.default_rng(RNG_SEED)
    rows = rng.normal(size=(count, width)) * 10.0 ** rng.integers(-24, 22, (count, 1))
    return rows.astype(np.float32)


def ties(count, width):
    rng = np.random.default_rng(RNG_SEED)
    return rng.integers(-1, 2, (count, width)).astype(np.float32)


def one_loud_column(count, width):
    rng = np.random.default_rng(RNG_SEED)
    rows = rng.normal(size=(count, width))
    rows[:, 0] *= 1e6
    return rows.astype(np.float32)


def tiny(count, width):
    return (ties(count, width) * 1e-42).astype(np.float32)  # below the smallest normal number


def zeros(count, width):
    rows = ties(count, width)
    rows[::2] = 0
    return rows


SETS = [near_copies, spread_norms, ties, one_loud_column, tiny, zeros]


def agree(rows, queries, k, metric, **options):
    distances = pairwise_distances(queries, rows, metric)
    wanted = exact_answer(distances, k, **options)
    listed = None if "keep" not in options else np.flatnonzero(options.pop("keep"))
    found, _ = float_scan_topk(rows, queries, k, metric, listed=listed, **options)
    return np.array_equal(found.rows, wanted.rows) and np.array_equal(
        found.distances, wanted.distances
    )


@pytest.mark.parametrize("metric", DENSE)
@pytest.mark.parametrize("make", SETS)
@pytest.mark.parametrize("width", [1, 31, 100])
def test_adversarial_rows_are_searched_exactly(metric, make, width):
    rows = make(900, width)
    queries = np.concatenate([rows[5:7], rows[:1] * 3, rows[:1] * 0])
    rank = np.random.default_rng(0).permutation(900)
    for k in (1, 20, 900):
        assert agree(rows, queries, k, metric)
        assert agree(rows, queries, k, metric, keep=np.arange(900) % 2 > 0, tie_rank=rank)


def test_without_the_error_bound_near_copies_come_out_wrong(monkeypatch):
    rows = near_copies(3000, 384)
    queries = rows[:20] * np.float32(1.7)
    assert agree(rows, queries, 10, Metric.COSINE)
    assert agree(rows, queries, 10, Metric.IP)
    monkeypatch.setattr(float_scan, "float_slack", lambda dim: 0.0)
    assert not agree(rows, queries, 10, Metric.COSINE)
    assert not agree(rows, queries, 10, Metric.IP)


@pytest.mark.parametrize("metric", DENSE)
def test_sums_stay_within_their_bound(metric, monkeypatch):
    """Half the bound already holds on data made to round badly, so the bound has room."""
    rows = one_loud_column(2000, 333)
    queries = rows[:5]
    whole = float_scan.float_slack
    monkeypatch.setattr(float_scan, "float_slack", lambda dim: whole(dim) / 2)
    assert agree(rows, queries, 50, metric)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int8, np.uint8])
@pytest.mark.parametrize("metric", DENSE)
def test_narrow_rows_are_searched_exactly(metric, dtype):
    rng = np.random.default_rng(RNG_SEED)
    rows = np.abs(rng.normal(scale=9, size=(800, 70))).astype(dtype)
    assert agree(rows, rng.normal(size=(3, 70)).astype(np.float32), 30, metric)


def test_candidates_that_all_tie_are_all_kept():
    rows = np.ones((20_000, 3), np.float32)
    rank = np.random.default_rng(0).permutation(20_000)
    found, measured = float_scan_topk(rows, rows[:1], 5, Metric.L2, tie_rank=rank)
    np.testing.assert_array_equal(found.rows[0], np.argsort(rank)[:5])
    assert measured == 20_000


@pytest.mark.parametrize("metric", DENSE)
def test_a_range_that_ends_on_a_row_holds_it(metric):
    rows = near_copies(500, 64)
    queries = rows[:3]
    distances = pairwise_distances(queries, rows, metric)
    low, high = np.sort(distances, axis=1)[:, [100, 300]].T.copy()
    found = float_scan_range(rows, queries, low, high, metric)
    wanted = (distances > low[:, None]) & (distances <= high[:, None])
    np.testing.assert_array_equal(found.counts, wanted.sum(axis=1))


def test_few_of_many_rows_are_measured_again():
    rng = np.random.default_rng(RNG_SEED)
    rows = rng.normal(size=(20_000, 96)).astype(np.float32)
    _, measured = float_scan_topk(rows, rows[:4], 10, Metric.COSINE, threads=1)
    assert measured <= 4 * 15
