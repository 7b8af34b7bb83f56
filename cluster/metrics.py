"""Metrics of a cluster on Dask's own `/metrics`: the scheduler's shows those of all workers too.

Workers send their readings with each heartbeat. On the scheduler they have the label `worker`, on
the worker's own page they have not.
"""

import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from gpuvec import telemetry
from gpuvec.cluster import view
from gpuvec.exposition import Labelled, reading_of, register_meters

KEY = "gpuvec"  # of the workers' readings in their heartbeat
PROCESS = secrets.token_hex(8)  # tells workers that share the scheduler's process
# What every follower of a collection sees: the coordinator tells it once.
_TOLD_ONCE = frozenset({"gpuvec_segments", "gpuvec_segment_bytes"})


def watch_worker(worker: Any) -> Callable[[], None]:
    """Send a worker's readings with its heartbeats, show them on its `/metrics`; return the end."""
    worker.metrics[KEY] = lambda _: heartbeat()
    leave = register_meters(telemetry.METERS)

    def stop() -> None:
        worker.metrics.pop(KEY, None)
        leave()

    return stop


def heartbeat() -> dict[str, Any]:
    """Return what a worker sends: its process, and its readings as plain lists."""
    readings = [values for values in telemetry.snapshot() if values[0] not in _TOLD_ONCE]
    return {"process": PROCESS, "readings": readings}


def watch_scheduler(scheduler: Any, state: Callable[[], view.State]) -> Callable[[], None]:
    """Show readings of the workers and of the coordinator on the scheduler's `/metrics`."""

    def others() -> Iterable[Labelled]:
        yield from worker_readings(
            {str(w.name): w.metrics.get(KEY) or {} for w in scheduler.workers.values()}
        )
        yield from state_readings(state())

    return register_meters(telemetry.METERS, others)


def worker_readings(heartbeats: Mapping[str, Mapping[str, Any]]) -> Iterable[Labelled]:
    """Yield the readings of workers, by name; of those in one process once."""
    seen = {PROCESS}
    for worker, sent in heartbeats.items():
        process = str(sent.get("process"))
        if process not in seen:
            seen.add(process)
            for values in sent.get("readings") or ():
                yield {"worker": worker}, reading_of(values)


def state_readings(state: view.State) -> Iterable[Labelled]:
    """Yield what the coordinator knows."""
    for line in view.node_lines(state):
        node = line["node"]
        yield {}, telemetry.NODE_UP.at(float(line["status"] == "works"), node)
        yield {}, telemetry.NODE_QUEUE.at(line["queue"], node)
        yield {}, telemetry.NODE_LATENCY.at(line["latency_s"] or 0.0, node)
        yield {}, telemetry.NODE_MEMORY.at(line["memory_used"], node, "used")
        yield {}, telemetry.NODE_MEMORY.at(line["memory_bytes"], node, "limit")
        yield {}, telemetry.NODE_SEGMENTS.at(line["segments"], node)
        yield {}, telemetry.OWNED.at(line["owned"], node)
    for identity, count in view.missing_replicas(state).items():
        yield {}, telemetry.UNPLACED.at(count, identity)
    for identity, known in (state.get("databases") or {}).items():
        yield {}, telemetry.GENERATION.at(known.get("generation") or 0, identity)
    by_status: dict[str, int] = {}
    for line in view.job_lines(state):
        by_status[line["status"]] = by_status.get(line["status"], 0) + 1
    for status, count in by_status.items():
        yield {}, telemetry.JOBS.at(count, status)
