"""Measures systems side by side: one process each, alternating rounds, medians.

What was measured of a library is kept by data and threads, beside the figures of the yardstick in
that run; a later run need only measure what changed, with the yardstick, and scales the rest.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

YARDSTICK = "faiss_hnsw"
FILTERED = (YARDSTICK, "faiss_ivf", "gpuvec", "gpuvec_ivf_index")
TARGETS = (0.95, 0.99)
BATCHES = {1: 300, 100: 1_000, 1_000: 1_000, 10_000: 10_000}  # queries of a call, of a round
SLOW_S = 6.0  # longer rounds are fewer
FAILED = {"wall_s": 1e9, "cpu_s": 1e9, "recall": 0.0, "recall_error": 0.0}
HERE = Path(__file__).parent

Part = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run does, and where.

    Attributes:
        scratch: folder of data, indexes and what was measured.
        peers: the Python that has the other libraries.
        threads: of each system.
        rounds: of each measurement.
        batches: as `BATCHES`.
        masked: whether to measure filters too.
        again: systems to measure although they are known.
    """

    scratch: Path
    peers: str
    threads: int
    rounds: int
    batches: dict[int, int]
    masked: bool
    again: frozenset[str]


class Process:
    """A system in its own process; `search` and the others ask it."""

    def __init__(self, key: str, home: Path, plan: Plan) -> None:
        ours = key.startswith(("faiss", "gpuvec"))
        env = {name: v for name, v in os.environ.items() if not name.startswith("OPENBLAS_")}
        env["OMP_NUM_THREADS"] = str(plan.threads)
        index = plan.scratch / "index" / home.name / key
        self.log = plan.scratch / f"{key}.log"
        self._process = subprocess.Popen(
            [sys.executable if ours else plan.peers, str(HERE / "ann_worker.py"), key, str(home),
             str(index), str(plan.threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log.open("w"), text=True,
            bufsize=1, env=env,
        )  # fmt: skip
        try:
            self.hello = self._read()
        except RuntimeError:
            self.close()
            raise

    def ask(self, do: str, **told: Any) -> Any:
        """Send a command, wait for its answer.

        Raises:
            RuntimeError: the system failed, or its process ended.
        """
        self._process.stdin.write(json.dumps({"do": do, **told}) + "\n")
        return self._read()

    def _read(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"its process ended with {self._process.wait()}; see {self.log}")
        answer = json.loads(line)
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def measure(home: Path, keys: Sequence[str], plan: Plan) -> tuple[dict[str, Part], dict[str, str]]:
    """Measure systems on one data set.

    Returns:
        By system what was measured, and by system why it was left out.
    """
    skipped: dict[str, str] = {}
    parts: dict[str, Part] = {}
    wanted = [key for key in keys if key == YARDSTICK or not _known(home, key, plan)]
    with _started(wanted, home, plan, skipped) as running:
        for key, process in running.items():
            start = time.perf_counter()
            try:
                built = process.ask("build")
                settings = process.ask("settings")
            except RuntimeError as error:
                skipped[key] = str(error)
                continue
            parts[key] = {"name": process.hello["name"], "build": built, "settings": settings,
                          "masks": process.hello["masks"]}  # fmt: skip
            print(f"  {process.hello['name']}: ready in {time.perf_counter() - start:.1f} s")
        _sweep(running, parts, plan)
        _focus(running, parts, plan)
        if plan.masked:
            _filter(running, parts, plan, home)
    yard = parts.get(YARDSTICK)
    for key, part in parts.items():
        part["yardstick"] = None if yard is None else yard["sweep"] | {"batches": yard["batches"]}
        _path(home, key, plan).write_text(json.dumps(part))
    for key in keys:
        if key not in parts and key not in skipped:
            parts[key] = json.loads(_path(home, key, plan).read_text())
    return parts, skipped


def _path(home: Path, key: str, plan: Plan) -> Path:
    folder = plan.scratch / "parts" / home.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{key}-{plan.threads}.json"


def _known(home: Path, key: str, plan: Plan) -> bool:
    mine = key.startswith("gpuvec") or key in plan.again
    return not mine and _path(home, key, plan).is_file()


@contextlib.contextmanager
def _started(
    keys: Sequence[str], home: Path, plan: Plan, skipped: dict[str, str]
) -> Iterator[dict[str, Process]]:
    running: dict[str, Process] = {}
    try:
        for key in keys:
            try:
                running[key] = Process(key, home, plan)
            except (RuntimeError, OSError) as error:
                skipped[key] = str(error)
        yield running
    finally:
        for process in running.values():
            process.close()


def _rounds(
    running: dict[str, Process], cases: Sequence[tuple[str, Any, dict[str, Any]]], plan: Plan
) -> dict[tuple[str, Any], Part]:
    """Run every case once a round; return medians by system and name of the case."""
    seen: dict[tuple[str, Any], list[Part]] = {}
    for turn in range(plan.rounds):
        for key, name, told in cases:
            before = seen.setdefault((key, name), [])
            if turn > 1 and before[0]["wall_s"] > SLOW_S:
                continue
            try:
                before.append(running[key].ask("search", **told))
            except (RuntimeError, OSError) as error:
                print(f"  {key} failed at {told}: {error}")
                before.append(FAILED)
    return {at: _median(answers) for at, answers in seen.items()}


def _median(answers: Sequence[Part]) -> Part:
    middle = {name: statistics.median(a[name] for a in answers) for name in answers[0]}
    walls = sorted(answer["wall_s"] for answer in answers)
    return middle | {"spread": walls[-1] / walls[0]}


def _point(setting: dict[str, Any], count: int, found: Part, threads: int) -> Part:
    return {
        "setting": setting,
        "recall": found["recall"],
        "recall_error": found["recall_error"],
        "per_s": count / found["wall_s"],
        "cpu_per_s": threads * count / found["cpu_s"],
        "spread": found["spread"],
    }


def _sweep(running: dict[str, Process], parts: dict[str, Part], plan: Plan) -> None:
    """Every setting of every system, 1,000 queries at once."""
    cases = [
        (key, at, {"setting": setting, "count": 1_000, "batch": 1_000})
        for key, part in parts.items()
        for at, setting in enumerate(part["settings"])
    ]
    found = _rounds(running, cases, plan)
    for key, part in parts.items():
        part["sweep"] = {"points": [
            _point(setting, 1_000, found[key, at], plan.threads)
            for at, setting in enumerate(part["settings"])
        ]}  # fmt: skip


def cheapest(points: Sequence[Part], target: float, clock: str = "per_s") -> Part | None:
    """Return the fastest point that reaches a target."""
    good = [point for point in points if point["recall"] >= target]
    return max(good, key=lambda point: point[clock], default=None)


def _focus(running: dict[str, Process], parts: dict[str, Part], plan: Plan) -> None:
    """The cheapest settings that reach the targets, in batches of several sizes.

    A system that takes targets is asked for them, whatever it then reaches.
    """
    chosen = {}
    for key, part in parts.items():
        for target in TARGETS:
            point = cheapest(part["sweep"]["points"], target, "cpu_per_s")
            if {"recall": target} in part["settings"]:
                chosen[key, target] = {"recall": target}
            elif point is not None:
                chosen[key, target] = point["setting"]
    for part in parts.values():
        part["batches"] = {str(size): {} for size in plan.batches}
    for size, count in plan.batches.items():
        cases = [
            (key, target, {"setting": setting, "count": count, "batch": size})
            for (key, target), setting in chosen.items()
        ]
        for (key, target), found in _rounds(running, cases, plan).items():
            point = _point(chosen[key, target], count, found, plan.threads)
            parts[key]["batches"][str(size)][str(target)] = point


def _filter(running: dict[str, Process], parts: dict[str, Part], plan: Plan, home: Path) -> None:
    """Settings of the systems that know masks, under each mask."""
    masks = sorted(path.stem.removeprefix("mask_") for path in home.glob("mask_*.npy"))
    masked = {key: part for key, part in parts.items() if key in FILTERED}
    plan = replace(plan, rounds=min(plan.rounds, 3))
    for part in masked.values():
        part["filtered"] = {}
    for mask in masks:
        cases = [
            (key, at, {"setting": setting, "count": 1_000, "batch": 1_000, "mask": mask})
            for key, part in masked.items()
            for at, setting in enumerate(part["settings"])
        ]
        found = _rounds(running, cases, plan)
        for key, part in masked.items():
            part["filtered"][mask] = [
                _point(setting, 1_000, found[key, at], plan.threads)
                for at, setting in enumerate(part["settings"])
            ]
