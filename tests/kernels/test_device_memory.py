"""Kernels touch only memory that is theirs: contracts again, under AddressSanitizer and UBSan."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpuvec.testing import rehearsal

CONTRACTS = Path(__file__).with_name("test_device_contracts.py")
BROKEN = """
import numpy as np
from gpuvec.device.arrays import to_device
from gpuvec.kernels.select_k import select_k
from gpuvec.testing.rehearsal import rehearsal

def change(code):
    return code.replace("j < stop ? own[j] : 0.0f", "own[j + 9]")

with rehearsal(checked=True, change=change):
    select_k(to_device(np.zeros((1, 50), np.float32)), 3)
"""


def run_checked(*command):
    """Run Python with AddressSanitizer in it."""
    compiler = ["g++", "-print-file-name=libasan.so"]
    library = subprocess.run(compiler, capture_output=True, text=True, check=True).stdout.strip()
    options = "detect_leaks=0:detect_stack_use_after_return=0"
    changed = {"LD_PRELOAD": library, "ASAN_OPTIONS": options}
    return subprocess.run(
        [sys.executable, *command], env={**os.environ, **changed}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(rehearsal.why_not()), reason=rehearsal.why_not()),
]


def test_contracts_hold_and_nothing_else_is_touched():
    done = run_checked(
        "-m", "pytest", "-q", "-n", "0", "--device=checked", "-k", "order_1", str(CONTRACTS)
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_a_read_beyond_an_array_is_noticed():
    done = run_checked("-c", BROKEN)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr
