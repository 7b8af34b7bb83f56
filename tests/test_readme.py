"""The README's first five minutes run as they are written."""

import re
import subprocess
import sys
from pathlib import Path

README = (Path(__file__).resolve().parents[1] / "README.md").read_text()


def test_the_first_five_minutes_run(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "k=3 cosine exact" in done.stdout


def test_the_commands_of_the_readme_are_targets_of_the_makefile():
    targets = (Path(__file__).resolve().parents[1] / "Makefile").read_text()
    for name in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{name}: " in targets
