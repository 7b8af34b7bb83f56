"""The batch engine gives the oracle's rows and distances, bit for bit, whatever the data."""

import os
import subprocess
import sys
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from gpuvec.errors import QueryError
from gpuvec.kernels import scan_topk as engine
from gpuvec.kernels.candidates import make_candidates
from gpuvec.kernels.int8_scan import Int8Scan
from gpuvec.kernels.int8_tile import int8_lanes
from gpuvec.kernels.pairwise import paired_distances
from gpuvec.kernels.scan_topk import pack_rows, scan_topk
from gpuvec.types import Metric

METRICS = [Metric.IP, Metric.COSINE, Metric.L2, Metric.SQEUCLIDEAN]


def oracle(rows, queries, k, metric, *, keep=None, tie_rank=None, bound=None):
    """Measure every pair, sort by distance and tie rank."""
    m, n = len(queries), len(rows)
    owner, place = np.divmod(np.arange(m * n), max(1, n))
    distances = paired_distances(queries, rows, owner, place, metric).reshape(m, n)
    ranks = np.arange(n) if tie_rank is None else tie_rank
    out_rows = np.full((m, k), -1, np.int64)
    out = np.full((m, k), np.inf, np.float32)
    for j in range(m):
        may = np.ones(n, bool) if keep is None else keep.copy()
        if bound is not None:
            may &= distances[j] <= bound[j]
        order = np.lexsort((ranks, distances[j]))
        order = order[may[order]][:k]
        out_rows[j, : len(order)], out[j, : len(order)] = order, distances[j, order]
    return out_rows, out


def check(rows, queries, k, metric, *, threads=2, pack=None, **options):
    pack = pack or pack_rows(rows, metric, threads=threads)
    found, stats = scan_topk(pack, rows, queries, k, threads=threads, **options)
    wanted_rows, wanted = oracle(rows, queries, k, metric, **options)
    np.testing.assert_array_equal(found.rows, wanted_rows)
    np.testing.assert_array_equal(found.distances, wanted)
    return stats


def clustered(n, dim, seed=0, spread=0.3):
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(max(1, n // 100), dim))
    rows = middles[rng.integers(len(middles), size=n)] + spread * rng.normal(size=(n, dim))
    return rows.astype(np.float32)


@pytest.fixture(scope="module")
def rows():
    return clustered(3000, 48)


@pytest.fixture(scope="module")
def queries(rows):
    rng = np.random.default_rng(1)
    picked = rows[rng.integers(len(rows), size=40)]
    return (picked + 0.2 * rng.normal(size=picked.shape)).astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "uint8"])
def test_every_metric_and_dtype_agrees_with_the_oracle(rows, queries, metric, dtype):
    if dtype == "bfloat16":
        stored = rows.astype(ml_dtypes.bfloat16)
    elif dtype in ("int8", "uint8"):
        stored = np.clip(20 * rows + (100 if dtype == "uint8" else 0), -127, 255).astype(dtype)
        queries = 20 * queries
    else:
        stored = rows.astype(dtype)
    stats = check(stored, queries.astype(np.float32), 10, metric)
    assert stats.rescanned == 0
    if int8_lanes():
        assert stats.strategy == engine.STRATEGIES[int8_lanes()]


def adversaries():
    rng = np.random.default_rng(2)
    base = rng.normal(size=(2500, 20)).astype(np.float32)
    spread = base * np.exp(rng.normal(scale=6, size=(2500, 1))).astype(np.float32)
    outlier = base.copy()
    outlier[:, 3] *= 1000
    flat = (rng.normal(size=(2500, 2)) @ rng.normal(size=(2, 20))).astype(np.float32)
    grid = rng.integers(-2, 3, size=(2500, 20)).astype(np.float32)
    zeros = base.copy()
    zeros[::3] = 0
    tiny = base.copy()
    tiny[::2] *= 1e-42
    return {
        "huge spread of norms": spread,
        "one outlier dimension": outlier,
        "low rank": flat,
        "many ties": grid,
        "zero vectors": zeros,
        "denormals": tiny,
        "duplicates": np.repeat(base[:25], 100, axis=0),
        "all alike": np.repeat(base[:1], 2500, axis=0),
        "all zero": np.zeros((2500, 20), np.float32),
        "far from the origin": base + np.float32(3e4),
        "beyond float32 squares": base * np.float32(1e25),
        "below float32 squares": base * np.float32(1e-30),
    }


