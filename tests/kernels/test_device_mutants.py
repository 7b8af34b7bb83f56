"""The shim and its oracles notice broken kernels: missing barriers, wrong lanes, lost bits."""

import ml_dtypes
import numpy as np
import pytest

from gpuvec.kernels import device_pairwise, device_select
from gpuvec.kernels.launch import source_of
from gpuvec.kernels.pairwise import paired_in_numpy, pairwise_distances
from gpuvec.kernels.select_k import select_k_reference
from gpuvec.testing.kernels import made_up
from gpuvec.types import Metric

BARRIER = "        __syncthreads();\n"
PAIRWISE = [
    (BARRIER + "        float part", "        float part"),
    (BARRIER + "    }\n    for", "    }\n    for"),
    ("int step = 8", "int step = 4"),
    ("c += 16)", "c += 15)"),
    ("i < m && j < n", "i < m && j < n - 1"),
    ("column += SLICE", "column += SLICE + 1"),
    ("bits << 16", "bits << 15"),
    ("0x77800000u", "0x77000000u"),
]
SELECT = [
    (BARRIER + "        u64 known", "        u64 known"),
    (BARRIER + "        if (threadIdx.x == 0) {\n            int", "if (threadIdx.x == 0) { int"),
    ("columns.rank(j) <= last_rank", "columns.rank(j) < last_rank"),
    ("if (bits == 0x80000000u) bits = 0;", ""),
    ("state->left > (i64)bins", "state->left >= (i64)bins"),
    ("~bits : bits |", "bits : bits |"),
]


def pairs_are_right() -> bool:
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        queries, rows = made_up(Metric.L2, dtype, 70, 37)
        stored = rows.view(np.uint16) if dtype is ml_dtypes.bfloat16 else rows
        owner, row = np.repeat(np.arange(5), 70), np.tile(np.arange(70), 5)
        one = device_pairwise.paired_on_device(queries, stored, owner, row, Metric.L2)
        wanted = paired_in_numpy(queries, rows, owner, row, Metric.L2)
        tile = device_pairwise.pairwise_on_device(queries, stored, Metric.L2)
        exact = pairwise_distances(queries, rows, Metric.L2)
        if not (np.array_equal(one, wanted) and np.allclose(tile, exact, rtol=1e-5)):
            return False
    return True


def selections_are_right() -> bool:
    rng = np.random.default_rng(0)
    spread = rng.normal(size=(2, 3000)).astype(np.float32)
    tied = rng.integers(0, 3, (2, 3000)).astype(np.float32)
    zeros = np.where(rng.random((2, 300)) < 0.5, np.float32(-0.0), np.float32(0.0))
    for distances in (spread, tied, zeros):
        rank = rng.permutation(distances.shape[1])
        wanted = select_k_reference(distances, 50, tie_rank=rank)
        try:
            found = device_select.select_on_device(distances, 50, rank)
        except IndexError:  # places that a broken kernel left unwritten
            return False
        if not np.array_equal(found.rows, wanted.rows):
            return False
    return True


@pytest.fixture
def run(tmp_path, build_shim, use_shim):
    """A function from a changed source to whether its kernels still work in any order."""

    def works(file, text, instead):
        source = source_of(file)
        assert text in source
        library = build_shim(tmp_path, "mutant", source.replace(text, instead))
        right = pairs_are_right if file == "pairwise.cu" else selections_are_right
        for order in (1, 2, 3):
            use_shim(lambda _: library, order)
            if not right():
                return False
        return True

    return works


@pytest.mark.slow
@pytest.mark.parametrize("file", ["pairwise.cu", "select_k.cu"])
def test_the_sources_as_they_are_work(run, file):
    assert run(file, "Metric", "Metric")


@pytest.mark.slow
@pytest.mark.parametrize(("text", "instead"), PAIRWISE)
def test_a_broken_distance_is_noticed(run, text, instead):
    assert not run("pairwise.cu", text, instead)


@pytest.mark.slow
@pytest.mark.parametrize(("text", "instead"), SELECT)
def test_a_broken_selection_is_noticed(run, text, instead):
    assert not run("select_k.cu", text, instead)
