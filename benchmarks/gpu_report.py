"""What GPU benchmarks share: sections run on one card, rows printed as they come, a JSON report."""

import argparse
import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_ceilings import ceilings
from gpuvec.device.detect import resolve_device

LIBRARIES = (
    "gpuvec", "cupy-cuda12x", "cupy-cuda13x", "cudf-cu12", "cudf-cu13", "cuvs-cu12", "cuvs-cu13",
    "faiss-gpu", "faiss-gpu-cuvs", "rmm-cu12", "rmm-cu13", "torch", "numpy",
)  # fmt: skip
Row = dict[str, Any]
Ceilings = dict[str, Any]
Sections = Mapping[str, Callable[..., Iterator[Row]]]  # each is given the ceilings and its sizes


def numbers(value: Any) -> Any:
    """Return a row as JSON takes it."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    return float(np.round(value, 6)) if isinstance(value, float | np.floating) else value


def machine() -> dict[str, Any]:
    """Return the card, its driver, and the versions of what is used."""
    import cupy

    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
    return {
        "card": properties["name"].decode(),
        "memory GiB": properties["totalGlobalMem"] / 2**30,
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "runtime": cupy.cuda.runtime.runtimeGetVersion(),
        "python": platform.python_version(), "libraries": found,
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip


def measure(
    sections: Sections, sizes: Mapping[str, Any], only: list[str] | None = None
) -> dict[str, Any]:
    """Run sections and return a report; prints each row as it comes.

    Args:
        sections: by name.
        sizes: of each, as keyword arguments, and of "ceilings".
        only: names; None: all.
    """
    card = ceilings(**sizes["ceilings"])
    print(json.dumps(numbers(card)), flush=True)
    rows = []
    for name, section in sections.items():
        if only is None or name in only:
            for row in section(card, **sizes[name]):
                rows.append(numbers(row))
                print(json.dumps(rows[-1]), flush=True)
    return {"machine": machine(), "ceilings": numbers(card), "rows": rows}


def run(about: str, sections: Sections, *, large: Mapping[str, Any], small: Any) -> None:
    """Be a benchmark's command line.

    Args:
        about: its docstring.
        sections: see `measure`.
        large: sizes; `small`: those of `--small`.
    """
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", type=lambda text: text.split(","))
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    resolve_device("gpu")  # says what is missing
    report = measure(sections, small if told.small else large, told.only)
    print(json.dumps(report["machine"]))
    if told.json:
        told.json.write_text(json.dumps(report, indent=1) + "\n")
