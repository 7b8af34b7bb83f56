"""Scans on tensor cores under their contract, and broken ones, which it notices."""

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from gpuvec.device.arrays import to_device
from gpuvec.index.flat import FlatIndex
from gpuvec.kernels.device_scan_codes import DeviceCodes
from gpuvec.kernels.device_scan_launch import stride, work_of
from gpuvec.kernels.launch import source_of
from gpuvec.kernels.pairwise import pairwise_distances
from gpuvec.settings import config
from gpuvec.testing.device_scans import DeviceScanTests, made_up
from gpuvec.testing.indexes import exact_answer
from gpuvec.types import Metric


class TestDeviceScan(DeviceScanTests):
    pass


@pytest.mark.parametrize("tiles", [1, 2, 3, 10, 97, 1000, 6180])
def test_all_tiles_are_taken_and_any_first_part_is_spread(tiles):
    taken = [i * stride(tiles) % tiles for i in range(tiles)]
    assert sorted(taken) == list(range(tiles))
    first = sorted(taken[: max(2, tiles // 10)])
    gaps = [b - a for a, b in pairwise(first)]
    assert max(gaps, default=0) <= 6 * max(1, tiles / len(first))


SCAN = [
    ("        __syncthreads();\n        if (step + STAGES", "        if (step + STAGES"),
    ("tile_wait<STAGES - 2>()", "tile_wait<STAGES - 1>()"),
    (
        "(16 * i + r % 2 * 8) * LINE + part + r / 2 * 16",
        "(16 * i + r / 2 * 8) * LINE + part + r % 2 * 16",
    ),
    ("part + r * 16", "part + r * 8"),
    ("r % 2 * 2 + c]", "r % 2 + c * 2]"),
    ("bool found = at < segment.count", "bool found = at <= segment.count"),
    (">> (at % 32) & 1", ">> (at % 31) & 1"),
    ("if (found && segment.listed) at = segment.listed[at];", ""),
    ("wanted[c].w - values[r].y", "wanted[c].w + values[r].y"),
    ("slot < kept.room", "slot <= kept.room"),
    ("number += gridDim.x;\n        }", "number += 1;\n        }"),
    ("if (lane >= step) until += other;", "until += other;"),
    ("- 2.0f * wrong", "- wrong"),
    ("uppers[c][r] = fmaf(wanted[c].x, product, wrong)", "uppers[c][r] = wanted[c].x * product"),
    ("column < job.width &&", "column <= job.width &&"),
    ("sums[i][j][r] = 0;", ";"),
    ("atomicMax(kept.dropped + query, order_of(uppers[r]));", ";"),
    ("from[i] + (real ? column : 0)", "from[i]"),
    ("first_tile <= tile", "first_tile < tile"),
]
TIGHTEN = [
    ("        bins[threadIdx.x] = 0;\n        __syncthreads();", "        bins[threadIdx.x] = 0;"),
    ("left > bins[bin]", "left >= bins[bin]"),
    ("__syncthreads();  // also", "// also"),
    ("(1u << lane) - 1", "(2u << lane) - 1"),
    ("__syncthreads();  // before", "// before"),
]
GATHER = [
    ("first_place <= (i64)places[pair]", "first_place < (i64)places[pair]"),
    ("row_bytes / 4; i += 32", "row_bytes / 4; i += 33"),
]
ENCODE = [
    ("step > 0; step /= 2) value += ", "step > 1; step /= 2) value += "),
    ("unit = peak / 127.0f", "unit = peak / 64.0f * 0.4f"),
    ("lost += ((double)x - near) * ((double)x - near);", ";"),
    ("square += (double)x * x;", ";"),
    ("number * width + c] = (signed char)level", "number * width + c] = (signed char)(level + 1)"),
]
MUTANTS = [
    pytest.param(file, text, instead, marks=[] if number == 0 else pytest.mark.slow)
    for file, changes in (
        ("scan_int8.cu", SCAN), ("scan_tighten.cu", TIGHTEN), ("scan_gather.cu", GATHER),
        ("scan_encode.cu", ENCODE),
    )
    for number, (text, instead) in enumerate(changes)
]  # fmt: skip


CHECK = """
import sys
import gpuvec.testing.device_scans as scans
text, instead = sys.argv[1:]
sys.exit(0 if scans.contract_holds(lambda code: code.replace(text, instead)) else 3)
"""


def still_right(text, instead):
    """Ask another process, which may die of a kernel that reads beyond its arrays."""
    command = [sys.executable, "-c", CHECK, text, instead]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in (0, 3) or done.returncode < 0, done.stderr
    return done.returncode == 0


@pytest.mark.usefixtures("rehearsed")
def test_the_contract_holds_for_the_sources_as_they_are():
    assert still_right("Segment", "Segment")


@pytest.mark.usefixtures("rehearsed")
@pytest.mark.parametrize(("file", "text", "instead"), MUTANTS)
def test_a_broken_scan_is_noticed(file, text, instead):
    assert text in source_of(file)
    assert not still_right(text, instead)


@pytest.mark.usefixtures("rehearsed")
def test_each_row_of_the_benchmark_is_measured_beside_its_roof(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks import gpu_kernels
    from benchmarks.gpu_report import measure

    own = ["scans", "filtered", "segments", "steps"]
    rows = measure(gpu_kernels.SECTIONS, gpu_kernels.SMALL, own)["rows"]
    assert {row["row"] for row in rows} == {
        "scan", "filtered scan", "segments in one launch", "steps of an exact batch"
    }  # fmt: skip
    assert all(row["share of roof"] > 0 for row in rows if row["row"] == "scan")


def test_the_work_of_a_scan_is_that_of_its_products_and_reads():
    codes = DeviceCodes("float16", Metric.IP, np.zeros((3, 64), np.uint8), None, None, 1.0, 0)
    work = work_of(1000, 7, codes)
    assert work.operations == 2 * 1000 * 7 * 32
    assert work.read_bytes == 1000 * (64 + 16)


@pytest.mark.usefixtures("rehearsed")
@pytest.mark.parametrize("limit", [200_000, 700_000, 4_000_000])
def test_little_memory_changes_the_way_and_not_the_answer(limit):
    rows, queries = made_up(np.float32, 4200, 70, 24)
    wanted = exact_answer(pairwise_distances(queries, rows, Metric.L2), 6)
    with config.set(device__memory_limit=limit):
        index = FlatIndex(to_device(rows), Metric.L2)
        for _ in range(2):
            found = index.search(to_device(queries), 6).to_host()
            np.testing.assert_array_equal(found.rows, wanted.rows)
        assert index.last_stats.strategy == (
            "device int8 scan" if limit == 4_000_000 else "device scan"
        )
