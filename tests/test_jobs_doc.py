"""The code of docs/jobs.md runs as it is written, and its description of a job is one."""

import re
import subprocess
import sys
from pathlib import Path

from gpuvec.api.job_file import FIELDS, read_job_file

DOC = (Path(__file__).resolve().parents[1] / "docs" / "jobs.md").read_text()


def test_the_code_runs_from_top_to_bottom(tmp_path):
    code = "\n".join(re.findall(r"```python\n(.*?)```", DOC, re.DOTALL))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "done, 100%" in done.stdout


def test_the_description_of_a_job_can_be_read(tmp_path):
    (tmp_path / "job.yaml").write_text(re.findall(r"```yaml\n(.*?)```", DOC, re.DOTALL)[0])
    assert read_job_file(tmp_path / "job.yaml").database == "./store"


def test_every_field_is_named():
    assert all(f"`{name}`" in DOC for name in FIELDS)
