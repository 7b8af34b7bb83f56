"""CUDA sources compile to machine code for the cards that are meant, within what a card has."""

import re
import shutil

import pytest

from gpuvec.kernels import launch
from gpuvec.kernels.launch import source_of
from gpuvec.testing import nvrtc, shim

SOURCES = sorted(path.name for path in launch.SOURCES.glob("*.cu"))
QUICK = "sm_90a"
ARCHITECTURES = [pytest.param("sm_80", marks=pytest.mark.slow), QUICK]
REGISTERS = 64  # four blocks of 256 threads at once, on any card that is meant
SHARED_BYTES = 48 << 10  # static, which needs no asking
MORE_REGISTERS = {  # where a kernel keeps its tile in registers
    "bits_topk.cu": 96,
    "pairwise.cu": 128,
    "scan_bfloat16.cu": 255,
    "scan_float16.cu": 255,
    "scan_int8.cu": 255,
}

pytestmark = pytest.mark.skipif(nvrtc.library() is None, reason="no nvidia-cuda-nvrtc wheel")


@pytest.mark.parametrize("file", SOURCES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_kernels_stay_within_their_budget(file, architecture):
    found = nvrtc.resources(file, architecture)
    assert found, "a source without kernels"
    for name, taken in found.items():
        assert taken.spilled_bytes == 0, name
        assert taken.stack_bytes == 0, name
        assert taken.registers <= MORE_REGISTERS.get(file, REGISTERS), (name, taken.registers)
        assert taken.shared_bytes <= SHARED_BYTES, (name, taken.shared_bytes)


@pytest.mark.parametrize("file", ["pairwise.cu", "predicate.cu"])
def test_final_distances_and_conditions_see_the_smallest_numbers(file):
    assert ".ftz" in nvrtc.ptx("pairwise.cu", QUICK)  # the compiler was told to drop them
    assert not re.search(r"cvt\S*\.ftz\.f(64\.f32|32\.f64)", nvrtc.ptx(file, QUICK))


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")
@pytest.mark.parametrize("file", SOURCES)
def test_the_kernels_of_the_card_are_those_that_tests_run(file):
    assert set(shim.signatures(source_of(file))) == set(nvrtc.resources(file, QUICK))
