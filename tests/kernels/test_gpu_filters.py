"""The benchmark of filters, rehearsed on few rows."""

from pathlib import Path


def test_each_condition_is_measured_beside_the_bandwidth(rehearsed, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    from benchmarks import gpu_filters

    rows = list(gpu_filters.filters({"copy GB/s": 10.0}, **gpu_filters.SMALL["filters"]))
    assert [row["condition"] for row in rows] == list(gpu_filters.CONDITIONS)
    assert all(row["share of copy"] > 0 for row in rows)
