import threading

import ml_dtypes
import numpy as np
import pytest

from gpuvec.errors import DeviceMemoryError, QueryError
from gpuvec.index.flat import FlatIndex
from gpuvec.kernels.pairwise import pairwise_distances
from gpuvec.kernels.sparse_scan import paired_sparse_distances
from gpuvec.rows import SparseVectors
from gpuvec.testing.indexes import exact_answer
from gpuvec.types import Metric


def dense(count, width, seed=0):
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def sparse(count, width, share, seed):
    rng = np.random.default_rng(seed)
    full = np.where(rng.random((count, width)) < share, rng.normal(size=(count, width)), 0)
    full = full.astype(np.float32)
    row, column = np.nonzero(full)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=count))]).astype(np.int64)
    positions = (column.astype(np.int64) * 97_000_001).astype(np.uint32)
    order = np.lexsort((positions, row))
    return SparseVectors(offsets, positions[order], full[row, column][order]), full


@pytest.mark.parametrize("metric", [Metric.IP, Metric.COSINE])
@pytest.mark.parametrize("count", [0, 1, 700])
def test_sparse_rows_are_searched_exactly(metric, count):
    rows, full = sparse(count, 40, 0.2, 1)
    queries, asked = sparse(6, 40, 0.3, 2)
    owner, row = np.repeat(np.arange(6), count), np.tile(np.arange(count), 6)
    distances = paired_sparse_distances(queries, rows, owner, row, metric).reshape(6, count)
    products = asked.astype(np.float64) @ full.T.astype(np.float64)
    if metric is Metric.IP:
        np.testing.assert_allclose(distances, -products, rtol=1e-6, atol=1e-6)
    keep = np.arange(count) % 3 > 0
    rank = np.random.default_rng(0).permutation(count)
    index = FlatIndex(rows, metric)
    wanted = exact_answer(distances, 9, keep=keep, tie_rank=rank)
    found = index.search(queries, 9, keep=keep, tie_rank=rank)
    np.testing.assert_array_equal(found.rows, wanted.rows)
    np.testing.assert_array_equal(found.distances, wanted.distances)
    near = index.range_search(queries, None, 0.9, keep=keep)
    inside = (distances <= np.float32(0.9)) & keep
    np.testing.assert_array_equal(near.counts, inside.sum(axis=1))


def test_sparse_and_dense_do_not_mix():
    rows, _ = sparse(5, 10, 0.5, 0)
    with pytest.raises(QueryError, match="dense queries of sparse rows"):
        FlatIndex(rows, "ip").search(dense(1, 10), 3)
    with pytest.raises(QueryError, match="l2"):
        FlatIndex(rows, "l2")


def test_rows_may_be_a_read_only_memory_map(tmp_path):
    rows = dense(500, 24)
    rows.tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", np.float32, mode="r", shape=rows.shape)
    index = FlatIndex(mapped, Metric.L2)
    wanted = exact_answer(pairwise_distances(rows[:3], rows, Metric.L2), 5)
    np.testing.assert_array_equal(index.search(rows[:3], 5).rows, wanted.rows)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int8])
def test_narrow_rows_are_not_widened_as_a_whole(dtype):
    import tracemalloc

    rows = (dense(20_000, 64) * 20).astype(dtype)
    index = FlatIndex(rows, Metric.COSINE)
    index.search(dense(1, 64), 5)
    tracemalloc.start()
    index.search(dense(2, 64), 5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < rows.size  # a float32 copy would be four bytes a value


def test_the_same_answer_for_any_number_of_threads():
    rows, queries = dense(9000, 20), dense(40, 20, 1)
    index = FlatIndex(rows, Metric.IP)
    first = index.search(queries, 7, threads=1)
    for threads in (2, 5):
        again = index.search(queries, 7, threads=threads)
        np.testing.assert_array_equal(again.rows, first.rows)
        np.testing.assert_array_equal(again.distances, first.distances)


def test_an_index_is_used_by_several_threads_at_once():
    rows, queries = dense(6000, 16), dense(100, 16, 1)
    index = FlatIndex(rows, Metric.COSINE)
    wanted = FlatIndex(rows, Metric.COSINE).search(queries, 5).rows
    wrong = []

    def ask(start):
        for size in (1, 7, 50):
            found = index.search(queries[start : start + size], 5).rows
            if not np.array_equal(found, wanted[start : start + size]):
                wrong.append(start)

    threads = [threading.Thread(target=ask, args=(start,)) for start in (0, 10, 30, 50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_zero_query_finds_rows_in_tie_order():
    rows = dense(300, 8)
    found = FlatIndex(rows, Metric.COSINE).search(np.zeros((1, 8), np.float32), 4)
    assert found.rows.tolist() == [[0, 1, 2, 3]]
    assert found.distances.tolist() == [[1, 1, 1, 1]]


def test_stats_belong_to_the_thread_that_searched():
    index = FlatIndex(dense(50, 8), Metric.L2)
    thread = threading.Thread(target=index.search, args=(dense(3, 8), 2))
    thread.start()
    thread.join()
    assert index.last_stats is None
    index.search(dense(1, 8), 2)
    assert index.last_stats.queries == 1


def test_binary_ranges_that_cannot_be_tiled_are_refused():
    rows = np.zeros((1000, 2), np.uint8)
    with pytest.raises(DeviceMemoryError, match="distances of a query"):
        FlatIndex(rows, "hamming").range_search(rows[:1], None, 3, memory_limit=100)


def test_float64_queries_are_refused_with_what_is_wanted():
    with pytest.raises(QueryError, match="float32"):
        FlatIndex(dense(5, 4), "l2").search(np.zeros((1, 4)), 1)
