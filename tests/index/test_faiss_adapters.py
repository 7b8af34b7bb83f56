"""What the adapters of FAISS see to: its traps, its threads, the memory it takes."""

import os
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest

from gpuvec.errors import CorruptError, DeviceMemoryError, UnsupportedError
from gpuvec.index import registry
from gpuvec.index.faiss_library import faiss_library, opened, openmp_threads, written
from gpuvec.index.spec import CAGRA, HNSW, IVFPQ, IVFSQ8, IVFFlat, IVFRaBitQ
from gpuvec.kernels.nearest_of import NearestOf
from gpuvec.kernels.pairwise import pairwise_distances
from gpuvec.kernels.select_k import select_k_reference
from gpuvec.rows import DenseVectors
from gpuvec.testing.approximate_indexes import made_up_kind, recall_of
from gpuvec.testing.kernels import CASES, made_up
from gpuvec.types import Metric

SPECS = [
    HNSW(m=16, ef_construction=60),
    IVFFlat(),
    IVFSQ8(),
    CAGRA(graph_degree=32, intermediate_graph_degree=64),
    IVFPQ(),
    IVFPQ(pq_bits=8),
    IVFRaBitQ(),
    IVFRaBitQ(bits=4),
]


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_without_faiss_the_error_names_what_to_install(spec):
    code = f"""
import sys
sys.modules["faiss"] = None
import numpy as np
from gpuvec.errors import UnsupportedError
from gpuvec.index import registry
from gpuvec.index.spec import {type(spec).__name__}
from gpuvec.rows import DenseVectors
try:
    registry.build({spec}, DenseVectors(np.ones((3, 4), np.float32)), "l2")
except UnsupportedError as error:
    print(error.code, error.hint)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.startswith('GV-320 pip install "gpuvec[cpu]"')


def test_threads_that_need_faiss_at_once_import_it_once():
    code = """
import os, threading
from gpuvec.index.faiss_library import faiss_library
start, found = threading.Barrier(8), []

def ask():
    start.wait()
    found.append(faiss_library())

