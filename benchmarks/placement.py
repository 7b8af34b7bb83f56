"""What coordination costs: placing segments, losing and adding nodes, on the coordinator's CPU.

    python -m benchmarks.placement [--nodes 1000] [--segments 10000] [--write]

Nodes obey at once and report twice a second; only the coordinator's own time is counted.
"""

import argparse
import json
import pickle
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpuvec.cluster_messages import Hello, LoadSegments, NodeReport, Own, ReleaseSegments
from gpuvec.coord.cluster_coord import ClusterCoord, Command, SegmentSize
from gpuvec.types import NodeId, SegmentId

RESULTS = Path(__file__).parent / "results" / "placement.json"
_MB = 1 << 20
_STEP_S = 0.5
_SEGMENTS_OF_COLLECTION = 100


@dataclass
class Spent:
    """CPU seconds of the coordinator in one stage."""

    reconcile_s: list[float] = field(default_factory=list)
    report_s: list[float] = field(default_factory=list)  # of all reports of one round
    commands: int = 0
    moved: int = 0  # segments in load commands
    delta_bytes: int = 0

    def summary(self) -> dict[str, float]:
        """Return the figures of a stage."""
        return {
            "rounds": len(self.reconcile_s),
            "reconcile_ms_median": round(1000 * statistics.median(self.reconcile_s), 3),
            "reconcile_ms_max": round(1000 * max(self.reconcile_s), 3),
            "reconcile_ms_total": round(1000 * sum(self.reconcile_s), 3),
            "reports_ms_median": round(1000 * statistics.median(self.report_s), 3),
            "commands": self.commands,
            "segments_loaded": self.moved,
            "delta_bytes": self.delta_bytes,
        }


class Cluster:
    """Nodes that obey, and the coordinator whose time is taken."""

    def __init__(self, replicas: int) -> None:
        self.now_s = 100.0
        self.coord = ClusterCoord("db", 1, now_s=self.now_s, replicas=replicas, quarantine_s=0.0)
        self.held: dict[NodeId, dict[str, set[SegmentId]]] = {}
        self.owned: dict[NodeId, dict[str, int]] = {}
        self.reports: dict[NodeId, NodeReport] = {}

    def add(self, names: list[str]) -> None:
        """Let nodes join, eight to a machine."""
        for name in names:
            node = NodeId(name)
            host = f"host-{int(name[1:]) // 8}"
            self.held[node], self.owned[node] = {}, {}
            self.coord.note_hello(
                Hello(
                    node=node, incarnation=f"{name}@1", address=f"tcp://{name}:1", host=host,
                    memory_bytes=40 * 1024 * _MB, threads=8,
                ),
                self.now_s,
            )  # fmt: skip
            self._say(node)

    def kill(self, names: list[str]) -> None:
        """Let nodes be lost."""
        for name in names:
            node = NodeId(name)
            for known in (self.held, self.owned, self.reports):
                del known[node]
            self.coord.note_lost(node, f"{name}@1", self.now_s)

    def run(self, seconds: float) -> Spent:
        """Report, decide and obey for so long."""
        spent = Spent()
        for _ in range(round(seconds / _STEP_S)):
            begun = time.process_time()
            for report in self.reports.values():
                self.coord.note_report(report, self.now_s)
            reported = time.process_time()
            commands = self.coord.reconcile(self.now_s)
            delta = self.coord.take_delta()
            spent.reconcile_s.append(time.process_time() - reported)
            spent.report_s.append(reported - begun)
            spent.delta_bytes += len(pickle.dumps(delta, 5)) if delta else 0
            self._obey(commands, spent)
            self.now_s += _STEP_S
        return spent

    def _obey(self, commands: list[Command], spent: Spent) -> None:
        told = set()
        for command in commands:
            message = command.message
            spent.commands += 1
            told.add(command.node)
            match message:
                case LoadSegments():
                    found = self.held[command.node].setdefault(message.collection_id, set())
                    found.update(message.segments)
                    spent.moved += len(message.segments)
                case ReleaseSegments():
                    self.held[command.node][message.collection_id].difference_update(
                        message.segments
                    )
                case Own():
                    self.owned[command.node][message.collection_id] = message.term
            self.coord.note_done(command)
        for node in told:
            self._say(node)

    def _say(self, node: NodeId) -> None:
        held = {name: tuple(sorted(found)) for name, found in self.held[node].items() if found}
        self.reports[node] = NodeReport(
            node=node, incarnation=f"{node}@1", held={"db": held}, owned={"db": self.owned[node]}
        )


