import numpy as np
import pytest

from gpuvec.errors import DeviceMemoryError
from gpuvec.index import registry
from gpuvec.index.auto import AUTO_LEAST_ROWS, Candidate, build_best, candidates, held_out_rows
from gpuvec.index.curve import CurvePoint
from gpuvec.index.spec import HNSW, IVFFlat, IVFInt8
from gpuvec.rows import DenseVectors


def clustered(count, width=32, seed=0, valid=None):
    rng = np.random.default_rng(seed)
    centers = 3 * np.random.default_rng(99).normal(size=(80, width))
    values = centers[rng.integers(0, 80, count)] + rng.normal(size=(count, width))
    return DenseVectors(values.astype(np.float32), valid)


@pytest.mark.parametrize(
    ("rows", "count"),
    [(0, 0), (9, 0), (10, 1), (500, 50), (1000, 100), (5000, 100), (20_000, 400), (90_000, 1000)],
)
def test_a_small_share_of_the_rows_is_held_out(rows, count):
    held_out = held_out_rows(DenseVectors(np.zeros((rows, 1), np.float32)))
    assert len(held_out) == count
    assert (np.diff(held_out) > 0).all()


def test_rows_held_out_have_vectors_and_are_the_same_each_time():
    vectors = clustered(3000, valid=np.arange(3000) % 2 > 0)
    first, again = held_out_rows(vectors), held_out_rows(vectors)
    np.testing.assert_array_equal(first, again)
    assert vectors.valid[first].all()
    assert not np.array_equal(first, held_out_rows(vectors, seed=1))


def test_few_rows_and_bits_need_no_index():
    assert candidates(clustered(AUTO_LEAST_ROWS - 1), "l2") == []
    bits = DenseVectors(np.zeros((AUTO_LEAST_ROWS, 8), np.uint8))
    assert candidates(bits, "hamming") == []
    assert candidates(clustered(AUTO_LEAST_ROWS), "l2")[0] == IVFInt8()
    built = build_best(None, clustered(200), "l2", recall=0.9)
    assert (built.index, built.curve, built.best, built.candidates) == (None, None, None, ())


def test_an_index_asked_for_is_built_measured_and_completed():
    vectors = clustered(3000)
    told = []
    built = build_best(IVFInt8(), vectors, "l2", recall=0.9, progress=told.append)
    assert built.index.spec.n_lists
    assert built.best.low >= 0.9
    assert built.best.params in [p.params for p in built.curve.points if p.low == built.best.low]
    late = held_out_rows(vectors)
    found = built.index.search(vectors.values[late], 1, params={"effort": 1.0})
    assert np.mean(found.rows[:, 0] == late) >= 0.95
    (candidate,) = built.candidates
    assert candidate.built
    assert candidate.reason.startswith("asked for; ")
    assert candidate.nbytes == built.index.nbytes > 0
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_a_recall_that_cannot_be_had_is_told():
    built = build_best(IVFInt8(), clustered(3000), "l2", recall=0.99999)
    assert built.index is not None
    assert built.best is None
    assert "settings tried reaches recall 0.99999" in built.candidates[0].reason


def test_an_index_of_very_few_rows_promises_nothing():
    built = build_best(IVFInt8(), clustered(7), "l2", recall=0.9)
    assert built.curve.points == ()
    assert built.candidates[0].reason == "asked for; too few rows to measure recall on"


def test_given_queries_are_measured_with():
    built = build_best(
        IVFInt8(), clustered(3000), "l2", recall=0.9, queries=clustered(150, seed=3).values
    )
    assert built.curve.source == "given queries"
    assert {p.queries for p in built.curve.points} <= {96, 150}


def test_the_k_asked_for_is_measured_too():
    built = build_best(IVFInt8(), clustered(3000), "l2", recall=0.9, k=25)
    assert built.curve.ks == (10, 25, 100)
    assert built.best.k == 25


