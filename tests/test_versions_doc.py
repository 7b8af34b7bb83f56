"""The code of docs/versions.md runs as it is written, from top to bottom."""

import re
import subprocess
import sys
from pathlib import Path

DOC = (Path(__file__).resolve().parents[1] / "docs" / "versions.md").read_text()


def test_the_code_runs_from_top_to_bottom(tmp_path):
    code = "\n".join(re.findall(r"```python\n(.*?)```", DOC, re.DOTALL))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "CompactReport(would make" in done.stdout
    assert "VacuumReport(would remove" in done.stdout
    assert "train-07" in done.stdout