def measure(nodes: int, segments: int, replicas: int) -> dict[str, Any]:
    """Place, lose, add; return what each stage took."""
    cluster = Cluster(replicas)
    cluster.add([f"n{n:04d}" for n in range(nodes)])
    for start in range(0, segments, _SEGMENTS_OF_COLLECTION):
        name = f"c{start // _SEGMENTS_OF_COLLECTION}"
        sizes = {
            SegmentId(f"{n:026d}"): SegmentSize(256 * _MB + 7919 * n % (512 * _MB), 1_000_000)
            for n in range(start, min(segments, start + _SEGMENTS_OF_COLLECTION))
        }
        cluster.coord.note_collection(name, sizes, cluster.now_s)
        cluster.coord.want_owner(name, cluster.now_s)
    stages: dict[str, Any] = {}

    def stage(name: str, seconds: float, before: Callable[[], object] = lambda: None) -> None:
        begun = time.process_time()
        before()
        noted_s = time.process_time() - begun
        spent = cluster.run(seconds)
        stages[name] = {"noted_ms": round(1000 * noted_s, 3), **spent.summary()}

    stage("place all", 30)
    stage("steady", 30)
    stage("lose 10 nodes", 30, lambda: cluster.kill([f"n{n:04d}" for n in range(10)]))
    stage("steady with 10 nodes fewer", 30)
    stage("add 10 nodes", 120, lambda: cluster.add([f"n{nodes + n:04d}" for n in range(10)]))
    stage("lose a machine of 8", 30, lambda: cluster.kill([f"n{n:04d}" for n in range(16, 24)]))
    begun = time.process_time()
    whole = cluster.coord.whole_routes()
    routes_s = time.process_time() - begun
    data = pickle.dumps(whole, 5)
    copies = [len(found) for routes in whole.segments.values() for found in routes.values()]
    used = [sum(map(len, held.values())) for held in cluster.held.values()]
    begun = time.process_time()
    cluster.coord.state()
    return {
        "stages": stages,
        "whole_routes": {"bytes": len(data), "make_ms": round(1000 * routes_s, 3)},
        "state_ms": round(1000 * (time.process_time() - begun), 3),
        "segments_with_all_copies": sum(count >= replicas for count in copies),
        "segments_of_a_node": {"least": min(used), "most": max(used)},
    }


def main() -> None:
    """Measure, print, and with `--write` keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--segments", type=int, default=10_000)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    found = measure(given.nodes, given.segments, given.replicas)
    for name, stage in found["stages"].items():
        print(
            f"{name:28} reconcile median {stage['reconcile_ms_median']:8.2f} ms, "
            f"max {stage['reconcile_ms_max']:8.1f}, total {stage['reconcile_ms_total']:8.1f}; "
            f"noted {stage['noted_ms']:7.1f}; "
            f"reports of a round {stage['reports_ms_median']:6.2f}; "
            f"{stage['segments_loaded']} loads, {stage['delta_bytes']:,} bytes of deltas"
        )
    rest = {name: value for name, value in found.items() if name != "stages"}
    print(json.dumps(rest, indent=1))
    if given.write:
        setting = {"nodes": given.nodes, "segments": given.segments, "replicas": given.replicas}
        python = sys.version.split()[0]
        kept = {"command": "python -m benchmarks.placement --write", "python": python}
        RESULTS.write_text(json.dumps({**kept, **setting, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
