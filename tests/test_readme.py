"""The README's first five minutes run as they are written."""

import os
import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_the_code_runs_from_top_to_bottom(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    said = [run(code, tmp_path) for code in blocks]
    assert "k=3 cosine exact" in said[0]
    assert 'Index of "embedding"' in said[1]
    assert "RecallReport(recall=" in said[1]


def run(code: str, cwd: Path) -> str:
    """Run a block on fewer rows, a warning being an error; return what it printed."""
    code = code.replace("100_000", "20_000")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=cwd, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_command_lines_run(tmp_path):
    (lines,) = re.findall(r"## Command line\n+```sh\n(.*?)```", README, re.DOTALL)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path},
    )
    assert done.returncode == 0, done.stderr
    assert "20,000 of 20,000 rows stored" in done.stdout
    assert (
        re.findall(r"│ +(?:none|50pct|10pct|1pct) *│.*│ +(\d\.\d{4}) +│", done.stdout)
        == ["1.0000"] * 4
    )


def test_the_commands_of_the_readme_are_targets_of_the_makefile():
    targets = (Path(__file__).resolve().parents[1] / "Makefile").read_text()
    for name in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{name}: " in targets