@pytest.mark.parametrize("name", adversaries())
@pytest.mark.parametrize("metric", METRICS)
def test_adversarial_rows_agree_with_the_oracle(name, metric):
    rows = adversaries()[name]
    rng = np.random.default_rng(3)
    asked = rows[rng.integers(len(rows), size=9)].copy()
    asked[3:6] = rng.normal(size=(3, 20)) * np.float32(np.abs(rows).max())
    asked[6] = 0
    check(rows, asked, 7, metric)


@pytest.mark.parametrize("dim", [1, 2, 3, 15, 16, 17, 63, 64, 65, 130])
def test_any_dimension(dim):
    rows = clustered(1200, dim, seed=dim)
    for metric in (Metric.IP, Metric.L2):
        check(rows, clustered(9, dim, seed=dim + 1), 5, metric)


@pytest.mark.parametrize("n", [1, 2, 47, 48, 49, 700])
def test_any_number_of_rows(n):
    check(clustered(n, 20, seed=n), clustered(10, 20, seed=4), 5, Metric.L2)


def test_no_rows_and_no_queries():
    empty = np.zeros((0, 8), np.float32)
    asked = np.ones((3, 8), np.float32)
    found, _ = scan_topk(pack_rows(empty, Metric.L2), empty, asked, 2)
    assert (found.rows == -1).all()
    assert np.isposinf(found.distances).all()
    found, stats = scan_topk(pack_rows(asked, Metric.L2), asked, empty, 2)
    assert found.rows.shape == (0, 2)
    assert stats.queries == 0


@pytest.mark.parametrize("k", [1, 2, 100, 299, 301, 2999, 3000, 3500])
def test_any_k(rows, queries, k):
    check(rows, queries[:5], k, Metric.COSINE)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("metric", [Metric.IP, Metric.L2])
def test_only_kept_rows_come_back(rows, queries, share, metric):
    keep = np.random.default_rng(5).random(len(rows)) < share
    check(rows, queries, 10, metric, keep=keep)


def test_a_mask_may_leave_only_the_farthest_rows(rows, queries):
    keep = oracle(rows, queries[:1], len(rows), Metric.IP)[0][0]
    mask = np.zeros(len(rows), bool)
    mask[keep[-400:]] = True
    check(rows, queries, 10, Metric.IP, keep=mask)


def test_equal_distances_come_in_tie_order():
    rows = np.repeat(clustered(300, 24), 8, axis=0)
    ranks = np.random.default_rng(6).permutation(len(rows))
    for metric in METRICS:
        check(rows, clustered(12, 24, seed=7), 10, metric, tie_rank=ranks)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_beyond_the_bound_are_left_out(rows, queries, metric):
    near = oracle(rows, queries, 10, metric)[1]
    bound = near[np.arange(len(queries)), np.arange(len(queries)) % 10].copy()
    bound[0] = -np.inf
    bound[1] = np.inf
    check(rows, queries, 10, metric, bound=bound)


def test_threads_blocks_and_memory_do_not_change_the_answer(rows, queries, monkeypatch):
    pack = pack_rows(rows, Metric.IP, threads=1)
    wanted, _ = scan_topk(pack, rows, queries, 10, threads=1)
    for threads, limit in ((1, 1), (2, None), (3, 1), (8, None)):
        monkeypatch.setattr(engine, "BLOCK", 16)
        again = pack_rows(rows, Metric.IP, threads=threads)
        found, stats = scan_topk(again, rows, queries, 10, threads=threads, memory_limit=limit)
        np.testing.assert_array_equal(found.rows, wanted.rows)
        np.testing.assert_array_equal(found.distances, wanted.distances)
        assert stats.queries == len(queries)


