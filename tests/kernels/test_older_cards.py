"""Cards with less than the newest have: the same answers, by what they do have."""

import numpy as np
import pytest

from gpuvec.device.arrays import to_device
from gpuvec.index.flat import FlatIndex
from gpuvec.kernels.bits_topk import bits_topk
from gpuvec.kernels.launch import card_limits, kernel_of
from gpuvec.kernels.pairwise import paired_distances, pairwise_distances
from gpuvec.kernels.select_k import select_k, select_k_reference
from gpuvec.testing.indexes import exact_answer
from gpuvec.testing.kernels import made_up
from gpuvec.testing.rehearsal import rehearsal
from gpuvec.testing.rehearsed_card import SHARED
from gpuvec.types import Metric


@pytest.fixture(params=sorted(SHARED), ids=lambda compute: f"sm_{compute}")
def compute(request, rehearsed):
    with rehearsal(compute=request.param):
        yield request.param


@pytest.mark.parametrize("k", [1, 30, 128])
@pytest.mark.parametrize("width", [8, 2000])
def test_lists_of_neighbours_fit_into_the_shared_memory_of_a_card(compute, k, width):
    assert card_limits().shared_bytes == SHARED[compute]
    queries, rows = made_up(Metric.HAMMING, np.uint8, 500, width)
    distances = pairwise_distances(queries, rows, Metric.HAMMING)
    wanted = select_k_reference(distances, k)
    found = bits_topk(to_device(queries), to_device(rows), k, Metric.HAMMING).to_host()
    np.testing.assert_array_equal(found.rows, wanted.rows)
    chosen = select_k(to_device(distances), k).to_host()
    np.testing.assert_array_equal(chosen.rows, wanted.rows)


@pytest.mark.parametrize("width", [1 << 16, 1 << 18])
def test_queries_that_no_card_has_room_for_are_answered_too(compute, width):
    queries, rows = made_up(Metric.HAMMING, np.uint8, 6, width)
    found = bits_topk(to_device(queries), to_device(rows), 3, Metric.HAMMING).to_host()
    wanted = select_k_reference(pairwise_distances(queries, rows, Metric.HAMMING), 3)
    np.testing.assert_array_equal(found.rows, wanted.rows)


def test_a_card_without_such_tensor_cores_scans_in_float32(compute):
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(4200, 16)).astype(np.float32)
    queries = rng.normal(size=(70, 16)).astype(np.float32)
    index = FlatIndex(to_device(rows), Metric.L2)
    found = index.search(to_device(queries), 5).to_host()
    wanted = exact_answer(pairwise_distances(queries, rows, Metric.L2), 5)
    np.testing.assert_array_equal(found.rows, wanted.rows)
    by_codes = index.last_stats.strategy == "device int8 scan"
    assert by_codes == (compute >= 80)


def test_rows_may_begin_anywhere(rehearsed):
    queries, rows = made_up(Metric.HAMMING, np.uint8, 300, 8)
    memory = to_device(np.concatenate([[np.uint8(0)], rows.ravel()]))
    beside = memory[1:].reshape(rows.shape)
    assert beside.data.ptr % 8
    wanted = select_k_reference(pairwise_distances(queries, rows, Metric.HAMMING), 200)
    for k in (5, 200):
        found = bits_topk(to_device(queries), beside, k, Metric.HAMMING).to_host()
        np.testing.assert_array_equal(found.rows, wanted.rows[:, :k])
    at = to_device(np.arange(5))
    measured = paired_distances(beside[:5], beside, at, at, Metric.HAMMING)
    assert not measured.get().any()


def test_codes_of_rows_that_begin_anywhere_are_copied(rehearsed):
    rng = np.random.default_rng(2)
    rows = rng.integers(-100, 100, (4200, 16)).astype(np.int8)
    queries = rng.normal(scale=40, size=(70, 16)).astype(np.float32)
    memory = to_device(np.concatenate([[np.int8(0)], rows.ravel()]))
    index = FlatIndex(memory[1:].reshape(rows.shape), Metric.IP)
    found = index.search(to_device(queries), 5).to_host()
    assert index.last_stats.strategy == "device int8 scan"
    wanted = exact_answer(pairwise_distances(queries, rows, Metric.IP), 5)
    np.testing.assert_array_equal(found.rows, wanted.rows)


def test_kernels_read_whole_arrays_only(rehearsed):
    words = to_device(np.zeros((4, 4), np.uint32))[:, 0]
    total = to_device(np.zeros(1, np.uint64))
    with pytest.raises(AssertionError, match="whole arrays"):
        kernel_of("bitset.cu", "count_bits").over(4, words, np.int64(4), total)
