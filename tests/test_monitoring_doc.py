"""docs/monitoring.md names what there is, and its code runs."""

import re
import subprocess
import sys
from pathlib import Path

from gpuvec import telemetry
from gpuvec.cluster.dashboard import PAGES

ROOT = Path(__file__).resolve().parents[1]
DOC = (ROOT / "docs" / "monitoring.md").read_text()


def test_every_metric_is_listed_with_kind_labels_and_meaning():
    listed = re.findall(r"^\| `(gpuvec_\w+)` \| (\w+) \| ([\w, ]*) \| (.+) \|$", DOC, re.MULTILINE)
    there = [(m.name, m.kind, ", ".join(m.labels), m.meaning) for m in telemetry.METERS]
    assert listed == there


def test_rules_for_alerts_name_metrics_that_there_are():
    [rules] = re.findall(r"```yaml\n(.*?)```", DOC, re.DOTALL)
    names = set(re.findall(r"gpuvec_\w+", rules))
    assert names
    assert names <= {m.name for m in telemetry.METERS}


def test_every_page_is_listed_and_its_picture_is_there():
    assert re.findall(r"\| `/gpuvec-([\w-]+)` \|", DOC) == [spec.name for spec in PAGES]
    for picture in re.findall(r"!\[\]\(([\w.-]+)\)", DOC):
        assert (ROOT / "docs" / picture).is_file()


def test_the_code_runs(tmp_path):
    [code] = re.findall(r"```python\n(.*?)```", DOC, re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "flush collection=items rows=1" in done.stdout
