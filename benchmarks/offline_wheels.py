"""Download what gpuvec and its tests need for a host that has a GPU stack but no network.

    python benchmarks/offline_wheels.py --python 3.12 --folder .wheels --has "numpy pyarrow ..."

Packages are resolved for the host's Python, not for the one that runs this. `--has` names those
that the host has already (`pip list` there tells): they are left out. On the host,
`pip install --no-index --no-deps --target SITE FOLDER/*.whl` and `PYTHONPATH=SITE:.`.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path

TESTS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (39, 35, 34, 31, 28, 27, 24, 17, 12, 5)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]


def requirements(folder: Path) -> list[str]:
    """Return what pyproject.toml wants for every machine, and the test tools."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *TESTS]


def plain(name: str) -> str:
    """Return a package's name as files and metadata may spell it differently."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--python", default="3.12")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--has", default="", help="packages that the host has")
    told = parser.parse_args()
    told.folder.mkdir(parents=True, exist_ok=True)
    places = [word for platform in PLATFORMS for word in ("--platform", platform)]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
         "--only-binary=:all:", "--implementation=cp", f"--python-version={told.python}", *places,
         f"--dest={told.folder}", *requirements(Path(__file__).resolve().parents[1])],
        check=True,
    )  # fmt: skip
    has = {plain(name) for name in told.has.split()}
    for wheel in sorted(told.folder.glob("*.whl")):
        if plain(wheel.name.split("-")[0]) in has:
            wheel.unlink()
    kept = sorted(told.folder.glob("*.whl"))
    print(f"{len(kept)} wheels, {sum(wheel.stat().st_size for wheel in kept) / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
