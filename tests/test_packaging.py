"""The folders, the build table and the links must tell one story."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOMES = {"gpuvec": "gpuvec", "gpuvec.kernels": "kernels", "gpuvec.cluster": "cluster"}


def packages_on_disk() -> set[str]:
    found = set()
    for name, home in HOMES.items():
        for init in (ROOT / home).rglob("__init__.py"):
            inside = init.parent.relative_to(ROOT / home).parts
            if inside[:1] not in (("kernels",), ("cluster",)):  # the links, where rglob walks them
                found.add(".".join((name, *inside)))
    return found


def test_build_table_lists_every_package() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert set(table["packages"]) == packages_on_disk()
    assert table["package-dir"] == HOMES


@pytest.mark.parametrize("name", ["kernels", "cluster"])
def test_link_points_home(name: str) -> None:
    assert (ROOT / "gpuvec" / name).resolve() == ROOT / name


@pytest.mark.parametrize("name", ["kernels", "cluster", "tests", "benchmarks"])
def test_nothing_leaks_to_the_top_level(name: str, tmp_path: Path) -> None:
    probe = f"import importlib.util as u; raise SystemExit(u.find_spec({name!r}) is not None)"
    assert subprocess.run([sys.executable, "-c", probe], cwd=tmp_path).returncode == 0


def test_import_is_light(tmp_path: Path) -> None:
    heavy = [
        "numba",
        "pandas",
        "polars",
        "faiss",
        "matplotlib",
        "torch",
        "dask",
        "distributed",
        "cupy",
    ]
    found = f"', '.join(m for m in {heavy!r} if m in sys.modules)"
    probe = f"import gpuvec, sys; raise SystemExit({found} or None)"
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, f"import gpuvec brings in {done.stderr.strip()}"
