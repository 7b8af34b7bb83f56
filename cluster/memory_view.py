"""Memory of the workers by tier, from what they send with their heartbeats."""

from typing import Any

from gpuvec.cluster.charts import Bar
from gpuvec.cluster.metrics import KEY
from gpuvec.cluster.view import Line, columns

MEMORY = columns(
    ("worker", "Worker", "text", 160),
    ("tier", "Memory", "text", 160),
    ("bytes", "In use", "bytes", 120),
    ("of", "Of", "bytes", 120),
)
_TIERS = {
    "host": "host: derived of segments",
    "disk": "local disk: cache of files",
}
_PARTS = {
    "frames": "columns",
    "bits": "rows that pass",
    "scratch": "searches under way",
    "other": "other libraries and processes",
}


def memory_lines(scheduler: Any) -> list[Line]:
    """Return a line for each worker and memory, device memory first."""
    found = []
    for worker in scheduler.workers.values():
        sent = worker.metrics.get(KEY) or {}
        device = (worker.extra or {}).get("gpu") or {}
        if (used := (worker.metrics.get("gpu") or {}).get("memory-used")) is not None:
            tier = f"device: {device.get('name', 'GPU')}"
            found.append((0, str(worker.name), tier, used, device.get("memory-total") or 0))
        for name, labels, value, _ in sent.get("readings") or ():
            if name == "gpuvec_device_bytes":
                part = _PARTS.get(labels[1], labels[1])
                found.append((1, str(worker.name), f"device: {part}", value, 0))
            if name == "gpuvec_memory_bytes":
                tier = _TIERS.get(labels[0], labels[0])
                found.append((2, str(worker.name), tier, value, 0))
        limit = worker.memory_limit or 0
        used = worker.metrics.get("memory", 0)
        found.append((3, str(worker.name), "process", used, limit))
    keys = ("worker", "tier", "bytes", "of")
    return [dict(zip(keys, line, strict=True)) for _, *line in sorted(found)]


def memory_bars(scheduler: Any) -> list[Bar]:
    """Return the same as bars."""
    return [
        Bar(f"{line['worker']}: {line['tier']}", line["bytes"], line["of"])
        for line in memory_lines(scheduler)
    ]
