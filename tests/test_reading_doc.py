"""docs/reading-on-a-cluster.md: its code runs, and it names the settings that there are."""

import re
import subprocess
import sys
from pathlib import Path

from gpuvec.proxy.consistency import Consistency
from gpuvec.settings import DEFAULTS

DOC = (Path(__file__).resolve().parents[1] / "docs" / "reading-on-a-cluster.md").read_text()


def test_the_code_runs_from_top_to_bottom(tmp_path):
    code = "\n".join(re.findall(r"```python\n(.*?)```", DOC, re.DOTALL))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_settings_and_their_defaults_are_those_that_there_are():
    told = dict(re.findall(r"^\| `([\w.]+)` \| `?\"?([\w.]+)\"?`? \|", DOC, re.MULTILINE))
    assert {"consistency", "staleness_s", "cluster.wait_s"} <= set(told)
    for name, default in told.items():
        assert str(DEFAULTS[name]).removesuffix(".0") == default


def test_every_level_is_told():
    assert re.findall(r"^\| `\"(\w+)\"`", DOC, re.MULTILINE) == [
        str(level) for level in Consistency
    ]