threads = [threading.Thread(target=ask) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(found) == 8 and len(set(map(id, found))) == 1
assert "OPENBLAS_CORETYPE" not in os.environ
"""
    environment = {name: value for name, value in os.environ.items() if "OPENBLAS" not in name}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_rows_that_do_not_lie_one_after_the_other_are_copied():
    queries, rows = made_up_kind("gaussian", Metric.L2, np.float32)
    spread = np.repeat(rows, 2, axis=1)[:, ::2]
    found = registry.build(SPECS[0], DenseVectors(spread), Metric.L2, threads=1)
    wanted = registry.build(SPECS[0], DenseVectors(rows), Metric.L2, threads=1)
    np.testing.assert_array_equal(found.search(queries, 10).rows, wanted.search(queries, 10).rows)


@pytest.mark.parametrize(
    ("spec", "metric"),
    [
        (HNSW(), Metric.JACCARD),
        (IVFSQ8(), Metric.HAMMING),
        (IVFSQ8(), Metric.JACCARD),
        (IVFPQ(), Metric.HAMMING),
        (IVFRaBitQ(), Metric.HAMMING),
        (CAGRA(), Metric.HAMMING),
    ],
)
def test_metrics_that_faiss_cannot_serve_are_refused(spec, metric):
    with pytest.raises(UnsupportedError, match="cannot serve metric") as caught:
        registry.build(spec, DenseVectors(np.zeros((9, 4), np.uint8)), metric)
    assert caught.value.code == "GV-320"


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_builds_and_searches_print_nothing(spec, capfd):
    queries, rows = made_up_kind("gaussian", Metric.L2, np.float32)
    registry.build(spec, DenseVectors(rows[:300]), Metric.L2).search(queries, 10)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_callers_openmp_threads_stay_as_they_were(spec):
    queries, rows = made_up_kind("gaussian", Metric.L2, np.float32)
    with openmp_threads(3) as faiss:
        index = registry.build(spec, DenseVectors(rows[:300]), Metric.L2, threads=1)
        index.search(queries, 10, threads=2)
        assert faiss.omp_get_max_threads() == 3


@pytest.mark.parametrize("spec", SPECS, ids=str)
@pytest.mark.parametrize("metric", [Metric.COSINE, Metric.IP, Metric.L2])
@pytest.mark.parametrize("size", [0.0, 1e-25, 1e25])
def test_queries_of_any_size_are_answered(spec, metric, size):
    queries, rows = made_up_kind("clustered", metric, np.float32)
    asked = (queries * np.float32(size)).astype(np.float32)
    index = registry.build(spec, DenseVectors(rows), metric, threads=1)
    found = index.search(asked, 10, params=dict(index.settings(10)[-1]), threads=1)
    distances = pairwise_distances(asked, rows, metric)
    assert recall_of(found, distances, 10) >= (0.0 if metric is Metric.L2 and size > 1 else 0.9)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_queries_between_whole_numbers_are_not_rounded(spec):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 4, (3000, 16)).astype(np.int8)
    queries = rng.uniform(-0.5, 3.5, (60, 16)).astype(np.float32)
    index = registry.build(spec, DenseVectors(rows), Metric.L2, threads=1)
    found = index.search(queries, 10, params=dict(index.settings(10)[-1]))
    assert recall_of(found, pairwise_distances(queries, rows, Metric.L2), 10) >= 0.97


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP, Metric.COSINE])
def test_a_graph_reads_rows_where_the_segment_holds_them(dtype, metric):
    rows = unit(np.random.default_rng(0).normal(size=(2000, 200))).astype(dtype)
    index = registry.build(SPECS[0], DenseVectors(rows), metric, threads=1)
    assert index.nbytes < len(rows) * (8 * SPECS[0].m + 30)
    valid = np.arange(len(rows)) > 0
    copied = registry.build(SPECS[0], DenseVectors(rows, valid), metric, threads=1)
    assert copied.nbytes > index.nbytes + 0.45 * rows.nbytes


def test_rows_sorted_by_cluster_make_as_good_a_graph():
    rng = np.random.default_rng(0)
    centers = np.repeat(rng.normal(size=(50, 32)), 60, axis=0)
    rows = (centers + 0.3 * rng.normal(size=centers.shape)).astype(np.float32)
    queries = rows[::60] + 0.1 * rng.normal(size=(50, 32)).astype(np.float32)
    distances = pairwise_distances(queries, rows, Metric.L2)
    index = registry.build(HNSW(m=8, ef_construction=40), DenseVectors(rows), Metric.L2, threads=1)
    assert recall_of(index.search(queries, 10), distances, 10) >= 0.97


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_the_same_rows_make_the_same_files_on_one_thread(spec):
    _, rows = made_up_kind("clustered", Metric.L2, np.float32)
    held_out = np.arange(0, 1000, 50)
    made = []
    for _ in range(2):
        index = registry.build(
            spec, DenseVectors(rows[:1000]), Metric.L2, held_out=held_out, threads=1
        )
        index.complete()
        made.append({name: bytes(parts[0]) for name, parts in index.files().items()})
    assert made[0] == made[1]


@pytest.mark.parametrize(
    "spec",
    [IVFFlat(n_lists=5000), IVFSQ8(n_lists=5000), IVFPQ(n_lists=5000), IVFRaBitQ(n_lists=5000)],
)
def test_lists_are_no_more_than_rows(spec):
    queries, rows = made_up_kind("gaussian", Metric.L2, np.float32)
    index = registry.build(spec, DenseVectors(rows[:90]), Metric.L2)
    assert index.spec.n_lists == 90
    found = index.search(queries, 10, params={"n_probes": 5000})
    assert (found.rows >= 0).all()


def test_a_batch_is_cut_to_its_memory_limit():
    queries, rows = made_up_kind("gaussian", Metric.L2, np.float32)
    index = registry.build(IVFFlat(), DenseVectors(rows), Metric.L2)
    wanted = index.search(queries, 10)
    found = index.search(queries, 10, memory_limit=20_000)
    np.testing.assert_array_equal(found.rows, wanted.rows)
    for some in (queries, queries[:1]):
        with pytest.raises(DeviceMemoryError, match="candidates of a query") as caught:
            index.search(some, 10, memory_limit=100)
        assert caught.value.code == "GV-403"


def test_searches_of_several_threads_run_side_by_side():
    """FAISS lets go of the interpreter: a long search does not hold up another thread."""
    queries, rows = made_up_kind("gaussian", Metric.L2, np.float32)
    index = registry.build(SPECS[0], DenseVectors(rows), Metric.L2)
    many = np.tile(queries, (20, 1))
    ended = threading.Event()

    def search():
        index.search(many, 10, params={"ef_search": 1024}, threads=1)
        ended.set()

    index.search(queries, 10)
    worker = threading.Thread(target=search)
    worker.start()
    turns = 0
    while not ended.wait(0.001):
        turns += 1
    worker.join()
    assert turns > 10


@pytest.mark.parametrize("expected", [0, 1 << 20])
def test_an_index_is_written_once_and_read_in_place(expected):
    _, rows = made_up_kind("gaussian", Metric.L2, np.float32)
    graph = faiss_library().IndexHNSWFlat(rows.shape[1], 16)
    graph.add(rows)
    data = written(graph, expected)
    np.testing.assert_array_equal(data, faiss_library().serialize_index(graph))
    read = opened(data)
    assert not read.hnsw.neighbors.is_owned
    assert not faiss_library().downcast_index(read.storage).codes.is_owned


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.9])
def test_a_file_that_is_cut_short_is_refused(binary, share):
    metric, dtype = (Metric.HAMMING, np.uint8) if binary else (Metric.L2, np.float32)
    _, rows = made_up_kind("gaussian", metric, dtype)
    index = registry.build(SPECS[0], DenseVectors(rows), metric, threads=1)
    data = np.array(index.files()["graph.faiss"][0])
    with pytest.raises(CorruptError) as caught:
        opened(data[: int(share * len(data))], binary=binary)
    assert caught.value.code == "GV-331"


@pytest.mark.parametrize(("metric", "dtype"), CASES)
@pytest.mark.parametrize("ranked", [False, True])
def test_the_nearest_of_candidates_are_the_references(metric, dtype, ranked):
    queries, rows = made_up(metric, dtype, 60, 20)
    rng = np.random.default_rng(1)
    candidates = np.stack([rng.permutation(60)[:30] for _ in queries])
    candidates[:, 5:9] = -1
    candidates[2] = -1
    rank = rng.permutation(60) if ranked else None
    distances = np.full((5, 60), np.inf, np.float32)
    every = pairwise_distances(queries, rows, metric)
    for i, listed in enumerate(candidates):
        distances[i, listed[listed >= 0]] = every[i, listed[listed >= 0]]
    for k in (1, 7, 40):
        wanted = select_k_reference(distances, k, tie_rank=rank)
        hidden = np.isposinf(wanted.distances)
        found = NearestOf(rows, metric)(queries, candidates, k, tie_rank=rank)
        compiled = NearestOf(rows, metric)._compiled(queries, candidates, k, rank)
        for answer in (found, compiled):
            np.testing.assert_array_equal(
                answer.rows[:, : min(k, 60)], np.where(hidden, -1, wanted.rows)
            )
            np.testing.assert_array_equal(answer.distances[:, : min(k, 60)], wanted.distances)


@pytest.mark.parametrize("spec", [IVFPQ(), IVFRaBitQ()], ids=str)
@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP, Metric.COSINE])
def test_a_mask_holds_where_many_rows_are_compared_at_once(spec, metric):
    queries, rows = made_up_kind("clustered", metric, np.float32)
    distances = pairwise_distances(queries, rows, metric)
    index = registry.build(spec, DenseVectors(rows), metric, threads=1)
    for share in (0.5, 0.05):
        keep = np.random.default_rng(0).random(len(rows)) < share
        found = index.search(queries, 10, params=dict(index.settings(10)[-1]), keep=keep)
        assert set(found.rows.ravel()) - {-1} <= set(np.flatnonzero(keep))
        left = np.where(keep, distances, np.inf).astype(np.float32)
        assert recall_of(found, left, 10) >= 0.97


@pytest.mark.parametrize("bits", [4, 8])
def test_tables_of_lists_take_no_more_than_the_codes(bits):
    _, rows = made_up_kind("gaussian", Metric.L2, np.float32)
    vectors = DenseVectors(rows)
    many = registry.build(IVFPQ(n_lists=400, pq_bits=bits), vectors, Metric.L2, threads=1)
    stored = sum(memoryview(part).nbytes for part in many.files()["lists.faiss"])
    assert many.nbytes <= 4 * stored


def test_a_turn_makes_directions_alike():
    """All that tells rows apart lies in two dimensions: bits of these alone would say little."""
    rng = np.random.default_rng(0)
    rows = 0.01 * rng.normal(size=(3000, 32)).astype(np.float32)
    rows[:, :2] += rng.normal(size=(3000, 2)).astype(np.float32)
    queries = rows[:50] + 0.01 * rng.normal(size=(50, 32)).astype(np.float32)
    index = registry.build(IVFRaBitQ(n_lists=1), DenseVectors(rows), Metric.L2, threads=1)
    found = index.search(queries, 10, params={"n_probes": 1, "refine": 16}, threads=1)
    assert recall_of(found, pairwise_distances(queries, rows, Metric.L2), 10) >= 0.9


PEAK = """
import sys
import numpy as np
from gpuvec.index import registry, spec
from gpuvec.rows import DenseVectors

def status(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

wish, metric, dtype = eval("spec." + sys.argv[1]), sys.argv[2], sys.argv[3]
rng = np.random.default_rng(0)
rows = np.empty((60_000, 96), dtype)
for start in range(0, len(rows), 4096):
    rows[start : start + 4096] = (30 * rng.normal(size=(4096, 96)))[: len(rows) - start]
vectors = DenseVectors(rows, np.arange(len(rows)) % 9 > 0)
registry.build(wish, vectors.slice(0, 2000), metric)  # libraries and bodies are loaded
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
registry.build(wish, vectors, metric, held_out=np.arange(1, len(rows), 99)).complete()
said = sum(registry.build_bytes(wish, len(rows), vectors).values())
print((status("VmHWM") - before) / said)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spec", "metric", "dtype"),
    [
        ("HNSW(m=16, ef_construction=20)", "l2", "float32"),
        ("HNSW(m=16, ef_construction=20)", "hamming", "uint8"),
        ("IVFFlat()", "l2", "float32"),
        ("IVFFlat()", "hamming", "uint8"),
        ("IVFSQ8()", "cosine", "float16"),
        ("IVFPQ()", "l2", "float32"),
        ("IVFPQ(pq_bits=8)", "cosine", "float16"),
        ("IVFRaBitQ()", "l2", "float32"),
        ("IVFRaBitQ(bits=4)", "ip", "float32"),
        ("CAGRA(graph_degree=32, intermediate_graph_degree=32)", "l2", "float32"),
    ],
)
def test_a_build_takes_about_the_memory_it_says(spec, metric, dtype):
    run = [sys.executable, "-c", PEAK, spec, metric, dtype]
    share = float(subprocess.run(run, capture_output=True, text=True, check=True).stdout)
    assert 0.4 <= share <= 1.3
