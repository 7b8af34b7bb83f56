"""The folders, the build table and the links must tell one story."""

import ast
import re
import subprocess
import sys
import tomllib
from itertools import chain
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


def imported_by_the_product() -> dict[str, str]:
    """Return what modules other than the test kit import from outside, with one that does."""
    found: dict[str, str] = {}
    for path in (path for home in HOMES.values() for path in (ROOT / home).rglob("*.py")):
        if "testing" in path.parts:
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body.clear()
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found.update((name.partition(".")[0], str(path.relative_to(ROOT))) for name in names)
    return {k: v for k, v in found.items() if k not in {*sys.stdlib_module_names, "gpuvec"}}


def test_what_the_product_imports_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {n: wanted for n, wanted in project["optional-dependencies"].items() if n != "dev"}
    declared = {
        re.split(r"[^\w-]", wanted)[0].replace("-", "_")
        for wanted in chain(project["dependencies"], *extras.values())
    }
    brought = {"pydantic": "pydantic_settings", "llvmlite": "numba", "botocore": "s3fs"}
    brought |= {"cupy": "cupy_cuda12x", "cudf": "cudf_cu12", "pylibcudf": "pylibcudf_cu12"}
    brought |= {name: f"{name}_cu12" for name in ("kvikio", "rmm", "cuvs")}
    brought |= {"opentelemetry": "opentelemetry_api"}
    brought |= {"tornado": "distributed", "yaml": "dask", "pynvml": "dask_cuda"}
    for name, where in imported_by_the_product().items():
        assert brought.get(name, name) in declared, f"{where} imports {name}"


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