@pytest.mark.slow
def test_auto_takes_what_gains_most_and_says_why_not_others():
    vectors = clustered(60_000, 64)
    built = build_best(None, vectors, "l2", recall=0.9)
    taken = [c for c in built.candidates if built.index and c.spec == built.index.spec]
    gains = [candidate.gain for candidate in built.candidates]
    assert taken
    assert taken[0].gain == max(gains) >= 1.2
    assert all(candidate.reason for candidate in built.candidates)


def test_no_index_where_none_gains():
    """In noise of many dimensions, an index that finds enough looks at nearly all rows."""
    noise = np.random.default_rng(0).normal(size=(5000, 48)).astype(np.float32)
    built = build_best(None, DenseVectors(noise), "l2", recall=0.999)
    assert built.index is None
    assert [c.built for c in built.candidates] == [True] * len(built.candidates)


def test_a_budget_too_small_for_any_index_names_the_parts_of_each():
    vectors = clustered(AUTO_LEAST_ROWS)
    with pytest.raises(DeviceMemoryError) as caught:
        build_best(None, vectors, "l2", recall=0.9, max_memory=1000)
    assert caught.value.code == "GV-402"
    assert caught.value.details["index"] == 1000
    stays = registry.build_bytes(IVFInt8(), len(vectors), vectors)["index"]
    assert caught.value.details["parts"]["ivf_int8"]["index"] == stays
    assert "ivf_int8: index" in str(caught.value)
    with pytest.raises(DeviceMemoryError) as caught:
        build_best(None, vectors, "l2", recall=0.9, memory_limit=1000)
    assert caught.value.code == "GV-402"


def test_an_index_asked_for_that_is_too_large_is_refused():
    with pytest.raises(DeviceMemoryError) as caught:
        build_best(IVFInt8(), clustered(500), "l2", recall=0.9, max_memory=1000)
    assert caught.value.code == "GV-401"
    with pytest.raises(DeviceMemoryError) as caught:
        build_best(IVFInt8(), clustered(500), "l2", recall=0.9, memory_limit=30_000)
    assert caught.value.code == "GV-401"
    assert len(caught.value.details["parts"]) >= 2


def test_a_candidate_too_large_is_left_out():
    pytest.importorskip("faiss")
    vectors = clustered(AUTO_LEAST_ROWS)
    sizes = [
        registry.build_bytes(spec, len(vectors), vectors)["index"] for spec in (IVFInt8(), HNSW())
    ]
    assert sizes[0] < sizes[1]
    built = build_best(None, vectors, "l2", recall=0.9, max_memory=sizes[1] - 1)
    (left_out,) = [c for c in built.candidates if isinstance(c.spec, HNSW)]
    assert not left_out.built
    assert "max_memory" in left_out.reason


def test_gain_weighs_batches_before_single_queries():
    def point(batch_s, single_s):
        return CurvePoint(
            params={}, k=10, selectivity=1.0, case="all", recall=1.0, low=1.0, high=1.0,
            queries=100, batch_s=batch_s, single_s=single_s,
        )  # fmt: skip

    def gain(batch, single):
        return Candidate(
            spec=HNSW(), built=True, reason="", point=point(1, 1), exact=point(batch, single)
        ).gain

    assert gain(8.0, 1.0) == pytest.approx(4.0)
    assert gain(1.0, 8.0) == pytest.approx(2.0)
    assert Candidate(spec=HNSW(), built=True, reason="").gain == 0.0


@pytest.mark.parametrize(
    ("dtype", "metric"),
    [("float16", "cosine"), ("int8", "l2"), ("uint8", "sqeuclidean"), ("float32", "ip")],
)
def test_every_kind_of_dense_vector_is_measured(dtype, metric):
    values = clustered(2000).values
    values = (
        (10 * np.abs(values)).astype(dtype) if dtype == "uint8" else (10 * values).astype(dtype)
    )
    built = build_best(IVFInt8(), DenseVectors(values), metric, recall=0.8)
    assert built.best.low >= 0.8


def test_bits_are_measured_where_they_are_asked_for():
    pytest.importorskip("faiss")
    bits = DenseVectors(np.packbits(clustered(2000, 64).values > 0, axis=1))
    built = build_best(IVFFlat(), bits, "hamming", recall=0.8)
    assert built.best.low >= 0.8
