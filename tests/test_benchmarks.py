"""The benchmarks run from data to verdict, on few rows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ANN = Path(__file__).resolve().parents[1] / "benchmarks" / "ann.py"
STORAGE = ANN.with_name("storage.py")


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


@pytest.mark.slow
def test_storage_is_measured_in_a_folder_and_in_a_bucket(tmp_path):
    report = tmp_path / "storage.json"
    line = "--rows 600 --bucket-rows 200 --batch 100 --tail-rows 50 --queries 5 --rounds 1"
    told = [*line.split(), "--latency-ms", "0", "--peers", "/no/python", "--out", str(report)]
    done = subprocess.run(
        [sys.executable, str(STORAGE), *told], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert "left out: lancedb" in done.stderr
    found = json.loads(report.read_text())
    local, bucket = found["local"]["gpuvec"], found["bucket"]["gpuvec"]
    assert local["recall"] == bucket["recall"] == 1.0
    assert local["lost_rows"] == 0
    assert 1 < local["write_amplification"] < 5
    assert local["syncs_per_write"] >= 1 or local["syncs_per_write"] != local["syncs_per_write"]
    assert bucket["cached_requests"] <= bucket["cold_requests"]


def test_imports_are_measured_beside_a_plain_read(tmp_path):
    script, report = ANN.with_name("bench_import.py"), tmp_path / "import.json"
    line = "--rows 600 --dim 8 --files 2 --rounds 1"
    told = [*line.split(), "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(script), *told, "--out", str(report)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    lines = {line["what"]: line for line in json.loads(report.read_text())["lines"]}
    assert lines["pyarrow read"]["cpu_of_pyarrow_read"] == 1.0
    assert lines["bulk_import, 4 channels"]["rows_per_cpu_s"] > 0
    assert lines["external, second search"]["wall_s"] > 0


@pytest.mark.usefixtures("rehearsed")
def test_gpu_rows_are_measured_with_recall_and_what_is_missing_is_named(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ANN.parents[1]))
    from benchmarks import gpu
    from benchmarks.gpu_report import measure

    report = measure(gpu.SECTIONS, gpu.SMALL)
    rows = [row for row in report["rows"] if "skipped" not in row]
    assert {row["row"] for row in rows} == {
        "exact batch", "exact, few queries", "filtered batch", "exact batch by stored type",
        "many segments", "segment to the card",
    }  # fmt: skip
    assert all(row.get("recall", 1.0) == 1.0 for row in rows)
    missing = [row["skipped"] for row in report["rows"] if "skipped" in row]
    assert missing
    assert all("cuvs" in text or "FAISS" in text for text in missing)
    assert report["machine"]["card"] == "rehearsed"
