"""The GPU rows: searches on the card beside its ceilings, cuVS and FAISS, all in one run.

    python -m benchmarks.gpu [--small] [--only exact,few,filtered,types,segments,loading,graph]
                             [--json FILE]

Every ceiling is measured in the run that uses it; recall stands beside every speed; what a missing
library left out is named. `--small` takes sizes that also finish on a card that is only rehearsed.
"""

import argparse
import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import gpu_calls, gpu_rows
from benchmarks.gpu_ceilings import ceilings
from benchmarks.gpu_rows import Row, numbers
from gpuvec.device.detect import resolve_device

LIBRARIES = (
    "gpuvec", "cupy-cuda12x", "cupy-cuda13x", "cudf-cu12", "cudf-cu13", "cuvs-cu12", "cuvs-cu13",
    "faiss-gpu", "faiss-gpu-cuvs", "rmm-cu12", "rmm-cu13", "torch", "numpy",
)  # fmt: skip
LARGE: dict[str, Any] = {
    "exact": {"rows": 1_000_000, "dim": 768, "queries": 10_000},
    "few": {"rows": 2_000_000, "dim": 768},
    "filtered": {"rows": 1_000_000, "dim": 768, "queries": 4_096},
    "types": {"rows": 1_000_000, "dim": 256, "queries": 4_096},
    "segments": {"count": 1_000, "each": 10_000, "dim": 128, "queries": 1_024},
    "loading": {"rows": 1_000_000, "dim": 768},
    "graph": {"rows": 1_000_000, "dim": 128, "queries": 10_000},
    "ceilings": {},
}
SMALL: dict[str, Any] = {
    "exact": {"rows": 2_000, "dim": 64, "queries": 16},
    "few": {"rows": 1_000, "dim": 64},
    "filtered": {"rows": 2_000, "dim": 64, "queries": 16},
    "types": {"rows": 1_000, "dim": 64, "queries": 8},
    "segments": {"count": 4, "each": 200, "dim": 16, "queries": 4},
    "loading": {"rows": 20_000, "dim": 64},
    "graph": {"rows": 2_000, "dim": 16, "queries": 8},
    "ceilings": {"size": 64, "copied": 1 << 16},
}


def sections(card: dict[str, Any], sizes: dict[str, Any]) -> dict[str, Callable[[], Iterator[Row]]]:
    """Return what can be measured, by name."""
    return {
        "exact": lambda: gpu_rows.exact_batch(card, **sizes["exact"]),
        "few": lambda: gpu_rows.small_batches(card, **sizes["few"]),
        "filtered": lambda: gpu_rows.filtered(**sizes["filtered"]),
        "types": lambda: gpu_rows.types_of_rows(**sizes["types"]),
        "segments": lambda: gpu_calls.many_segments(**sizes["segments"]),
        "loading": lambda: gpu_calls.loading(card, **sizes["loading"]),
        "graph": lambda: gpu_calls.graph(**sizes["graph"]),
    }


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


def measure(sizes: dict[str, Any], only: list[str] | None = None) -> dict[str, Any]:
    """Run sections and return a report; prints each row as it comes."""
    card = ceilings(**sizes["ceilings"])
    print(json.dumps(numbers(card)), flush=True)
    rows = []
    for name, section in sections(card, sizes).items():
        if only is not None and name not in only:
            continue
        for row in section():
            rows.append(numbers(row))
            print(json.dumps(rows[-1]), flush=True)
    return {"machine": machine(), "ceilings": numbers(card), "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", type=lambda text: text.split(","))
    parser.add_argument("--json", type=Path)
    told = parser.parse_args()
    resolve_device("gpu")  # says what is missing
    report = measure(SMALL if told.small else LARGE, told.only)
    print(json.dumps(report["machine"]))
    if told.json:
        told.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
