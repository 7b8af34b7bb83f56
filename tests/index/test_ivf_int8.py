"""IVFInt8: under the contract of approximate indexes, and what is its own."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest

from gpuvec.errors import CorruptError, UnsupportedError
from gpuvec.index import registry
from gpuvec.index.base import IndexFile
from gpuvec.index.ivf_file import read_arrays, write_arrays
from gpuvec.index.ivf_int8 import FILE, VERSION
from gpuvec.index.spec import IVFInt8
from gpuvec.kernels.pairwise import is_binary, pairwise_distances
from gpuvec.rows import DenseVectors
from gpuvec.testing.approximate_indexes import ApproximateIndexTests, recall_of
from gpuvec.testing.kernels import CASES
from gpuvec.types import Metric

MOST = {"effort": 1.0}


class TestIvfInt8Contract(ApproximateIndexTests):
    spec = IVFInt8()
    cases = (
        (Metric.COSINE, np.float32),
        (Metric.L2, np.float16),
        (Metric.IP, np.int8),
        (Metric.SQEUCLIDEAN, ml_dtypes.bfloat16),
        (Metric.L2, np.uint8),
    )
    more_cases = tuple(case for case in CASES if not is_binary(case[0]))


def clustered(count, width, seed=0, groups=60):
    rng = np.random.default_rng(seed)
    slope = np.arange(1, width + 1) ** -0.4
    centers = 1.5 * rng.normal(size=(groups, width)) * slope
    rows = centers[rng.integers(0, groups, count)] + rng.normal(size=(count, width)) * slope
    return rows.astype(np.float32)


def make(rows, metric, **options):
    options = {"threads": 2, **options}
    return registry.build(IVFInt8(), DenseVectors(rows), metric, **options)


@pytest.fixture(scope="module")
def data():
    values = clustered(12_200, 96)
    return values[:200], values[200:]


@pytest.fixture(scope="module", params=[Metric.COSINE, Metric.L2, Metric.IP])
def built(data, request):
    queries, rows = data
    return make(rows, request.param), queries, pairwise_distances(queries, rows, request.param)


def test_more_effort_finds_more_until_all_is_found(built):
    index, queries, distances = built
    found = [
        recall_of(index.search(queries, 10, params=p), distances, 10) for p in index.settings(10)
    ]
    assert found[0] < found[-1]
    assert found[-1] >= 0.999
    assert all(later >= earlier - 0.003 for earlier, later in pairwise(found))


def test_an_answer_depends_on_its_query_alone(built):
    index, queries, _ = built
    whole = index.search(queries, 10, threads=1)
    for threads, size in ((2, 200), (1, 37), (3, 8), (1, 1)):
        for start in range(0, 200 if size > 1 else 12, size):
            part = index.search(queries[start : start + size], 10, threads=threads)
            np.testing.assert_array_equal(part.rows, whole.rows[start : start + size])


def test_two_builds_are_equal_to_the_byte(data):
    _, rows = data
    first, second = (make(rows[:3000], "l2", threads=threads) for threads in (1, 3))
    texts = [b"".join(bytes(part) for part in index.files()[FILE]) for index in (first, second)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("kind", ["random", "near", "far"])
def test_masks_that_follow_the_query_lose_nothing(built, share, kind):
    index, queries, distances = built
    queries, distances = queries[:20], distances[:20]
    count = max(1, int(share * distances.shape[1]))
    order = np.argsort(distances.mean(axis=0))
    chosen = {
        "random": np.random.default_rng(1).permutation(len(order))[:count],
        "near": order[:count],
        "far": order[-count:],
    }[kind]
    keep = np.zeros(len(order), bool)
    keep[chosen] = True
    hidden = np.where(keep, distances, np.inf)
    found = index.search(queries, 10, params={"effort": 0.65}, keep=keep)
    k = min(10, count)
    assert recall_of(found, hidden, k) >= 0.97
    alone = index.search(queries[:1], 10, params={"effort": 0.65}, keep=keep)
    assert recall_of(alone, hidden[:1], k) >= 0.9


@pytest.mark.parametrize("k", [1, 10, 300])
def test_a_bound_keeps_what_lies_within(built, k):
    index, queries, distances = built
    free = index.search(queries, k, params=MOST)
    for more in (0.0, 1e-3):
        bound = np.sort(distances, axis=1)[:, k - 1] + np.float32(more)
        found = index.search(queries, k, params=MOST, bound=bound)
        assert (
            found.distances[found.rows >= 0] <= np.repeat(bound, k)[found.rows.ravel() >= 0]
        ).all()
        assert recall_of(found, distances, k) >= recall_of(free, distances, k) - 0.002


def test_many_neighbours_are_found_too(built):
    index, queries, distances = built
    for k in (100, 1500):
        found = index.search(queries[:30], k, params=MOST)
        assert recall_of(found, distances[:30], k) >= 0.995


def test_more_neighbours_than_rows_are_all_rows(data):
    queries, rows = data
    index = make(rows[:130], "cosine")
    found = index.search(queries[:3], 200, params=MOST)
    assert (np.sort(found.rows[:, :130], axis=1) == np.arange(130)).all()
    assert (found.rows[:, 130:] == -1).all()


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.L2, Metric.IP])
def test_rows_that_are_all_equal_come_in_tie_order(metric):
    rows = np.tile(clustered(1, 40), (3000, 1))
    rank = np.random.default_rng(0).permutation(3000)
    found = make(rows, metric).search(clustered(5, 40, 1), 7, tie_rank=rank)
    np.testing.assert_array_equal(found.rows, np.tile(np.argsort(rank)[:7], (5, 1)))


def test_a_zero_query_is_answered():
    rows = clustered(3000, 40)
    found = make(rows, "cosine").search(np.zeros((1, 40), np.float32), 4)
    assert found.rows.tolist() == [[0, 1, 2, 3]]


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e12, 1e30])
@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.L2, Metric.IP])
def test_any_magnitude_is_served(scale, metric):
    values = clustered(2020, 24) * np.float32(scale)
    queries, rows = values[:20], values[20:]
    with np.errstate(over="ignore", under="ignore"):
        distances = pairwise_distances(queries, rows, metric)
        found = make(rows, metric).search(queries, 5, params=MOST)
    assert recall_of(found, distances, 5) >= 0.99


def test_one_long_axis_does_not_drown_the_others():
    values = clustered(4100, 32)
    values[:, 0] *= 300
    queries, rows = values[:100], values[100:]
    found = make(rows, "l2").search(queries, 10, params=MOST)
    assert recall_of(found, pairwise_distances(queries, rows, Metric.L2), 10) >= 0.99


def test_queries_of_many_lengths_are_served(data):
    queries, rows = data
    queries = queries[:64] * np.logspace(-4, 4, 64)[:, None].astype(np.float32)
    found = make(rows, "l2").search(queries, 10, params=MOST)
    assert recall_of(found, pairwise_distances(queries, rows, Metric.L2), 10) >= 0.98


def test_white_noise_and_few_dimensions_are_served():
    for width in (1, 2, 5, 17, 100):
        values = np.random.default_rng(width).normal(size=(2100, width)).astype(np.float32)
        queries, rows = values[:100], values[100:]
        found = make(rows, "l2").search(queries, 10, params=MOST)
        assert recall_of(found, pairwise_distances(queries, rows, Metric.L2), 10) >= 0.99


def test_held_out_rows_teach_nothing():
    rows = clustered(3000, 40)
    held = np.arange(0, 3000, 50)
    other = rows.copy()
    other[held] *= -3
    indexes = [make(values, "ip", held_out=held) for values in (rows, other)]
    for name in ("origin", "rotation", "variance"):
        assert np.array_equal(*(getattr(index._pack, name) for index in indexes))
    assert not set(indexes[0].search(rows[held], 10).rows.ravel()) & set(held)
    indexes[0].complete()
    assert set(held) <= set(indexes[0].search(rows[held], 1000, params=MOST).rows.ravel())


def test_calls_of_many_threads_do_not_meet(data):
    queries, rows = data
    index = make(rows, "cosine")
    wanted = index.search(queries, 10).rows

    def ask(start):
        size = 1 + start % 50
        found = index.search(queries[start : start + size], 10, threads=2).rows
        return np.array_equal(found, wanted[start : start + size])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(0, 150, 3)))


def test_a_small_memory_limit_gives_the_same_answers(data):
    queries, rows = data
    index = make(rows, "cosine")
    small = index.search(queries, 10, memory_limit=1 << 20)
    np.testing.assert_array_equal(small.rows, index.search(queries, 10).rows)


def test_files_of_another_form_and_cut_off_files_are_refused(data):
    _, rows = data
    index = make(rows[:500], "l2")
    text = np.frombuffer(b"".join(bytes(part) for part in index.files()[FILE]), np.uint8)
    for broken in (text[:100], text[: len(text) // 2], np.zeros(5000, np.uint8), text[:0]):
        with pytest.raises(CorruptError, match="damaged"):
            registry.load(
                index.spec,
                DenseVectors(rows[:500]),
                "l2",
                {FILE: IndexFile(data=broken, path=None)},
            )
    newer = np.frombuffer(b"".join(bytes(part) for part in write_arrays(99, {}, {})), np.uint8)
    with pytest.raises(UnsupportedError, match="form 99"):
        read_arrays(newer, VERSION)


def test_loading_reads_nothing_but_the_first_page(data):
    _, rows = data
    index = make(rows[:500], "l2")
    text = bytearray(b"".join(bytes(part) for part in index.files()[FILE]))
    view = np.frombuffer(text, np.uint8)
    facts, arrays = read_arrays(view, VERSION)
    assert facts["packed"] is True
    assert all(np.shares_memory(array, view) for array in arrays.values() if array.size)
    assert all(not array.flags.writeable for array in arrays.values())
    assert all(array.ctypes.data % 8 == view.ctypes.data % 8 for array in arrays.values())


PROGRAM = """
import numpy as np
from gpuvec.index import registry
from gpuvec.index.spec import IVFInt8
from gpuvec.kernels.int8_tile import int8_lanes
from gpuvec.kernels.pairwise import pairwise_distances
from gpuvec.rows import DenseVectors
from gpuvec.types import Metric
rng = np.random.default_rng(0)
rows = rng.normal(size=(1500, 32)).astype(np.float32)
queries = rng.normal(size=(40, 32)).astype(np.float32)
index = registry.build(IVFInt8(), DenseVectors(rows), "l2")
found = index.search(queries, 5, params={"effort": 1.0})
limit = np.sort(pairwise_distances(queries, rows, Metric.L2), axis=1)[:, 4:5]
print(int8_lanes(), float((found.distances <= limit).mean()), found.rows.sum())
"""


@pytest.mark.slow
@pytest.mark.parametrize(("features", "lanes"), [("+avx2,+fma", 0), ("+avx2,+fma,+avxvnni", 8)])
def test_machines_without_wide_products_find_the_same(features, lanes):
    environment = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    got_lanes, recall, _ = done.stdout.split()
    assert int(got_lanes) == lanes
    assert float(recall) >= 0.99


def test_most_effort_finds_a_row_that_is_asked_for():
    rows = clustered(3000, 32, groups=80)
    found = make(rows, "l2").search(rows, 1, params=MOST)
    assert (found.distances[:, 0] == 0).all()


@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.L2])
def test_more_lists_than_rows_are_as_many_as_serve(metric):
    rows = clustered(800, 16)
    held_out = np.arange(0, 800, 10)
    index = registry.build(
        IVFInt8(n_lists=5000), DenseVectors(rows), metric, held_out=held_out, threads=2
    )
    assert index.spec.n_lists < 800
    keep = np.ones(800, bool)
    keep[held_out] = False
    found = index.search(rows[held_out], 10, params=MOST)
    distances = pairwise_distances(rows[held_out], rows, metric)
    assert recall_of(found, np.where(keep, distances, np.inf), 10) >= 0.99


def test_rows_that_are_unlike_all_learnt_ones_are_packed():
    rows = np.ones((600, 16), np.float32)
    rows[::10] = clustered(60, 16)
    index = registry.build(
        IVFInt8(), DenseVectors(rows), Metric.L2, held_out=np.arange(0, 600, 10), threads=2
    )
    index.complete()
    assert (index.search(rows[:20], 1, params=MOST).rows >= 0).all()


PEAK = """
import sys
import numpy as np
from gpuvec.index import registry
from gpuvec.index.spec import IVFInt8
from gpuvec.rows import DenseVectors

def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

count, width = map(int, sys.argv[1:])
rows = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
vectors = DenseVectors(rows)
registry.build(IVFInt8(), vectors.slice(0, 6000), "cosine")  # loads compiled code
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
registry.build(IVFInt8(), vectors, "cosine")
said = sum(registry.build_bytes(IVFInt8(), count, vectors).values())
print((status("VmHWM") - before) / said)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("count", "width"), [(60_000, 256), (120_000, 128), (30_000, 768)])
def test_a_build_takes_about_the_memory_it_says(count, width):
    run = [sys.executable, "-c", PEAK, str(count), str(width)]
    share = float(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert 0.5 <= share <= 1.3
