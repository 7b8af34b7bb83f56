"""The benchmark of approximate search runs from data to verdict and picture, on few rows."""

import json
import subprocess
import sys
from pathlib import Path

ANN = Path(__file__).resolve().parents[1] / "benchmarks" / "ann.py"


def test_recall_is_measured_beside_faiss(tmp_path):
    report, picture = tmp_path / "ann.json", tmp_path / "recall.png"
    line = "--only made-up --rows 2000 --rounds 1 --batches 1000 --no-filters --clock cpu"
    told = [*line.split(), "--systems", "gpuvec_exact,faiss_ivf,svs", "--peers", "/no/python"]
    paths = ["--scratch", str(tmp_path), "--json", str(report), "--plot", str(picture)]
    done = subprocess.run(
        [sys.executable, str(ANN), *told, *paths], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(report.read_text())["data"].values()
    assert set(found["parts"]) == {"faiss_hnsw", "gpuvec_exact", "faiss_ivf"}
    assert list(found["skipped"]) == ["svs"]
    assert found["parts"]["gpuvec_exact"]["sweep"]["points"][0]["recall"] == 1.0
    recalls = [point["recall"] for point in found["parts"]["faiss_ivf"]["sweep"]["points"]]
    assert recalls == sorted(recalls)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "recall@10 >= 0.99, queries in batches of 1,000" in done.stdout
