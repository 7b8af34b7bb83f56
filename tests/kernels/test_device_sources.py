"""The device bodies, run on a CPU through the shim: the same source, wrappers and oracles."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from gpuvec.device.memory import Memory
from gpuvec.index import flat_device
from gpuvec.index.flat_scans import Request
from gpuvec.kernels import bitset, launch
from gpuvec.kernels.device_pairwise import paired_on_device, pairwise_on_device
from gpuvec.kernels.device_select import select_on_device
from gpuvec.kernels.launch import source_of
from gpuvec.kernels.pairwise import paired_in_numpy, pairwise_distances
from gpuvec.kernels.select_k import select_k_reference
from gpuvec.testing.indexes import exact_answer
from gpuvec.testing.kernels import CASES, made_up
from gpuvec.types import Metric

SOURCES = sorted(path.name for path in launch.SOURCES.glob("*.cu"))
ARCHITECTURES = [pytest.param("sm_80", marks=pytest.mark.slow), "sm_90a"]


def stored(rows):
    """Return rows as they lie on a device, where bfloat16 is its bits."""
    return rows.view(np.uint16) if rows.dtype.name == "bfloat16" else rows


@pytest.mark.usefixtures("shim")
@pytest.mark.parametrize(("metric", "dtype"), CASES)
@pytest.mark.parametrize("width", [1, 16, 37])
def test_device_pairs_have_the_bits_of_the_host(metric, dtype, width):
    queries, rows = made_up(metric, dtype, 11, width)
    owner, row = np.repeat(np.arange(5), 11), np.tile(np.arange(11), 5)
    found = paired_on_device(queries, stored(rows), owner, row, metric)
    wanted = paired_in_numpy(queries, rows, owner, row, metric)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.usefixtures("shim")
@pytest.mark.parametrize(("metric", "dtype"), CASES)
@pytest.mark.parametrize(("count", "width"), [(1, 1), (70, 37)])
def test_device_tiles_are_near_the_host(metric, dtype, count, width):
    queries, rows = made_up(metric, dtype, count, width)
    wanted = pairwise_distances(queries, rows, metric)
    found = pairwise_on_device(queries, stored(rows), metric)
    size = 1.0 if metric is Metric.COSINE else float(np.abs(wanted).max())
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6 * size)


@pytest.mark.usefixtures("shim")
@pytest.mark.parametrize("n", [1, 300, 3000])
@pytest.mark.parametrize("k", [1, 10, 400])
@pytest.mark.parametrize("ranked", [False, True])
@pytest.mark.parametrize("values", [2, 1 << 30])
def test_device_selection_is_the_reference(n, k, ranked, values):
    rng = np.random.default_rng(n + k)
    distances = (rng.integers(-values, values, (2, n)) / 7).astype(np.float32)
    rank = rng.permutation(n) if ranked else None
    wanted = select_k_reference(distances, k, tie_rank=rank)
    found = select_on_device(distances, k, rank)
    np.testing.assert_array_equal(found.rows, wanted.rows)
    np.testing.assert_array_equal(found.distances, wanted.distances)


@pytest.mark.usefixtures("shim")
@pytest.mark.parametrize("ranked", [False, True])
def test_a_long_row_is_selected_in_parts(ranked):
    rng = np.random.default_rng(0)
    distances = rng.integers(0, 50, (1, 40_001)).astype(np.float32)
    rank = rng.permutation(40_001) if ranked else None
    found = select_on_device(distances, 30, rank)
    wanted = select_k_reference(distances, 30, tie_rank=rank)
    np.testing.assert_array_equal(found.rows, wanted.rows)


@pytest.mark.usefixtures("shim")
def test_infinities_and_signed_zeros_are_selected_in_order():
    distances = np.array([[np.inf, 0.0, -0.0, -np.inf, np.inf]], np.float32)
    assert select_on_device(distances, 4, None).rows.tolist() == [[3, 1, 2, 0]]


def test_set_bits_are_counted(shim):
    mask = np.random.default_rng(0).random(1000) < 0.3
    bits, total = bitset.pack(mask), np.zeros(1, np.uint64)
    shim("bitset.cu", "count_bits").over(
        len(bits.words), bits.words, np.int64(len(bits.words)), total
    )
    assert total[0] == mask.sum()


@pytest.fixture
def device_scan(shim, monkeypatch):
    """Builds the device's scan over host arrays: its own code, kernels through the shim."""
    monkeypatch.setattr(flat_device, "device_memory", lambda: Memory(total=1 << 20, free=1 << 15))
    monkeypatch.setattr(flat_device, "to_device", lambda x: x)
    monkeypatch.setattr(flat_device, "pairwise_distances", pairwise_on_device)
    monkeypatch.setattr(flat_device, "paired_distances", paired_on_device)
    monkeypatch.setattr(
        flat_device, "select_k", lambda x, k, tie_rank=None: select_on_device(x, k, tie_rank)
    )
    return flat_device.DeviceScan


