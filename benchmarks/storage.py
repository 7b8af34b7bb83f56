"""Storage beside LanceDB and milvus-lite, in one run: ingest, recovery, open, bytes, cold and warm.

    make peers
    env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE python benchmarks/storage.py [--rows 60000]

The vectors are those of debian-packages: GPUVEC_DATA names its folder, else the sample is taken.
Every part runs in a fresh process; systems take turns within each of the rounds; medians. The local
part runs on the disk of --folder, whose pages are dropped before a cold look; the bucket part on
moto behind a proxy that counts requests and answers each after --latency-ms. milvus-lite has no
buckets. Peers run under .venv-peers (or --peers), each missing one is named and left out.
Writes benchmarks/results/storage.json.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import ann_data
import numpy as np

from gpuvec.api.datasets import debian_folder
from gpuvec.testing.interceptor import Trouble, intercepted
from gpuvec.testing.servers import Server, moto_server

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "storage.json"
WORKER = HERE / "storage_worker.py"
SYSTEMS = ("gpuvec", "lancedb", "milvus-lite")
REMOTE = ("gpuvec", "lancedb")
K = 10


def main() -> None:
    args = arguments()
    with tempfile.TemporaryDirectory(dir=args.folder, prefix="storage-") as scratch:
        bench = Bench(args, Path(scratch))
        report = {
            "machine": f"{os.cpu_count()} cores, {platform.platform()}",
            "versions": bench.versions,
            "data": bench.about,
            "rounds": args.rounds,
            "local": bench.local(),
            "bucket": bench.bucket() if args.bucket_rows else {},
        }
    show(report)
    args.out.write_text(json.dumps(report, indent=1) + "\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--bucket-rows", type=int, default=10_000, help="0: no bucket part")
    parser.add_argument("--batch", type=int, default=10_000, help="rows of a bulk batch")
    parser.add_argument(
        "--tail-rows", type=int, default=1_000, help="in batches of 10, then a kill"
    )
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--latency-ms", type=float, default=10.0, help="of each request to moto")
    parser.add_argument("--folder", type=Path, default=None, help="on the disk to measure")
    parser.add_argument("--peers", type=Path, default=Path(".venv-peers/bin/python"))
    parser.add_argument("--only", nargs="*", default=SYSTEMS)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


class Bench:
    """The parts of the benchmark, on data that is written once."""

    def __init__(self, args: argparse.Namespace, scratch: Path) -> None:
        self.args = args
        self.scratch = scratch
        self.versions = {name: self._version(name) for name in args.only}
        self.systems = [name for name, version in self.versions.items() if version]
        self.about = self._write_data()
        self._numbers = iter(range(1_000_000))

    def _python(self, name: str) -> str:
        return sys.executable if name == "gpuvec" else str(self.args.peers)

    def _version(self, name: str) -> str | None:
        try:
            return self._worker("version", name, "", "{}")
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"left out: {name} ({type(error).__name__}); make peers", file=sys.stderr)
            return None

    def _write_data(self) -> dict[str, Any]:
        folder = debian_folder()
        rows = ann_data.column(folder / "packages.parquet", "vector").astype(np.float32)
        rows = rows[: self.args.rows]
        self.args.rows = len(rows)  # the sample may have fewer
        queries = ann_data.column(folder / "queries.parquet", "vector").astype(np.float32)
        queries = queries[: self.args.queries]
        self.raw_bytes = {"local": rows.nbytes}
        for place, count in {"local": len(rows), "bucket": self.args.bucket_rows}.items():
            home = self.scratch / place
            home.mkdir()
            part = rows[:count]
            np.save(home / "rows.npy", part)
            np.save(home / "queries.npy", queries)
            scores = queries.astype(np.float64) @ part.T.astype(np.float64)
            np.save(home / "kth.npy", -np.sort(-scores, axis=1)[:, K - 1])
            self.raw_bytes[place] = part.nbytes
        return {"rows": len(rows), "dim": rows.shape[1], "queries": len(queries), "k": K}

    def _worker(
        self, part: str, name: str, place: str, options: str, data: str = "local", *before: str
    ) -> Any:
        command = [self._python(name), str(WORKER), part, name, place, str(self.scratch / data)]
        done = subprocess.run(
            [*before, *command, options],
            capture_output=True, text=True, timeout=3600, check=False,
            env={**os.environ, "XDG_CACHE_HOME": str(self.scratch / "cache")},
        )  # fmt: skip
        if done.returncode not in (0, 9):
            print(done.stderr[-2000:], file=sys.stderr)
            done.check_returncode()
        return json.loads(done.stdout.splitlines()[-1])

    def _options(self, **more: Any) -> str:
        args = self.args
        options = {"batch": args.batch, "rows": args.rows, "repeats": 5, "singles": 50}
        options |= {"tail_rows": args.tail_rows, "tail_batch": 10, "storage_options": None}
        return json.dumps({**options, "index": False, "exact": True, **more})

    # A folder

    def local(self) -> dict[str, dict[str, float]]:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in self.systems}
        for name in self.systems:
            self._warm_up(name)
        for turn in range(self.args.rounds):
            for name in (
                self.systems[turn % len(self.systems) :] + self.systems[: turn % len(self.systems)]
            ):
                found[name].append(self._local_round(name))
                print(f"round {turn + 1}: {name}", file=sys.stderr)
        medians = {name: median(turns) for name, turns in found.items()}
        for name in self.systems:
            medians[name]["syncs_per_write"] = self._syncs(name)
        return medians

    def _warm_up(self, name: str) -> None:
        """Let libraries compile and cache what they do once on a machine."""
        place = self._place()
        self._worker("ingest", name, place, self._options(rows=2_000, batch=1_000, index=True))
        for exact in (True, False):
            self._worker("look", name, place, self._options(exact=exact, repeats=1, singles=1))
        shutil.rmtree(place)

    def _local_round(self, name: str) -> dict[str, float]:
        raw = self.raw_bytes["local"]
        place = self._place()
        made = self._worker("ingest", name, place, self._options())
        size = size_of(place)
        drop_pages(place)
        cold = self._worker("look", name, place, self._options())
        warm = self._worker("look", name, place, self._options())
        shutil.rmtree(place)
        indexed = self._indexed(name)
        return {
            "ingest_rows_s": self.args.rows / made["acknowledged_s"],
            "flushed_rows_s": self.args.rows / made["flushed_s"],
            "cpu_s": made["cpu_s"],
            "write_amplification": made["written"] / raw,
            "disk_over_raw": size / raw,
            "open_s": warm["counted_s"],
            "first_answer_s": warm["first_s"],
            "cold_s": cold["cold_s"],
            "warm_qps": self.args.queries / warm["warm_s"],
            "single_ms": warm["single_ms"],
            "recall": warm["recall"],
            **indexed,
            **self._recovery(name),
        }

    def _indexed(self, name: str) -> dict[str, float]:
        place = self._place()
        made = self._worker("ingest", name, place, self._options(index=True))
        size = size_of(place)
        drop_pages(place)
        cold = self._worker("look", name, place, self._options(exact=False))
        warm = self._worker("look", name, place, self._options(exact=False))
        shutil.rmtree(place)
        return {
            "build_s": made["build_s"],
            "indexed_over_raw": size / self.raw_bytes["local"],
            "indexed_cold_s": cold["cold_s"],
            "indexed_warm_qps": self.args.queries / warm["warm_s"],
            "indexed_single_ms": warm["single_ms"],
            "indexed_recall": warm["recall"],
        }

    def _recovery(self, name: str) -> dict[str, float]:
        """Kill a process with acknowledged writes that it saved nowhere on purpose; open again."""
        place = self._place()
        told = self._worker("tail", name, place, self._options())
        found = self._worker("look", name, place, self._options(repeats=1, singles=1))
        shutil.rmtree(place)
        return {
            "small_writes_s": told["rows"] / 10 / told["seconds"],
            "recovered_s": found["counted_s"],
            "lost_rows": told["rows"] - found["rows"],
        }

    def _syncs(self, name: str) -> float:
        """Return how often a process syncs per acknowledged small write."""
        if shutil.which("strace") is None:
            return float("nan")
        log, found = self.scratch / "strace", {}
        trace = ("strace", "-f", "-qq", "-o", str(log), "-e", "trace=fsync,fdatasync")
        for writes in (10, 60):  # what opening and creating cost falls out
            place = self._place()
            options = self._options(tail_rows=10 * writes)
            self._worker("tail", name, place, options, "local", *trace)
            shutil.rmtree(place)
            found[writes] = len(re.findall(r"(?:fsync|fdatasync)\(", log.read_text()))
        return (found[60] - found[10]) / 50

    def _place(self) -> str:
        return str(self.scratch / f"db{next(self._numbers)}")

    # A bucket

    def bucket(self) -> dict[str, dict[str, float]]:
        found: dict[str, list[dict[str, float]]] = {n: [] for n in REMOTE if n in self.systems}
        counts = Counted(self.args.latency_ms / 1000)
        with moto_server() as server, intercepted(server, counts.plan) as seen:
            for turn in range(self.args.rounds):
                for name in list(found)[:: 1 if turn % 2 == 0 else -1]:
                    found[name].append(self._bucket_round(name, seen, counts))
                    print(f"bucket, round {turn + 1}: {name}", file=sys.stderr)
        return {name: median(turns) for name, turns in found.items()}

    def _bucket_round(self, name: str, server: Server, counts: "Counted") -> dict[str, float]:
        rows, place = self.args.bucket_rows, server.new_url()
        options = self._options(
            rows=rows, batch=min(self.args.batch, rows // 4), storage_options=server.options
        )
        shutil.rmtree(self.scratch / "cache", ignore_errors=True)
        found = {}
        made, asked = counts.of(lambda: self._worker("ingest", name, place, options, "bucket"))
        found |= {"ingest_rows_s": rows / made["acknowledged_s"], "ingest_requests": asked}
        shutil.rmtree(self.scratch / "cache", ignore_errors=True)
        once = json.dumps({**json.loads(options), "repeats": 0, "singles": 0})
        for heat in ("cold", "cached"):  # the second process finds what the first kept on disk
            seen, asked = counts.of(lambda: self._worker("look", name, place, once, "bucket"))
            found |= {
                f"{heat}_open_s": seen["counted_s"],
                f"{heat}_first_answer_s": seen["first_s"],
                f"{heat}_batch_s": seen["cold_s"],
                f"{heat}_requests": asked,
            }
        seen, more = counts.of(lambda: self._worker("look", name, place, options, "bucket"))
        told = json.loads(options)
        return found | {
            "warm_qps": self.args.queries / seen["warm_s"],
            "single_ms": seen["single_ms"],
            "requests_per_search": (more - asked) / (told["repeats"] + told["singles"]),
            "recall": seen["recall"],
        }


class Counted:
    """Counts the requests that pass a proxy."""

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._count: Counter[str] = Counter()
        self._lock = threading.Lock()

    def plan(self, request: Any) -> Trouble:
        with self._lock:
            self._count[request.method] += 1
        return Trouble(delay_s=self._delay_s)

    def of(self, work: Any) -> tuple[Any, int]:
        with self._lock:
            self._count.clear()
        answer = work()
        with self._lock:
            return answer, self._count.total()


def median(turns: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(turn[key] for turn in turns) for key in turns[0]}


def files_in(place: str) -> list[Path]:
    return [path for path in Path(place).rglob("*") if path.is_file()]


def size_of(place: str) -> int:
    return sum(path.stat().st_size for path in files_in(place))


def drop_pages(place: str) -> None:
    """Write a folder's files to the disk, and let the system forget them."""
    for path in files_in(place):
        with path.open("rb") as file:
            os.fdatasync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def show(report: dict[str, Any]) -> None:
    print(report["machine"], report["data"], report["versions"], sep="\n")
    for part in ("local", "bucket"):
        figures = report[part]
        if not figures:
            continue
        print(f"\n{part:22}" + "".join(f"{name:>14}" for name in figures))
        for key in next(iter(figures.values())):
            cells = (f"{figures[name][key]:>14,.4g}" for name in figures)
            print(f"{key:22}" + "".join(cells))


if __name__ == "__main__":
    main()
