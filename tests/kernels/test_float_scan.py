import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from gpuvec.kernels import float_scan, plain_scan
from gpuvec.kernels.float_scan import compiled_scan_topk, float_scan_range, float_scan_topk
from gpuvec.kernels.loading import is_loaded, load_beside, note_loaded
from gpuvec.kernels.pairwise import paired_distances, paired_in_numpy, pairwise_distances
from gpuvec.testing.indexes import exact_answer
from gpuvec.types import Metric

DENSE = [Metric.COSINE, Metric.L2, Metric.SQEUCLIDEAN, Metric.IP]
RNG_SEED = 11


@pytest.fixture(autouse=True)
def compiled():
    """Compiled code answers, unless a test asks for NumPy by name."""
    note_loaded("float scan of float32")


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


# The first answers of a process, which no compiled code has a part in, are the same answers


def both(rows, queries, k, metric, *, listed=None, tie_rank=None, bound=None, threads=1):
    options = {"listed": listed, "tie_rank": tie_rank, "bound": bound, "threads": threads}
    plain, _ = plain_scan.plain_scan_topk(rows, queries, k, metric, **options)
    compiled, _ = compiled_scan_topk(rows, queries, k, metric, **options)
    np.testing.assert_array_equal(plain.rows, compiled.rows)
    np.testing.assert_array_equal(plain.distances, compiled.distances)
    return plain


@pytest.mark.parametrize("metric", DENSE)
@pytest.mark.parametrize("make", SETS)
@pytest.mark.parametrize("width", [1, 31, 100])
def test_numpy_and_compiled_code_find_the_same(metric, make, width, monkeypatch):
    monkeypatch.setattr(plain_scan, "_BLOCK_VALUES", 1 << 12)
    rows = make(900, width)
    rng = np.random.default_rng(0)
    queries = np.concatenate([rows[5:7], rows[:1] * 3, rng.normal(size=(3, width))])
    queries = queries.astype(np.float32)
    rank = rng.permutation(900)
    odd = np.flatnonzero(np.arange(900) % 2)
    for query in queries:
        one = query[None]
        if not plain_scan.serves(rows, one):
            continue
        for k in (1, 20, 900):
            both(rows, one, k, metric)
            found = both(rows, one, k, metric, listed=odd, tie_rank=rank)
            bound = found.distances[:, k // 2]
            both(rows, one, k, metric, bound=bound)


def test_threads_change_nothing():
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(50_000, 64)).astype(np.float32)  # three parts
    for metric in DENSE:
        alone = both(rows, rows[:2] + 1, 10, metric, threads=1)
        together = both(rows, rows[:2] + 1, 10, metric, threads=3)
        np.testing.assert_array_equal(alone.rows, together.rows)
        np.testing.assert_array_equal(alone.distances, together.distances)


@pytest.mark.parametrize("metric", DENSE)
def test_few_pairs_measured_in_numpy_have_the_same_bits(metric):
    rows = near_copies(300, 77)
    queries = rows[::-1] * np.float32(1.3)
    pairs = np.random.default_rng(2).integers(0, 300, (2, 500))
    np.testing.assert_array_equal(
        paired_in_numpy(queries, rows, *pairs, metric),
        paired_distances(queries, rows, *pairs, metric),
    )


def test_queries_that_float32_may_lose_are_left_to_compiled_code():
    rows = np.ones((4, 3), np.float32)
    for size in (0.0, 1e-20, 1e20):
        assert not plain_scan.serves(rows, np.full((1, 3), size, np.float32))
    assert plain_scan.serves(rows, rows[:1])
    assert not plain_scan.serves(rows.astype(np.float16), rows[:1])


FIRST_ANSWER = """
import os, sys
import numpy as np
from gpuvec.index.flat import FlatIndex
from gpuvec.kernels import loading
begun = []
loading.load_beside.__globals__["threading"].Thread.start = lambda thread: begun.append(thread)
rows = np.eye(5, dtype=np.float32)
found = FlatIndex(rows, "l2").search(rows[2:3], 1)
assert found.rows[0, 0] == 2 and begun
assert "numba" not in sys.modules
"""


def test_a_first_answer_needs_no_compiler():
    subprocess.run([sys.executable, "-c", FIRST_ANSWER], check=True, timeout=60)


FORK = """
import os, time
import numpy as np
from gpuvec.index.flat import FlatIndex
rows = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float32)
wanted = FlatIndex(rows, "l2").search(rows[:1], 3).rows      # begins to load
for wait in (0.0, 0.05, 0.3):
    time.sleep(wait)
    child = os.fork()
    if child == 0:
        found = FlatIndex(rows, "l2").search(rows[:1], 3).rows
        many = FlatIndex(rows, "l2").search(rows[:9], 3).rows
        os._exit(0 if (found == wanted).all() and (many[:1] == wanted).all() else 1)
    assert os.waitpid(child, 0)[1] == 0
"""


def test_a_process_may_fork_and_end_while_bodies_load():
    subprocess.run([sys.executable, "-c", FORK], check=True, timeout=240)


def test_steps_are_done_once_and_in_order():
    done = []

    def steps():
        for number in range(3):
            done.append(number)
            yield

    for _ in range(2):
        load_beside("steps of a test", steps)
    while not is_loaded("steps of a test"):
        pass
    assert done == [0, 1, 2]


def test_zero_rows_are_as_far_as_the_metric_says():
    rows = np.zeros((3, 4), np.float32)
    rows[1] = 1e-25
    query = np.ones((1, 4), np.float32)
    assert both(rows, query, 3, Metric.COSINE).rows[0].tolist() == [1, 0, 2]
    assert both(rows, query, 3, Metric.IP).rows[0].tolist() == [1, 0, 2]