def ask(queries, keep, rank, count):
    return Request(
        queries=queries, keep=keep, count=count if keep is None else int(keep.sum()),
        tie_rank=rank, threads=0, memory_limit=1 << 20,
    )  # fmt: skip


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("masked", [False, True])
def test_the_device_scan_is_the_oracle(device_scan, metric, masked):
    binary = metric in (Metric.HAMMING, Metric.JACCARD)
    queries, rows = made_up(metric, np.uint8 if binary else np.float32, 700, 9)
    keep = np.arange(700) % 3 > 0 if masked else None
    rank = np.random.default_rng(3).permutation(700)
    distances = pairwise_distances(queries, rows, metric)
    bound = np.sort(distances, axis=1)[:, 300]
    wanted = exact_answer(distances, 8, keep=keep, tie_rank=rank, bound=bound)
    scan = device_scan(rows, metric)
    found = scan.topk(ask(queries, keep, rank, 700), 8, bound)[0]
    np.testing.assert_array_equal(found.rows, wanted.rows)
    np.testing.assert_array_equal(found.distances, wanted.distances)


@pytest.mark.parametrize("metric", list(Metric))
def test_the_device_range_is_the_oracle(device_scan, metric):
    binary = metric in (Metric.HAMMING, Metric.JACCARD)
    queries, rows = made_up(metric, np.uint8 if binary else np.float32, 300, 9)
    distances = pairwise_distances(queries, rows, metric)
    low, high = np.sort(distances, axis=1)[:, 20], np.sort(distances, axis=1)[:, 90]
    found, _ = device_scan(rows, metric).range(ask(queries, None, None, 300), low, high)
    for i in range(5):
        inside = np.flatnonzero((distances[i] > low[i]) & (distances[i] <= high[i]))
        wanted = inside[np.argsort(distances[i, inside], kind="stable")]
        own = slice(found.offsets[i], found.offsets[i + 1])
        np.testing.assert_array_equal(found.rows[own], wanted)
        np.testing.assert_array_equal(found.distances[own], distances[i, wanted])


def nvrtc():
    """Return the CUDA run-time compiler of its wheel, or None."""
    try:
        import nvidia
    except ImportError:
        return None
    folders = [Path(folder) for folder in nvidia.__path__]
    found = [path for folder in folders for path in folder.glob("**/libnvrtc.so.*")]
    if not found:
        return None
    for part in found[0].parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(part))  # the compiler looks for it by name
    return ctypes.CDLL(str(found[0]))


def compile_by_nvrtc(library, source, architecture):
    """Return (status, log) of compiling to machine code."""
    program = ctypes.c_void_p()
    text = source.encode()
    library.nvrtcCreateProgram(ctypes.byref(program), text, b"source.cu", 0, None, None)
    options = [b"-std=c++17", f"--gpu-architecture={architecture}".encode()]
    given = (ctypes.c_char_p * len(options))(*options)
    status = library.nvrtcCompileProgram(program, len(options), given)
    size = ctypes.c_size_t()
    library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    library.nvrtcGetProgramLog(program, log)
    library.nvrtcGetCUBINSize(program, ctypes.byref(size))
    return status, log.value.decode(), size.value


@pytest.mark.parametrize("file", SOURCES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sources_compile_to_machine_code(file, architecture, tmp_path):
    library = nvrtc()
    if library is not None:
        status, log, size = compile_by_nvrtc(library, source_of(file), architecture)
        assert status == 0, log
        assert size > 0
        return
    if shutil.which("nvcc") is None:
        pytest.skip("neither the nvidia-cuda-nvrtc wheel nor nvcc")
    source = tmp_path / file
    source.write_text(source_of(file))
    command = ["nvcc", "-std=c++17", f"-arch={architecture}", "-cubin", "-o", "/dev/null"]
    subprocess.run([*command, str(source)], check=True)
