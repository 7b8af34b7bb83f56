"""Approximate search: recall against queries per second, gpuvec beside other libraries, in one run.

    python benchmarks/ann.py --data FOLDER [--threads N] [--peers PYTHON] [--plot docs/recall.png]

FOLDER holds the full debian-packages data set; without it and GPUVEC_DATA the sample is taken.
A second set of a million clustered rows is made up. Every library runs in a process of its own, in
alternating rounds, its parameters swept; medians are taken, by wall time and by CPU time. Recall@10
counts ties and is taken against exact truth. `make peers` installs the libraries beside FAISS.

Data, indexes and what was measured of other libraries stay in --scratch: a later run measures only
gpuvec and FAISS HNSW, to which all others are scaled. `--again` names systems to measure anew.
"""

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import ann_data
import llvmlite.binding
import numpy as np
from ann_faiss import FAISS
from ann_ours import OURS
from ann_peers import PEERS
from ann_report import plot, print_report
from ann_run import BATCHES, YARDSTICK, Plan, measure

from gpuvec.api.datasets import debian_folder

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "ann.json"
PEERS_PYTHON = HERE.parent / ".venv-peers" / "bin" / "python"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of debian-packages")
    parser.add_argument("--only", choices=["debian", "made-up"])
    parser.add_argument("--rows", type=int, default=1_000_000, help="that are made up")
    parser.add_argument("--systems", help=f"of: {' '.join([*OURS, *FAISS, *PEERS])}")
    parser.add_argument("--again", default="", help="systems to measure though they are known")
    parser.add_argument("--peers", default=str(PEERS_PYTHON), help="Python of the libraries")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", default="1,100,1000,10000")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="of ratios")
    parser.add_argument("--no-filters", action="store_true")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir(), "gpuvec-ann"))
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--plot", type=Path, help="a picture to write")
    parser.add_argument("--only-report", action="store_true", help="of --json, nothing is run")
    return parser.parse_args()


def machine(threads: int, rounds: int) -> dict[str, Any]:
    git = ["git", "-C", str(HERE), "describe", "--always", "--dirty", "--abbrev=12"]
    return {
        "processor": llvmlite.binding.get_host_cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "rounds": rounds,
        "load": os.getloadavg()[0],
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip(),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def run(args: argparse.Namespace) -> dict[str, Any]:
    plan = Plan(
        scratch=args.scratch,
        peers=args.peers,
        threads=args.threads,
        rounds=args.rounds,
        batches={int(size): BATCHES[int(size)] for size in args.batches.split(",")},
        masked=not args.no_filters,
        again=frozenset(args.again.split(",")),
    )
    report: dict[str, Any] = {"machine": machine(args.threads, args.rounds), "data": {}}
    keys = args.systems.split(",") if args.systems else [*OURS, *FAISS, *PEERS]
    keys = [YARDSTICK, *(key for key in keys if key != YARDSTICK)]
    for title, home in sets(args):
        print(f"{title}: {home}")
        start = time.perf_counter()
        parts, skipped = measure(home, keys, plan)
        seconds = time.perf_counter() - start
        report["data"][title] = {"parts": parts, "skipped": skipped, "seconds": seconds}
    return report


def sets(args: argparse.Namespace) -> list[tuple[str, Path]]:
    """Prepare the data; returns titles and folders."""
    folder, found = args.data or debian_folder(), []
    if args.only != "made-up":
        stored = ann_data.column(folder / "packages.parquet", "vector")
        name = f"debian-{len(stored)}"
        home = ann_data.prepare(name, partial(ann_data.debian_packages, folder), args.scratch)
        found.append((f"debian-packages, {len(stored):,} x {stored.shape[1]}, real text", home))
    if args.only != "debian":
        name = f"made-up-{args.rows}"
        home = ann_data.prepare(name, partial(ann_data.made_up, args.rows), args.scratch)
        found.append((f"{args.rows:,} x 128, clustered", home))
    return found


def main() -> None:
    args = arguments()
    clock = "per_s" if args.clock == "wall" else "cpu_per_s"
    report = json.loads(args.json.read_text()) if args.only_report else run(args)
    print(json.dumps(report["machine"]))
    for title, found in report["data"].items():
        print_report(title, found["parts"], found["skipped"], clock)
    if not args.only_report:
        args.json.parent.mkdir(exist_ok=True)
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    if args.plot:
        plot(report, args.plot, clock)


if __name__ == "__main__":
    main()
