"""Machine code that is cached is the code of the files as they are."""

import subprocess
import sys

INNER = """
from gpuvec.device.compiled import njit
@njit(inline="always")
def inner(x):
    return x + {}
"""
OUTER = """
from pathlib import Path
from gpuvec.device.compiled import njit, use_fresh_code
use_fresh_code(Path(__file__).parent)
from inner import inner
@njit(cache=True)
def outer(x):
    return inner(x)
"""


def run(folder) -> tuple[int, str]:
    code = "from outer import outer; print(outer(1))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
    )
    return int(done.stdout), done.stderr


def test_a_change_of_an_inlined_file_is_noticed(tmp_path):
    (tmp_path / "outer.py").write_text(OUTER)
    (tmp_path / "inner.py").write_text(INNER.format(1))
    found, said = run(tmp_path)
    assert found == 2
    assert "compiling for this processor, once" in said
    (tmp_path / "inner.py").write_text(INNER.format(2))
    assert run(tmp_path)[0] == 3


def test_unchanged_files_are_compiled_once(tmp_path):
    (tmp_path / "outer.py").write_text(OUTER)
    (tmp_path / "inner.py").write_text(INNER.format(1))
    run(tmp_path)
    compiled = list((tmp_path / "__pycache__").glob("outer.outer*.nbi"))
    stamps = [file.stat().st_mtime_ns for file in compiled]
    assert run(tmp_path) == (2, "")
    assert compiled
    assert [file.stat().st_mtime_ns for file in compiled] == stamps