def test_a_query_with_too_many_candidates_is_scanned_again(monkeypatch):
    monkeypatch.setattr(engine, "CANDIDATES", 0)
    rows = np.repeat(clustered(40, 24), 60, axis=0)
    stats = check(rows, clustered(8, 24, seed=7), 5, Metric.IP)
    assert stats.rescanned == 8


@pytest.mark.skipif(not int8_lanes(), reason="no VNNI")
def test_rows_in_several_shards(rows, queries, monkeypatch):
    from gpuvec.kernels import int8_pack

    monkeypatch.setattr(int8_pack, "CHUNK_BYTES", 1000 * 4 * 48)
    monkeypatch.setattr(int8_pack, "LEAST_CHUNK", 500)
    pack = pack_rows(rows, Metric.L2)
    assert len(pack.int8.shards) == 3
    check(rows, queries, 10, Metric.L2, pack=pack)


@pytest.mark.skipif(not int8_lanes(), reason="no VNNI")
def test_a_pack_takes_about_a_byte_a_value():
    rows = clustered(20_000, 128)
    assert pack_rows(rows, Metric.IP).nbytes < 1.35 * rows.size


def test_memory_mapped_rows(rows, queries, tmp_path):
    np.save(tmp_path / "rows.npy", rows)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    check(mapped, queries, 10, Metric.COSINE)


@pytest.mark.parametrize("metric", METRICS)
def test_float32_gives_the_same_answer(rows, queries, metric):
    pack = replace(pack_rows(rows, metric), int8=None)
    stats = check(rows, queries, 10, metric, pack=pack)
    assert stats.strategy == "float32"
    assert stats.rescanned == 0
    for name, hard in adversaries().items():
        stats = check(hard, hard[:6].copy(), 7, metric, pack=replace(pack, shape=hard.shape))
        assert stats.strategy == "float32", name


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"k": 0}, "GV-310"),
        ({"keep": np.ones(3, bool)}, "GV-314"),
        ({"bound": np.ones(1)}, "GV-314"),
    ],
)
def test_bad_requests_say_what_is_wrong(rows, queries, options, code):
    k = options.pop("k", 5)
    with pytest.raises(QueryError) as caught:
        scan_topk(pack_rows(rows, Metric.IP), rows, queries, k, **options)
    assert caught.value.code == code


@pytest.mark.skipif(not int8_lanes(), reason="no VNNI")
class TestTheBounds:
    """Queries chosen against the codes: every part of the bound holds, and none can be spared."""

    @pytest.fixture
    def stored(self):
        return clustered(600, 64, seed=8, spread=1.0)

    @pytest.fixture
    def pack(self, stored):
        return pack_rows(stored, Metric.IP).int8

    @staticmethod
    def offsets(pack, stored):
        """Return the rotated offset of each row from its center, and what its codes say of it."""
        (shard,) = pack.shards
        space = pack.space
        lists = np.repeat(np.arange(len(shard.centers)), np.diff(shard.list_tiles))
        codes = shard.codes.transpose(0, 2, 1, 3).reshape(*shard.rows.shape, -1).astype(float) - 128
        steps = np.where(np.arange(codes.shape[2]) < space.head, 2.0**space.shift, 1)
        said = codes * steps * shard.units[lists][:, None, None]
        real = shard.rows >= 0
        rows = shard.rows[real]
        centers = np.repeat(space.centers[shard.centers[lists]][:, None], 48, axis=1)[real]
        return stored[rows] @ space.rotation - centers, said[real]

    @staticmethod
    def highest_excess(pack, stored, asked):
        """Return by how much true scores exceed their upper bounds, at most."""
        n, m = len(stored), len(asked)
        scan = Int8Scan(pack, asked, None, n)
        found = make_candidates(np.full(m, -np.inf), n, n)
        scan.find(0, m, found)
        assert (found.counts == n).all()
        unit = asked.astype(float) / np.linalg.norm(asked.astype(float), axis=1)[:, None]
        true = unit @ stored.astype(float).T
        return (np.take_along_axis(true, found.rows, axis=1) - found.highs).max()

    def along_row_errors(self, pack, stored):
        """Ask along what the codes of each row lose."""
        offsets, said = self.offsets(pack, stored)
        return ((offsets - said) @ pack.space.rotation.T).astype(np.float32)

    def along_query_errors(self, pack, stored):
        """Ask so that what the query's codes lose lies along the rows."""
        _, said = self.offsets(pack, stored)
        rotated = 0.49 * np.sign(said)
        rotated[:, -1] = 127  # so that a code's step is 1, and the rest is lost
        return (rotated @ pack.space.rotation.T).astype(np.float32)

    @pytest.mark.parametrize("part", ["lost", "said"])
    def test_no_part_of_the_error_can_be_spared(self, pack, stored, part):
        ask = self.along_row_errors if part == "lost" else self.along_query_errors
        asked = ask(pack, stored)[:200]
        assert self.highest_excess(pack, stored, asked) <= 0
        (shard,) = pack.shards
        smaller = shard._replace(**{part: getattr(shard, part) * np.float32(0)})
        mutant = replace(pack, shards=(smaller,))
        assert self.highest_excess(mutant, stored, asked) > 0

    def test_the_dimensions_left_out_cannot_be_spared(self):
        rng = np.random.default_rng(10)
        stored = rng.normal(size=(6000, 64)).astype(np.float32)
        asked = rng.normal(size=(80, 64)).astype(np.float32)
        pack = pack_rows(stored, Metric.IP)
        wanted, _ = oracle(stored, asked, 10, Metric.IP)
        found, _ = scan_topk(pack, stored, asked, 10)
        assert (found.rows == wanted).all()
        (shard,) = pack.int8.shards
        without = shard._replace(tails=0 * shard.tails, means=0 * shard.means)
        mutant = replace(pack, int8=replace(pack.int8, shards=(without,)))
        lost, _ = scan_topk(mutant, stored, asked, 10)
        assert (lost.rows != wanted).any()

    def test_a_floor_above_the_answer_is_found_out(self, monkeypatch):
        """The last check needs no trust in the scan's lower bounds."""
        stored, asked = clustered(3000, 32), clustered(20, 32, seed=11)
        real = Int8Scan.find

        def too_high(scan, start, stop, found):
            products = real(scan, start, stop, found)
            found.floor[:] += 1
            return products

        monkeypatch.setattr(Int8Scan, "find", too_high)
        assert check(stored, asked, 10, Metric.L2).rescanned > 0


SMALL_MACHINE = """
import sys
sys.path.insert(0, {folder!r})
from test_scan_topk import *
from gpuvec.kernels.int8_tile import int8_lanes
assert int8_lanes() == {lanes}, int8_lanes()
stored, asked = clustered(900, 40), clustered(20, 40, seed=9)
for metric in (Metric.IP, Metric.L2):
    stats = check(stored, asked, 5, metric, keep=np.arange(900) % 3 > 0)
    assert stats.strategy == {strategy!r}, stats
"""


@pytest.mark.slow
@pytest.mark.skipif(int8_lanes() != 16, reason="no AVX-512 VNNI")
@pytest.mark.parametrize(
    ("features", "lanes", "strategy"),
    [("+avx2,+fma,+f16c,+bmi2,+avxvnni", 8, "int8-avxvnni"), ("+avx2,+fma,+f16c", 0, "float32")],
)
def test_smaller_machines_give_the_same_answer(features, lanes, strategy, tmp_path):
    environment = os.environ | {
        "NUMBA_CPU_NAME": "generic",
        "NUMBA_CPU_FEATURES": features,
        "NUMBA_CACHE_DIR": str(tmp_path),
    }
    folder = os.path.dirname(__file__)
    program = SMALL_MACHINE.format(folder=folder, lanes=lanes, strategy=strategy)
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
