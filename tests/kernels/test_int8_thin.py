"""Packs of the rows that a mask keeps: they answer as the whole pack with the mask does."""

import numpy as np
import pytest

from gpuvec.kernels import int8_pack
from gpuvec.kernels.int8_thin import pays, thin_pack
from gpuvec.kernels.int8_tile import int8_lanes
from gpuvec.kernels.pairwise import pairwise_distances
from gpuvec.kernels.scan_topk import pack_rows, scan_topk

pytestmark = pytest.mark.skipif(not int8_lanes(), reason="this machine has no 8-bit products")

ROWS, DIM, QUERIES = 4000, 40, 400


def clustered(seed, count, dtype=np.float32):
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(99).standard_normal((30, DIM)) * 2
    near = middles[rng.integers(0, 30, count)]
    return (near + 0.5 * rng.standard_normal((count, DIM))).astype(dtype)


def masks(rows):
    rng = np.random.default_rng(5)
    along = rows.astype(np.float32) @ rows[7].astype(np.float32)
    yield "random", rng.random(len(rows)) < 0.3
    yield "few", rng.random(len(rows)) < 0.07
    yield "near", along > np.quantile(along, 0.8)
    yield "far", along < np.quantile(along, 0.5)
    yield "in a run", np.arange(len(rows)) < len(rows) // 4


def truth(queries, rows, metric, keep, k):
    distances = pairwise_distances(queries, rows, metric)
    distances = np.where(keep, distances, np.inf)
    return np.lexsort((np.broadcast_to(np.arange(len(rows)), distances.shape), distances))[:, :k]


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2", "sqeuclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_masked_batch_answers_as_sorting_does(metric, dtype):
    rows, queries = clustered(1, ROWS, dtype), clustered(2, QUERIES)
    pack = pack_rows(rows, metric)
    for name, keep in masks(rows):
        assert pays(ROWS, int(keep.sum()), QUERIES) or name == "far"
        found, stats = scan_topk(pack, rows, queries, 10, keep=keep)
        assert (found.rows == truth(queries, rows, metric, keep, 10)).all(), name
        assert stats.rescanned == 0
        assert stats.strategy.startswith("int8")


def test_bounds_ties_and_more_neighbours_than_rows_hold_in_thin_packs():
    rows, queries = np.repeat(clustered(3, 800), 5, axis=0), clustered(4, QUERIES)
    keep = np.random.default_rng(1).random(ROWS) < 0.2
    ranks = np.random.default_rng(2).permutation(ROWS)
    distances = np.where(keep, pairwise_distances(queries, rows, "l2"), np.inf)
    order = np.lexsort((np.broadcast_to(ranks, distances.shape), distances))
    bound = np.take_along_axis(distances, order, 1)[:, 6].astype(np.float32)
    found, _ = scan_topk(
        pack_rows(rows, "l2"), rows, queries, 12, keep=keep, tie_rank=ranks, bound=bound
    )
    for query in range(QUERIES):
        wanted = [row for row in order[query, :12] if distances[query, row] <= bound[query]]
        assert found.rows[query, : len(wanted)].tolist() == wanted
        assert (found.rows[query, len(wanted) :] == -1).all()


def test_several_shards_are_thinned_alike(monkeypatch):
    monkeypatch.setattr(int8_pack, "CHUNK_BYTES", 4 * DIM * 900)
    monkeypatch.setattr(int8_pack, "LEAST_CHUNK", 300)
    rows, queries = clustered(6, ROWS), clustered(7, QUERIES)
    pack = pack_rows(rows, "l2")
    assert len(pack.int8.shards) > 3
    keep = np.zeros(ROWS, bool)
    keep[1000:1400] = True  # none of the first shard's and of the last one's rows
    found, _ = scan_topk(pack, rows, queries, 5, keep=keep)
    assert (found.rows == truth(queries, rows, "l2", keep, 5)).all()


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_thin_pack_holds_the_kept_rows_once_and_bounds_them(metric):
    rows = clustered(8, ROWS)
    pack = pack_rows(rows, metric).int8
    for _, keep in masks(rows):
        thin = thin_pack(pack, keep, threads=2)
        held = np.concatenate([shard.rows[shard.rows >= 0] for shard in thin.shards])
        assert sorted(held) == np.flatnonzero(keep).tolist()
        for whole, shard in zip(pack.shards, thin.shards, strict=True):
            assert shard.codes.ctypes.data % 64 == 0
            place = {row: at for at, row in np.ndenumerate(whole.rows) if row >= 0}
            for (tile, lane), row in np.ndenumerate(shard.rows):
                if row < 0:
                    continue
                old, at = place[row]
                assert (shard.codes[tile, :, lane] == whole.codes[old, :, at]).all()
                assert (shard.tails[tile] >= whole.tails[old]).all()
                if metric == "l2":
                    half = shard.low[tile] + np.float64(shard.terms[tile, lane])
                    before = whole.low[old] + np.float64(whole.terms[old, at])
                    assert half == pytest.approx(before, rel=2.0**-22)
                    assert shard.low[tile] <= before


def test_copies_pay_for_many_queries_and_thin_masks():
    assert not pays(1000, 0, 10_000)
    assert not pays(1000, 1000, 10_000)
    assert not pays(1000, 500, 100)
    assert pays(1000, 500, 1000)
    assert pays(1000, 100, 100)
